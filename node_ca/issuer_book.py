"""Which issuers this CA has and what each is for, on the disk: one small file, replaced whole at every step.

A kill between two steps leaves the old state or the new one. Key files that the book does not name (of a step that was
cut off, or of a root that was retired) are removed at the next start.
May not decide when a step may be taken.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Literal

import msgspec
from cryptography import x509

from node_ca.errors import ConfigError
from node_ca.issuer_files import CERTIFICATE_FILE, FILES
from node_ca.private_file import write_private
from node_ca.signer import issuer_id

BOOK_FILE = "issuers.json"
FOLDER = "issuers"


class State(StrEnum):
    """What an issuer is for; peers trust what any of them signed."""

    PREPARED = "prepared"
    """Will sign."""
    ACTIVE = "active"
    """Signs."""
    RETIRING = "retiring"
    """Has signed."""


class Entry(msgspec.Struct, frozen=True):
    """An issuer in the book."""

    id: str
    state: State
    since: float
    """Unix time, seconds: since when it is in this state."""
    plugged: bool = False
    """Its files are where they were put before the first start: in the state directory, or in `caFiles`."""


class _Book(msgspec.Struct, frozen=True):
    issuers: tuple[Entry, ...]
    retired: tuple[str, ...] = ()
    version: Literal[1] = 1


@dataclass(frozen=True)
class IssuerBook:
    """The book of one state directory."""

    directory: Path
    entries: tuple[Entry, ...] = ()
    retired: tuple[str, ...] = ()
    """Issuers of the past; their keys are gone, or go at the next start."""

    @classmethod
    def read(cls, directory: Path) -> IssuerBook:
        """Return the book, empty before the first start; raises ConfigError."""
        path = directory / BOOK_FILE
        try:
            book = msgspec.json.decode(path.read_bytes(), type=_Book)
        except FileNotFoundError:
            return cls(directory)
        except OSError as error:
            raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
        except msgspec.DecodeError as error:
            raise ConfigError([f"{path}: is damaged ({error}): restore it from a backup"]) from error
        if [entry.state for entry in book.issuers].count(State.ACTIVE) != 1:
            raise ConfigError([f"{path}: is damaged (one issuer must be active): restore it from a backup"])
        return cls(directory, book.issuers, book.retired)

    def with_entries(self, *changed: Entry) -> IssuerBook:
        """Return the book with these put in, or changed."""
        new = {entry.id: entry for entry in (*self.entries, *changed)}
        return replace(self, entries=tuple(new.values()))

    def without(self, issuer: str) -> IssuerBook:
        """Return the book with an issuer among those of the past."""
        entries = tuple(entry for entry in self.entries if entry.id != issuer)
        return replace(self, entries=entries, retired=(*self.retired, issuer))

    def write(self) -> IssuerBook:
        """Put it on the disk; raises ConfigError."""
        write_private(self.directory / BOOK_FILE, book_bytes(self))
        return self

    def folder(self, issuer: str) -> Path:
        """Return where the files of an issuer are that was not plugged in at the first start."""
        return self.directory / FOLDER / issuer

    def sweep(self) -> None:
        """Remove the keys that this CA made or was given and that the book does not name; raises ConfigError."""
        named = {entry.id for entry in self.entries if not entry.plugged}
        folder = self.directory / FOLDER
        try:
            for path in folder.iterdir() if folder.is_dir() else ():
                if path.name not in named:
                    shutil.rmtree(path)
            if _id_in(self.directory) in self.retired:
                for name in FILES:
                    (self.directory / name).unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError([f"{error.filename}: cannot be removed: {error.strerror}"]) from error


def book_bytes(book: IssuerBook) -> bytes:
    """Return the book as it is written."""
    return msgspec.json.encode(_Book(book.entries, book.retired))


def _id_in(directory: Path) -> str:
    try:
        return issuer_id(x509.load_pem_x509_certificate((directory / CERTIFICATE_FILE).read_bytes()))
    except (OSError, ValueError):
        return ""
