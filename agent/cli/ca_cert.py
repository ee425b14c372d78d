"""`hostmesh ca cert`: what the certificate authority has issued; issuing by hand, revoking."""

from __future__ import annotations

import time
from pathlib import Path

import click

from agent.cli.ca_options import Duration, socket_option, utc
from agent.cli.command import Group
from agent.cli.output import output_option, print_records, table
from agent.errors import HostError, UserError

_KEY, _CHAIN, _ROOT = "key.pem", "cert-chain.pem", "root-cert.pem"
_IDENTITY = "ns/NAMESPACE/sa/ACCOUNT"


@click.group(
    cls=Group,
    help="Certificates that the authority has issued.",
    examples="""
hostmesh ca cert list
hostmesh ca cert revoke --identity ns/default/sa/reviews --reason "host stolen"
""",
)
def cert() -> None:
    """Hold the subcommands."""


@cert.command(
    "list",
    examples="""
hostmesh ca cert list
hostmesh ca cert list --identity ns/default/sa/reviews --expired
hostmesh ca cert list --revoked -o json
""",
)
@click.option("--identity", default="", metavar=_IDENTITY, help="Only this identity's.")
@click.option("--expired", is_flag=True, help="Also those that have ended (kept for a week).")
@click.option("--revoked", is_flag=True, help="Only those that are revoked.")
@socket_option
@output_option("table", "json", "yaml")
def list_certificates(identity: str, expired: bool, revoked: bool, socket: str, output: str) -> None:
    """List issued certificates, latest first."""
    from msgspec import to_builtins

    from agent.adapters.identity.administration import CaAdministration

    found = CaAdministration(socket).certificates(identity, expired=expired, revoked_only=revoked)
    if output != "table":
        print_records(to_builtins(found), output)
        return
    now = time.time()
    rows = [
        (info.serial, info.identity, info.state(now), utc(info.issued_at), utc(info.not_after), info.issued_by)
        for info in found
    ]
    click.echo(table(("SERIAL", "IDENTITY", "STATE", "ISSUED", "ENDS", "BY"), rows))


@cert.command(examples="hostmesh ca cert show 0f8ab14c5e6d7f8091a2b3c4d5e6f708")
@click.argument("serial")
@socket_option
@output_option("yaml", "json")
def show(serial: str, socket: str, output: str) -> None:
    """Show what the records say of a certificate; the serial number as here or as openssl writes it."""
    from msgspec import to_builtins

    from agent.adapters.identity.administration import CaAdministration

    found = CaAdministration(socket).certificates(serial=serial, expired=True)
    if not found:
        raise UserError(f"{serial}: no such certificate (`hostmesh ca cert list --expired` shows all)")
    times = {name: utc(getattr(found[0], attribute)) for name, attribute in _TIMES.items()}
    record = to_builtins(found[0]) | {"state": found[0].state(time.time())} | times
    if not found[0].revoked_at:
        del record["revokedAt"], record["revokedFor"]
    print_records(record, output)


_TIMES = {"notBefore": "not_before", "notAfter": "not_after", "issuedAt": "issued_at", "revokedAt": "revoked_at"}


@cert.command(
    examples="""
hostmesh ca cert issue --identity ns/default/sa/printer --out /etc/printer/tls
hostmesh ca cert issue --identity ns/default/sa/printer --lifetime 30d --out tls --force
"""
)
@click.option("--identity", required=True, metavar=_IDENTITY, help="Whose certificate it shall be.")
@click.option("--lifetime", type=Duration(), help="How long it holds (default: as the CA's others).")
@click.option("--out", required=True, metavar="FOLDER", type=click.Path(path_type=Path, file_okay=False))
@click.option("--force", is_flag=True, help="Replace the files of an earlier one.")
@socket_option
def issue(identity: str, lifetime: int | None, out: Path, force: bool, socket: str) -> None:
    """Issue a certificate for a machine without an agent; nobody renews it but you.

    Writes key.pem, cert-chain.pem and root-cert.pem (mode 0600). The key is made here and never leaves this machine.
    """
    from agent.adapters.files import write_atomic
    from agent.adapters.identity.administration import CaAdministration
    from agent.adapters.identity.keys import new_csr, new_key

    present = [name for name in (_KEY, _CHAIN, _ROOT) if (out / name).exists()]
    if present and not force:
        raise UserError(f"{out}: has {', '.join(present)} already; take another folder, or --force to replace them")
    key = new_key()
    issued = CaAdministration(socket).issue(identity, new_csr(key), lifetime or 0)
    try:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, content in ((_KEY, key), (_CHAIN, issued.chain), (_ROOT, issued.roots)):
            write_atomic(out / name, content, 0o600)
    except OSError as error:
        raise HostError(f"{out}: cannot be written: {error.strerror}") from error
    click.echo(f"Wrote {_KEY}, {_CHAIN} and {_ROOT} of {identity} to {out}")


@cert.command(
    examples="""
hostmesh ca cert revoke 0f8ab14c5e6d7f8091a2b3c4d5e6f708
hostmesh ca cert revoke --identity ns/default/sa/reviews --reason "host stolen"
"""
)
@click.argument("serial", required=False, default="")
@click.option("--identity", default="", metavar=_IDENTITY, help="All its certificates, and its join tokens.")
@click.option("--reason", default="", metavar="TEXT", help="For the record.")
@socket_option
def revoke(serial: str, identity: str, reason: str, socket: str) -> None:
    """Revoke a certificate, or all of an identity: every Envoy refuses it seconds later. There is no way back."""
    from agent.adapters.identity.administration import CaAdministration

    if bool(serial) == bool(identity):
        raise UserError("give a serial number or --identity, one of the two")
    certificates, tokens = CaAdministration(socket).revoke(serial, identity, reason)
    for info in certificates:
        click.echo(f"Revoked certificate {info.serial} ({info.identity}), which would have ended {utc(info.not_after)}")
    for token in tokens:
        click.echo(f"Revoked join token {token.id} ({token.identity})")
    if not certificates and not tokens:
        click.echo("Nothing to do: revoked before")
