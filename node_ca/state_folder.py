"""The state directory as a whole: one CA at a time works in it, and what a restore put there is taken in whole.

May not know what the files in it say.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from pathlib import Path

from node_ca.errors import ConfigError
from node_ca.private_file import sync_folder, write_private

LOCK_FILE = "lock"
REPLICA_FILE = "replica"
RESTORING, RESTORED = ".restoring", ".restored"
"""A restore under way, worth nothing; and one that is whole, and has only to be moved to its place."""


def lock_state(directory: Path) -> int:
    """Return a descriptor that holds the state directory; two CAs on one would be two owners of its serials.

    Raises ConfigError.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError([f"stateDir: {directory}: cannot be used: {error.strerror}"]) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise ConfigError([f"stateDir: {directory}: another hostmesh-ca is using it"]) from error
    return descriptor


def replica_name(directory: Path) -> str:
    """Return this CA's lasting name among several, made at the first call; raises ConfigError."""
    path = directory / REPLICA_FILE
    try:
        return path.read_text("ascii").strip()
    except FileNotFoundError:
        name = secrets.token_hex(8)
        write_private(path, name.encode())
        return name
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: cannot be read"]) from error


def finish_restore(directory: Path) -> None:
    """Move what was restored to its place, or forget a restore that was cut off; raises ConfigError."""
    try:
        shutil.rmtree(directory / RESTORING, ignore_errors=True)
        restored = directory / RESTORED
        if restored.is_dir():
            for path in sorted(restored.iterdir()):
                path.rename(directory / path.name)
            sync_folder(directory)
            restored.rmdir()
            sync_folder(directory)
    except OSError as error:
        raise ConfigError([f"{error.filename}: cannot be restored: {error.strerror}"]) from error
