"""`hostmesh ca root`: changing the mesh's root without an outage, step by step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.ca_options import Duration, socket_option, utc
from agent.cli.command import Group, given_flags
from agent.cli.output import output_option, print_records, table
from agent.errors import CaRefused, HostmeshError, UserError
from agent.mesh.status import NodeStatus

if TYPE_CHECKING:
    from agent.adapters.identity.administration import CaAdministration, RootInfo

_FILES = {
    "key_pem": "ca-key.pem",
    "certificate_pem": "ca-cert.pem",
    "chain_pem": "cert-chain.pem",
    "root_pem": "root-cert.pem",
}
_NEEDED = ("key_pem", "certificate_pem")
_SHOWN = 5
_POLL_SECONDS = 1.0


@click.group(
    cls=Group,
    help="The roots that the mesh trusts, and changing them without an outage: prepare, activate, retire.",
    examples="""
hostmesh ca root prepare
hostmesh ca root activate
hostmesh ca root retire
""",
)
def root() -> None:
    """Hold the subcommands."""


@root.command("list", examples="hostmesh ca root list -o json")
@socket_option
@output_option("table", "json", "yaml")
def list_roots(socket: str, output: str) -> None:
    """List the issuers that are trusted: prepared (does not sign yet), active, retiring (signs no more)."""
    from msgspec import to_builtins

    from agent.adapters.identity.administration import CaAdministration

    roots, _ = CaAdministration(socket).roots()
    if output != "table":
        print_records(to_builtins(roots), output)
        return
    rows = [(info.id, info.state, utc(info.since), utc(info.not_after), _last(info), info.subject) for info in roots]
    click.echo(table(("ID", "STATE", "SINCE", "ENDS", "LAST CERTIFICATE ENDS", "SUBJECT"), rows))


@root.command(
    examples="""
hostmesh ca root prepare
hostmesh ca root prepare --from /root/new-intermediate
"""
)
@click.option(
    "--from",
    "folder",
    metavar="FOLDER",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="A plugged-in CA: ca-cert.pem, ca-key.pem, root-cert.pem, cert-chain.pem (default: the CA makes a root).",
)
@click.option("--lifetime", type=Duration(), help="Of a root that the CA makes (default: ten years).")
@socket_option
def prepare(folder: Path | None, lifetime: int | None, socket: str) -> None:
    """Let the mesh trust a new root, which does not sign yet."""
    from agent.adapters.identity.administration import CaAdministration

    if folder is not None and lifetime is not None:
        raise UserError("--lifetime: is for a root that the CA makes; with --from the certificate says it")
    info = CaAdministration(socket).prepare_root(_read(folder) if folder else {}, lifetime or 0)
    click.echo(f"Prepared {info.id} ({info.subject}), ends {utc(info.not_after)}")


@root.command(
    examples="""
hostmesh ca root activate
hostmesh ca root activate --wait 10m
"""
)
@click.argument("root_id", metavar="[ID]", default="")
@click.option("--wait", type=Duration(), default="30s", show_default=True, help="How long to wait for all hosts.")
@click.option("--force", is_flag=True, help="Also if hosts may not trust it yet: they refuse its certificates.")
@socket_option
@click.pass_context
def activate(ctx: click.Context, root_id: str, wait: int, force: bool, socket: str) -> None:
    """Let the prepared root sign, as soon as it is trusted everywhere.

    It is when every host says so in Consul, or when all certificates that still hold were issued after `prepare`.
    """
    from agent.adapters.identity.administration import CaAdministration

    ca = CaAdministration(socket)
    version, missing = ("", "") if force else _acknowledged(ctx, ca, wait)
    try:
        info = ca.activate_root(root_id, version, force=force)
    except CaRefused as error:
        raise CaRefused(f"{error}{f' ({missing})' if missing else ''}") from error
    click.echo(f"Activated {info.id} ({info.subject}): it signs from now on")


@root.command(
    examples="""
hostmesh ca root retire
hostmesh ca root retire 3f1c0a9be8d7c655
"""
)
@click.argument("root_id", metavar="[ID]", default="")
@click.option("--force", is_flag=True, help="Also while certificates that it signed hold: their holders are cut off.")
@socket_option
def retire(root_id: str, force: bool, socket: str) -> None:
    """Let the mesh trust the old root no more and remove its key; or drop the prepared one, by its ID."""
    from agent.adapters.identity.administration import CaAdministration

    info = CaAdministration(socket).retire_root(root_id, force=force)
    click.echo(f"Retired {info.id} ({info.subject}): it is trusted no more")


def lagging(statuses: Sequence[NodeStatus], version: str) -> list[str]:
    """Return the nodes whose Envoy has not acknowledged this trust bundle; those without any identity need none."""
    return [
        status.node
        for status in statuses
        if status.trust_bundle != version and (status.certificates or status.trust_bundle or not status.agent_version)
    ]


def _acknowledged(ctx: click.Context, ca: CaAdministration, wait: int) -> tuple[str, str]:
    """Return the bundle's version if all hosts have acknowledged it within that many seconds, else "" and why not."""
    from agent.cli.connection import resolve
    from agent.cli.fleet import read_proxied_nodes, read_statuses
    from agent.cli.proxy_status import merge

    deadline = time.monotonic() + wait
    while True:
        _, version = ca.roots()
        try:
            connection = resolve(given_flags(ctx))
            statuses = merge(read_statuses(connection), read_proxied_nodes(connection))
        except HostmeshError as error:
            return "", f"the hosts' status can't be read: {error}"
        late = lagging(statuses, version)
        if statuses and not late:
            return version, ""
        if not statuses or time.monotonic() >= deadline:
            more = f" and {len(late) - _SHOWN} more" if len(late) > _SHOWN else ""
            return "", f"not acknowledged by {', '.join(late[:_SHOWN])}{more}" if late else "no host's status is there"
        time.sleep(_POLL_SECONDS)


def _last(info: RootInfo) -> str:
    return utc(info.last_certificate_ends) if info.last_certificate_ends else "-"


def _read(folder: Path) -> dict[str, bytes]:
    found = {}
    for field, name in _FILES.items():
        try:
            found[field] = (folder / name).read_bytes()
        except FileNotFoundError as error:
            if field in _NEEDED:
                raise UserError(f"{folder / name}: no such file; --from needs {', '.join(_FILES.values())}") from error
        except OSError as error:
            raise UserError(f"{folder / name}: cannot be read: {error.strerror}") from error
    return found
