"""Files that nobody else may read, written durably: whole or not at all. May not know what is in them."""

from __future__ import annotations

import os
from pathlib import Path

from node_ca.errors import ConfigError


def write_private(path: Path, data: bytes) -> None:
    """Write durably with mode 0600, all or nothing; raises ConfigError."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be written: {error.strerror}"]) from error


def make_folder(path: Path) -> None:
    """Make a folder (mode 0700) if it isn't there; raises ConfigError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be made: {error.strerror}"]) from error


def sync_folder(path: Path) -> None:
    """Make what was renamed or removed in a folder survive a power cut; raises OSError."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
