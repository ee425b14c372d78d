"""The only writer of files: every file of hostmesh appears whole, private and durable, or not at all.

May not know what it writes.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from agent.errors import HostError


def write_atomic(path: Path | str, data: bytes, mode: int = 0o600) -> None:
    """Put the data at path so that a reader, also after a crash, sees the old content or the new, never a part.

    The temporary file begins with a dot: dnsmasq reads everything else in its hostsdir. Raises HostError.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _write_durable(temporary, data, mode)
        os.replace(temporary, path)
        sync_directory(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise HostError(f"{path}: cannot be written: {error.strerror or error}") from error


def read_optional(path: Path | str) -> bytes | None:
    """Return the file's content, or None if there is no such file; raises HostError if it can't be read."""
    try:
        return Path(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise HostError(f"{path}: cannot be read: {error.strerror or error}") from error


def sync_directory(path: Path) -> None:
    """Make the directory's entries durable (a rename is not, until its directory is synced); raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_durable(path: Path, data: bytes, mode: int) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)  # open() subtracts the umask
        file.write(data)
        file.flush()
        os.fsync(descriptor)
