"""`hostmesh cert`: the certificates of this host's workloads, by its agent's socket."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import click

from agent.cli.ca_options import utc
from agent.cli.command import Group
from agent.cli.output import output_option, print_records, table

if TYPE_CHECKING:
    from agent.mesh.status import CertificateStatus

_FILES = ("key.pem", "cert-chain.pem", "root-cert.pem")


def _run_dir(command: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--run-dir",
        metavar="DIR",
        envvar="HOSTMESH_RUN_DIR",
        default="/run/hostmesh",
        show_default=True,
        help="Folder of the agent's sockets.",
    )(command)


_identity = click.argument("identity", metavar="[ns/NAMESPACE/sa/ACCOUNT]", default="")


@click.group(
    cls=Group,
    help="Work with the certificates of this host's workloads; as root or the user hostmesh.",
    examples="""
hostmesh cert show
hostmesh cert renew
""",
)
def cert() -> None:
    """Hold the subcommands."""


@cert.command(examples="hostmesh cert show -o json")
@_run_dir
@output_option("table", "json", "yaml")
def show(run_dir: str, output: str) -> None:
    """List them: identity, serial number, end, next renewal, issuer."""
    _print(_ask(run_dir, "/certificates"), output)


@cert.command(
    examples="""
hostmesh cert renew
hostmesh cert renew ns/default/sa/reviews
"""
)
@_identity
@_run_dir
@output_option("table", "json", "yaml")
def renew(identity: str, run_dir: str, output: str) -> None:
    """Get new certificates now, of one identity or of all; returns when they are in use."""
    _print(_ask(run_dir, f"/certificates/renew?{urlencode({'identity': identity})}", "POST"), output)


@cert.command(
    examples="""
hostmesh cert export --out /root/reviews ns/default/sa/reviews
openssl x509 -noout -text -in /root/reviews/cert-chain.pem
"""
)
@_identity
@click.option("--out", required=True, metavar="DIR", help="Folder to write to; it is made if it is not there.")
@_run_dir
def export(identity: str, out: str, run_dir: str) -> None:
    """Write key, chain and roots to a folder, the key for you alone; the files are not renewed."""
    import json

    from agent.adapters.files import write_atomic
    from agent.errors import HostError

    content = json.loads(_ask(run_dir, f"/certificates/export?{urlencode({'identity': identity})}"))
    folder = Path(out)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(f"{folder}: cannot be made: {error.strerror}") from error
    for name, part in zip(_FILES, ("key", "chain", "roots"), strict=True):
        write_atomic(folder / name, content[part].encode(), 0o600 if part == "key" else 0o644)
        click.echo(folder / name)


def _ask(run_dir: str, path: str, method: str = "GET") -> bytes:
    from agent.adapters.agent_socket import AgentSocket

    return AgentSocket(Path(run_dir) / "admin.sock").ask(path, method=method)


def _print(content: bytes, output: str) -> None:
    import msgspec

    from agent.mesh.status import CertificateStatus

    certificates = msgspec.json.decode(content, type=list[CertificateStatus])
    if output != "table":
        print_records(msgspec.to_builtins(certificates), output)
        return
    rows = [_row(certificate, time.time()) for certificate in certificates]
    click.echo(table(("IDENTITY", "SERIAL", "ENDS", "RENEWAL", "ISSUER"), rows))


def _row(certificate: CertificateStatus, now: float) -> tuple[str, ...]:
    end = utc(int(certificate.not_after)) + (" (ended)" if now >= certificate.not_after else "")
    renewal = utc(int(certificate.renew_at)) if certificate.renew_at else "-"
    return certificate.identity, certificate.serial, end, renewal, certificate.issuer
