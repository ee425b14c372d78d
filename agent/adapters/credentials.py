"""A gateway's certificates: a folder for each `credentialName`, with tls.crt, tls.key and perhaps ca.crt. Reads only.

What could not be used is never handed on: one bad file would cost Envoy every server on its port.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from msgspec import Struct

from agent.adapters.files import read_optional
from agent.errors import HostError
from agent.mesh.gateway import Credential

CHAIN, KEY, AUTHORITIES = "tls.crt", "tls.key", "ca.crt"
LOOK_SECONDS = 1.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}", re.ASCII)


class CredentialsRead(Struct, frozen=True):
    """What is in the folders, and a line for each that cannot be used."""

    credentials: Mapping[str, Credential]
    problems: tuple[str, ...] = ()


async def watch_credentials(folder: Path, sink: Callable[[CredentialsRead], None]) -> None:
    """Hand on what is in the folders whenever it has become something else, until cancelled."""
    last: CredentialsRead | None = None
    while True:
        read = await asyncio.to_thread(read_credentials, folder)
        if read != last:
            last = read
            sink(read)
        await asyncio.sleep(LOOK_SECONDS)


def read_credentials(folder: Path) -> CredentialsRead:
    """Return the credentials under a folder; an absent one has none."""
    found: dict[str, Credential] = {}
    problems: list[str] = []
    try:
        names = sorted(path.name for path in folder.iterdir() if is_name(path.name))
    except (FileNotFoundError, NotADirectoryError):
        return CredentialsRead({})
    except OSError as error:
        return CredentialsRead({}, (f"{folder}: cannot be read: {error.strerror or error}",))
    for name in names:
        try:
            found[name] = _read(folder / name)
        except HostError as error:
            problems.append(str(error))
    return CredentialsRead(found, tuple(problems))


def is_name(name: str) -> bool:
    """Tell whether a folder of secrets can have this name."""
    return _NAME.fullmatch(name) is not None


def check_credential(credential: Credential) -> str | None:
    """Return what is wrong with a credential, or None: key and certificate must belong together."""
    try:
        leaf = x509.load_pem_x509_certificates(credential.chain_pem)[0]
    except ValueError as error:
        return f"{CHAIN} holds no PEM certificates: {error}"
    try:
        key = load_pem_private_key(credential.key_pem, None)
    except (ValueError, TypeError) as error:
        return f"{KEY} holds no PEM private key that can be read without a password: {error}"
    if key.public_key() != leaf.public_key():
        return f"{KEY} is not the key of the first certificate in {CHAIN} (the server's own comes first)"
    try:
        if credential.authorities_pem:
            x509.load_pem_x509_certificates(credential.authorities_pem)
    except ValueError as error:
        return f"{AUTHORITIES} holds no PEM certificates: {error}"
    return None


def _read(folder: Path) -> Credential:
    chain, key, authorities = (read_optional(folder / name) for name in (CHAIN, KEY, AUTHORITIES))
    if chain is None or key is None:
        raise HostError(
            f"{folder}: {CHAIN if chain is None else KEY} is missing (hostmesh secret install {folder.name})"
        )
    credential = Credential(key, chain, authorities or b"")
    if wrong := check_credential(credential):
        raise HostError(f"{folder}: {wrong}")
    return credential
