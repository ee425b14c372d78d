"""The listening Unix socket's file: made private from its first moment, never taken from a live server."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.errors import HostError

PATH_LIMIT = 107
"""Bytes that fit into sockaddr_un.sun_path beside the final zero (unix(7))."""


def clear_path(path: Path) -> None:
    """Make room for a new socket: create the folder (0700), remove a dead server's socket. Raises HostError."""
    if len(os.fsencode(path)) > PATH_LIMIT:
        raise HostError(f"{path}: longer than {PATH_LIMIT} bytes, the limit of a Unix socket's path: set a shorter one")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise HostError(f"{path}: cannot make room for the xDS socket: {error.strerror}") from error
    if not stat.S_ISSOCK(mode):
        raise HostError(f"{path}: is not a socket: move it away or set another xDS socket path")
    if _is_alive(path):
        raise HostError(f"{path}: another process serves on this socket: stop it first")
    path.unlink(missing_ok=True)


@contextmanager
def private_files() -> Iterator[None]:
    """Create files as 0600 within the block, which must not await: the umask belongs to the whole process."""
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)


def _is_alive(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError as error:
            raise HostError(f"{path}: cannot tell whether a server is alive there: {error}") from error
    return True
