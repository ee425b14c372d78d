"""`hostmesh secret`: a gateway's certificates, as files on the gateway host itself; no key is ever in Consul."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import click

from agent.cli.command import Command, Group
from agent.errors import HostError, UserError

DEFAULT_DIR = "/etc/hostmesh/secrets"
_DIR = click.option(
    "--secrets-dir",
    "folder",
    metavar="DIR",
    envvar="HOSTMESH_SECRETS_DIR",
    default=DEFAULT_DIR,
    show_default=True,
    help="The agent's secrets.",
)


@click.group(cls=Group, examples="hostmesh secret install shop --cert shop.crt --key shop.key")
def secret() -> None:
    """Install the certificates that Gateway objects name as credentialName, on the gateway host (as root)."""


@secret.command(
    cls=Command,
    examples="""
# What a Gateway with `credentialName: shop` serves; again with newer files, it is in use within a second or two
hostmesh secret install shop --cert shop.crt --key shop.key

# With the authority whose clients a MUTUAL server lets in, less those that it has revoked
hostmesh secret install shop --cert shop.crt --key shop.key --ca clients-ca.crt --crl clients-ca.crl

# The authority alone, for a Gateway's caCertCredentialName
hostmesh secret install clients --ca clients-ca.crt
""",
)
@click.argument("name", metavar="NAME")
@click.option("--cert", metavar="FILE", help="The certificate, its chain after it (PEM).")
@click.option("--key", metavar="FILE", help="Its private key (PEM, without a password).")
@click.option("--ca", metavar="FILE", help="Authorities of clients' certificates (PEM).")
@click.option("--crl", metavar="FILE", help="What these authorities have revoked (PEM).")
@_DIR
@click.pass_context
def install(
    ctx: click.Context, name: str, cert: str | None, key: str | None, ca: str | None, crl: str | None, folder: str
) -> None:
    """Check a key and its certificate, and put them where this host's agent reads them."""
    from agent.adapters.credentials import AUTHORITIES, CHAIN, CRL, KEY, check_credential, is_name
    from agent.adapters.files import write_atomic
    from agent.mesh.gateway import Credential

    if not is_name(name):
        raise UserError(f"{name!r} is not the name of a secret (letters, digits, '-', '_' and '.')")
    if not (ca or (cert and key)) or bool(cert) is not bool(key):
        raise click.UsageError("give --cert and --key, or --ca, or all of them", ctx)
    credential = Credential(*(_read(file) if file else b"" for file in (key, cert, ca, crl)))
    if wrong := check_credential(credential):
        raise UserError(f"{', '.join(file for file in (cert, key, ca, crl) if file)}: {wrong}")
    place = Path(folder) / name
    _make(place)
    # Key and certificate are two files: the agent takes them only when they belong together.
    contents = {
        KEY: credential.key_pem,
        CHAIN: credential.chain_pem,
        AUTHORITIES: credential.authorities_pem,
        CRL: credential.crl_pem,
    }
    for file, data in contents.items():
        if data:
            write_atomic(place / file, data)
            _give(place / file, place.parent)
        else:
            (place / file).unlink(missing_ok=True)
    click.echo(f"{place}: installed")


@secret.command("list", cls=Command, examples="hostmesh secret list")
@_DIR
def list_secrets(folder: str) -> None:
    """List what is installed, and what of it cannot be used."""
    from agent.adapters.credentials import read_credentials

    read = read_credentials(Path(folder))
    for name, held in sorted(read.credentials.items()):
        held_files = (("tls.crt", held.chain_pem), ("ca.crt", held.authorities_pem), ("ca.crl", held.crl_pem))
        click.echo(f"{name}  ({', '.join(file for file, data in held_files if data)})")
    for problem in read.problems:
        click.echo(problem, err=True)


@secret.command(cls=Command, examples="hostmesh secret remove shop")
@click.argument("name", metavar="NAME")
@_DIR
def remove(name: str, folder: str) -> None:
    """Remove a secret; servers that name it close."""
    from agent.adapters.credentials import is_name

    place = Path(folder) / name
    if not is_name(name) or not place.is_dir():
        raise UserError(f"{place}: there is no such secret (hostmesh secret list)")
    try:
        shutil.rmtree(place)
    except OSError as error:
        raise HostError(f"{place}: cannot be removed: {error.strerror or error}") from error
    click.echo(f"{place}: removed")


def _make(place: Path) -> None:
    try:
        for folder in (place.parent, place):
            folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            _give(folder, place.parent)
    except OSError as error:
        raise HostError(f"{place}: cannot be made: {error.strerror or error} (run as root)") from error


def _give(path: Path, secrets: Path) -> None:
    """Let the agent read it: whoever the folder of all secrets belongs to, else the user hostmesh, if there is one."""
    if os.geteuid() != 0:
        return
    owner = secrets.stat()
    if owner.st_uid != 0:
        os.chown(path, owner.st_uid, owner.st_gid)
        return
    with contextlib.suppress(LookupError):
        shutil.chown(path, "hostmesh", "hostmesh")


def _read(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror or error}") from error
