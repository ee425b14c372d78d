"""Backup of a CA, also of one that is running, and its restore: one file with the keys, their states and the records.

Whoever has the file has the CA, but for the passphrase of encrypted keys, which is not in it.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sqlite3
import tarfile
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import IO, Literal

import msgspec

from node_ca.authority import Plugin
from node_ca.errors import ConfigError
from node_ca.issuer_book import BOOK_FILE, FOLDER, IssuerBook, book_bytes
from node_ca.issuer_files import FILES, IssuerFiles
from node_ca.private_file import sync_folder
from node_ca.state_folder import LOCK_FILE, RESTORED, RESTORING, finish_restore, lock_state

INVENTORY_FILE = "inventory.db"
_ABOUT = "hostmesh-ca-backup.json"
_TRIES = 5


class _About(msgspec.Struct, frozen=True, rename="camel"):
    trust_domain: str
    made_at: float
    version: Literal[1] = 1


def back_up(directory: Path, trust_domain: str, plugin: Plugin, target: Path) -> bool:
    """Write the backup (mode 0600, durably); return whether the records are in it. Raises ConfigError.

    They are not where they are in Consul, which has backups of its own.
    """
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
            made = Path(folder) / "backup.tar"
            with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                with tarfile.open(fileobj=file, mode="w") as archive:
                    recorded = _fill(archive, directory, trust_domain, plugin, Path(folder) / INVENTORY_FILE)
                file.flush()
                os.fsync(file.fileno())
            made.rename(target)
            sync_folder(target.parent)
    except (OSError, sqlite3.Error) as error:
        raise ConfigError([f"{target}: cannot be made: {error}"]) from error
    return recorded


def restore(directory: Path, trust_domain: str, plugin: Plugin, source: Path) -> None:
    """Put a backup into an empty state directory, all or nothing; raises ConfigError."""
    lock = lock_state(directory)
    try:
        finish_restore(directory)
        present = sorted(path.name for path in directory.iterdir() if path.name != LOCK_FILE)
        if present:
            raise ConfigError([f"{directory}: has a CA's state already ({', '.join(present[:5])}): move it away first"])
        try:
            _extract(source, directory / RESTORING)
            _check(directory / RESTORING, trust_domain, plugin, str(source))
            (directory / RESTORING / _ABOUT).unlink()
            _give_to_owner(directory)
            (directory / RESTORING).rename(directory / RESTORED)
            sync_folder(directory)
        except BaseException:
            shutil.rmtree(directory / RESTORING, ignore_errors=True)
            raise
        finish_restore(directory)
    except OSError as error:
        raise ConfigError([f"{error.filename or directory}: cannot be restored: {error.strerror}"]) from error
    finally:
        os.close(lock)


def _fill(archive: tarfile.TarFile, directory: Path, trust_domain: str, plugin: Plugin, copy: Path) -> bool:
    book, issuers, recorded = _moment(directory, plugin, copy)
    _add(archive, _ABOUT, msgspec.json.encode(_About(trust_domain, time.time())))
    # What was plugged in lies beside the others after a restore: its own folder may be on another machine.
    entries = tuple(msgspec.structs.replace(entry, plugged=False) for entry in book.entries)
    _add(archive, BOOK_FILE, book_bytes(replace(book, entries=entries)))
    for issuer, files in issuers.items():
        for name, content in zip(FILES, (files.key, files.certificate, files.chain, files.root), strict=True):
            if content:
                _add(archive, f"{FOLDER}/{issuer}/{name}", content)
    if recorded:
        archive.add(copy, INVENTORY_FILE, filter=_private)
    return recorded


def _moment(directory: Path, plugin: Plugin, copy: Path) -> tuple[IssuerBook, dict[str, IssuerFiles], bool]:
    """Return book, keys and (copied) records that belong together, though roots may be changed meanwhile."""
    for _ in range(_TRIES):
        book = IssuerBook.read(directory)
        if not book.entries:
            raise ConfigError([f"{directory}: has no CA's state: was hostmesh-ca started ever?"])
        issuers = {
            entry.id: IssuerFiles.read((plugin.folder or directory) if entry.plugged else book.folder(entry.id))
            for entry in book.entries
        }
        recorded = _copy_records(directory / INVENTORY_FILE, copy)
        if IssuerBook.read(directory) == book:
            return book, issuers, recorded
    raise ConfigError([f"{directory}: its roots are being changed: try again"])


def _copy_records(path: Path, copy: Path) -> bool:
    if not path.exists():
        return False
    copy.unlink(missing_ok=True)
    with (
        contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as present,
        contextlib.closing(sqlite3.connect(copy)) as made,
    ):
        present.backup(made)  # one snapshot; the CA goes on writing meanwhile
    return True


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(content), 0o600, int(time.time())
    archive.addfile(member, io.BytesIO(content))


def _private(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mode, member.uid, member.gid, member.uname, member.gname = 0o600, 0, 0, "", ""
    return member


def _extract(source: Path, folder: Path) -> None:
    folder.mkdir(mode=0o700)
    try:
        with tarfile.open(source, "r:") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isreg() and _is_ours(member.name) else None
                if content is None:
                    raise ConfigError([f"{source}: is not a backup of hostmesh-ca: it has {member.name[:80]!r}"])
                _write(folder / member.name, content)
    except tarfile.TarError as error:
        raise ConfigError([f"{source}: is not a backup of hostmesh-ca, or is damaged: {error}"]) from error
    except OSError as error:
        raise ConfigError([f"{source}: cannot be restored: {error.strerror or error}"]) from error


def _is_ours(name: str) -> bool:
    """Tell whether a backup has such a file; nothing is ever written elsewhere."""
    top, *rest = name.split("/")
    if not rest:
        return name in (_ABOUT, BOOK_FILE, INVENTORY_FILE)
    return top == FOLDER and len(rest) == 2 and rest[0].isalnum() and rest[1] in FILES


def _write(path: Path, content: IO[bytes]) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        shutil.copyfileobj(content, file)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def _check(folder: Path, trust_domain: str, plugin: Plugin, source: str) -> None:
    """Raise ConfigError unless a CA could work with these files."""
    try:
        about = msgspec.json.decode((folder / _ABOUT).read_bytes(), type=_About)
    except (FileNotFoundError, msgspec.DecodeError) as error:
        raise ConfigError([f"{source}: is not a backup of hostmesh-ca, or is damaged: {_ABOUT}"]) from error
    if about.trust_domain != trust_domain:
        raise ConfigError([f"{source}: is of trust domain {about.trust_domain}, ca.yaml says {trust_domain}"])
    book = IssuerBook.read(folder)
    for entry in book.entries:
        where = f"{source}: {FOLDER}/{entry.id}/"
        signer = IssuerFiles.read(book.folder(entry.id)).signer(where, trust_domain, plugin.passphrase)
        if signer.id != entry.id:
            raise ConfigError([f"{where}: is another issuer ({signer.id})"])
    if (folder / INVENTORY_FILE).exists():
        try:
            with contextlib.closing(sqlite3.connect(folder / INVENTORY_FILE)) as connection:
                (said,) = connection.execute("PRAGMA integrity_check").fetchone()
        except sqlite3.Error as error:
            said = str(error)
        if said != "ok":
            raise ConfigError([f"{source}: {INVENTORY_FILE}: is damaged: {said}"])


def _give_to_owner(directory: Path) -> None:
    """Let root restore for the user that the CA runs as: who has the directory gets the files."""
    if os.geteuid() == 0:
        owner = directory.stat()
        for path in directory.rglob("*"):
            os.chown(path, owner.st_uid, owner.st_gid)
