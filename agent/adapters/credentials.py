"""A gateway's certificates: a folder for each `credentialName` (tls.crt, tls.key, perhaps ca.crt and ca.crl), and the
files that Gateway objects name themselves. Reads only.

What could not be used is never handed on: one bad file would cost Envoy every server on its port.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from msgspec import Struct

from agent.adapters.files import read_optional
from agent.errors import HostError
from agent.mesh.gateway import Credential, FileCredential

CHAIN, KEY, AUTHORITIES, CRL = "tls.crt", "tls.key", "ca.crt", "ca.crl"
LOOK_SECONDS = 1.0
MAX_BYTES = 1024 * 1024
"""Of a file that a Gateway names: whoever may write rules must not fill this host's memory."""
MIN_RSA_BITS = 2048
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}", re.ASCII)


class CredentialsRead(Struct, frozen=True):
    """What can be used, by name, and a line for each that cannot."""

    credentials: Mapping[str, Credential]
    problems: tuple[str, ...] = ()


async def watch_credentials(
    folder: Path, sink: Callable[[CredentialsRead], None], wanted: Callable[[], Collection[FileCredential]] = tuple
) -> None:
    """Hand on what is in the folders and in the files wanted whenever it has become something else, until cancelled."""
    last: CredentialsRead | None = None
    while True:
        read = await asyncio.to_thread(read_credentials, folder, tuple(wanted()))
        if read != last:
            last = read
            sink(read)
        await asyncio.sleep(LOOK_SECONDS)


def read_credentials(folder: Path, files: Collection[FileCredential] = ()) -> CredentialsRead:
    """Return the credentials under a folder (an absent one has none), and those of single files."""
    found: dict[str, Credential] = {}
    problems: list[str] = []
    try:
        names = sorted(path.name for path in folder.iterdir() if is_name(path.name))
    except (FileNotFoundError, NotADirectoryError):
        names = []
    except OSError as error:
        names = []
        problems.append(f"{folder}: cannot be read: {error.strerror or error}")
    for name in names:
        try:
            found[name] = _read(folder / name)
        except HostError as error:
            problems.append(str(error))
    for one in sorted(files):
        try:
            found[one.name] = _read_files(one)
        except HostError as error:
            problems.append(str(error))
    problems += [f"{name}: {outdated}" for name, held in found.items() if (outdated := _outdated(held))]
    return CredentialsRead(found, tuple(problems))


def is_name(name: str) -> bool:
    """Tell whether a folder of secrets can have this name."""
    return _NAME.fullmatch(name) is not None


def check_credential(credential: Credential) -> str | None:
    """Return what is wrong with a credential, or None: key and certificate must belong together."""
    if credential.chain_pem or credential.key_pem:
        if wrong := _check_pair(credential):
            return wrong
    elif not credential.authorities_pem:
        return f"{CHAIN} is missing"
    try:
        if credential.authorities_pem:
            x509.load_pem_x509_certificates(credential.authorities_pem)
    except ValueError as error:
        return f"{AUTHORITIES} holds no PEM certificates: {error}"
    try:
        if credential.crl_pem:
            x509.load_pem_x509_crl(credential.crl_pem)
    except ValueError as error:
        return f"{CRL} holds no PEM revocation list: {error}"
    if credential.crl_pem and not credential.authorities_pem:
        return f"{CRL} revokes nothing without {AUTHORITIES}"
    return None


def _check_pair(credential: Credential) -> str | None:
    if not (credential.chain_pem and credential.key_pem):
        return f"{KEY if credential.chain_pem else CHAIN} is missing"
    try:
        leaf = x509.load_pem_x509_certificates(credential.chain_pem)[0]
    except ValueError as error:
        return f"{CHAIN} holds no PEM certificates: {error}"
    try:
        key = load_pem_private_key(credential.key_pem, None)
    except (ValueError, TypeError) as error:
        return f"{KEY} holds no PEM private key that can be read without a password: {error}"
    if not _is_served(key):
        return (
            f"{KEY} is of a kind that Envoy does not serve with (RSA of 2048 bits or more, or ECDSA P-256, -384, -521)"
        )
    if key.public_key() != leaf.public_key():
        return f"{KEY} is not the key of the first certificate in {CHAIN} (the server's own comes first)"
    return None


def _outdated(credential: Credential) -> str | None:
    """Return that a list of revoked certificates has expired: Envoy then believes no client at all."""
    until = x509.load_pem_x509_crl(credential.crl_pem).next_update_utc if credential.crl_pem else None
    if until is None or until > datetime.now(UTC):
        return None
    return f"{CRL} was good until {until:%Y-%m-%d %H:%M} UTC: every client is refused until there is a newer one"


def _is_served(key: PrivateKeyTypes) -> bool:
    """Tell whether Envoy takes such a key; the listener of one that it refuses never opens."""
    if isinstance(key, rsa.RSAPrivateKey):
        return key.key_size >= MIN_RSA_BITS
    return isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, _CURVES)


def _read(folder: Path) -> Credential:
    chain, key, authorities, crl = (read_optional(folder / name) or b"" for name in (CHAIN, KEY, AUTHORITIES, CRL))
    credential = Credential(key, chain, authorities, crl)
    if wrong := check_credential(credential):
        raise HostError(f"{folder}: {wrong} (hostmesh secret install {folder.name})")
    return credential


def _read_files(files: FileCredential) -> Credential:
    """Read what a Gateway names by its paths; in faults tls.crt and so on stand for these."""
    contents = {}
    for name in (files.key, files.certificate, files.authorities, files.crl):
        contents[name] = _read_file(Path(name)) if name else b""
    credential = Credential(
        contents[files.key], contents[files.certificate], contents[files.authorities], contents[files.crl]
    )
    if wrong := check_credential(credential):
        said = {CHAIN: files.certificate, KEY: files.key, AUTHORITIES: files.authorities, CRL: files.crl}
        for name, path in said.items():
            wrong = wrong.replace(name, path or "the file of authorities")
        raise HostError(wrong)
    return credential


def _read_file(path: Path) -> bytes:
    try:
        usable = path.is_file() and path.stat().st_size <= MAX_BYTES
    except OSError as error:
        raise HostError(f"{path}: cannot be read: {error.strerror or error}") from error
    data = read_optional(path) if usable else None
    if data is None:
        raise HostError(
            f"{path}, which a Gateway names, is not there, or no PEM file (write it, or correct the Gateway)"
        )
    return data
