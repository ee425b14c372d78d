"""`hostmesh proxy-status`: what each node's proxy holds, from the status documents the agents keep in Consul."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
import msgspec

from agent.cli.command import Command, given_flags
from agent.cli.completion import complete_node
from agent.cli.output import output_option, print_records, table
from agent.mesh.status import NodeStatus


@click.command(
    "proxy-status",
    cls=Command,
    examples="""
hostmesh proxy-status
hostmesh ps vm-1 -o yaml
""",
)
@click.argument("nodes", metavar="[NODE]...", nargs=-1, shell_complete=complete_node)
@output_option("table", "json", "yaml")
@click.pass_context
def proxy_status(ctx: click.Context, nodes: tuple[str, ...], output: str) -> None:
    """Show each node's proxy: connected, configuration acknowledged or refused and why, certificate's remaining life.

    SYNCED: Envoy has acknowledged everything sent. SENT: not yet. NACK: Envoy refused something and keeps its last good
    form. NOT CONNECTED: no Envoy, or a node with proxied instances whose agent is away. Always ends with exit code 0.
    """
    from agent.cli.connection import resolve
    from agent.cli.fleet import read_proxied_nodes, read_statuses

    connection = resolve(given_flags(ctx))
    statuses = merge(read_statuses(connection), read_proxied_nodes(connection))
    if nodes:
        statuses = [status for status in statuses if status.node in nodes]
    if output == "table" and not statuses:
        click.echo("No nodes found.", err=True)
    elif output == "table":
        click.echo(status_table(statuses, time.time()))
    else:
        documents = [_document(status) for status in statuses]
        print_records(documents, output)


def merge(statuses: Iterable[NodeStatus], proxied: Mapping[str, str]) -> list[NodeStatus]:
    """Return a status for every node: one with proxied instances (node → address) that tells nothing has no agent."""
    known = {node: NodeStatus(node, address) for node, address in proxied.items()}
    known |= {status.node: status for status in statuses}
    return [known[node] for node in sorted(known)]


def status_table(statuses: Sequence[NodeStatus], now: float) -> str:
    """Return the table; a node with several faults has a line for each. Scopes are shown where a node has one."""
    scoped = any(status.scope.sidecar for status in statuses)
    head = ("NODE", "PROXY", "REVISION", "ENVOY", "CERTIFICATE", *(("SCOPE",) if scoped else ()))
    rows: list[tuple[str, ...]] = []
    for status in statuses:
        reasons = _reasons(status)
        facts = (status.node, status.state, _revision(status), status.proxy.version or "-", _remaining(status, now))
        rows.append((*facts, *((_scope(status),) if scoped else ()), reasons[0]))
        rows += [(*[""] * len(head), reason) for reason in reasons[1:]]
    return table((*head, "FAULTS"), rows)


def life(seconds: float) -> str:
    """Return a duration in its two largest units, e.g. `3h12m`."""
    total = int(seconds)
    units = [(total // 86400, "d"), (total // 3600 % 24, "h"), (total // 60 % 60, "m"), (total % 60, "s")]
    first = next((index for index, (amount, _) in enumerate(units) if amount), len(units) - 1)
    return "".join(f"{amount}{unit}" for amount, unit in units[first : first + 2] if amount) or "0s"


def _revision(status: NodeStatus) -> str:
    sent, acked = status.proxy.config_revision, status.proxy.acked_revision
    if not status.proxy.connected:
        return "-"
    return str(acked) if acked >= sent else f"{acked} (of {sent})"


def _scope(status: NodeStatus) -> str:
    """How many of the mesh's services the node can call, as its Sidecar says."""
    scope = status.scope
    return f"{scope.services} of {scope.known} ({scope.sidecar.partition('/')[2]})" if scope.sidecar else "all"


def _remaining(status: NodeStatus, now: float) -> str:
    """The certificate that ends first decides how long the node can go without its CA."""
    if not status.certificates:
        return "-"
    remaining = min(certificate.not_after for certificate in status.certificates) - now
    return life(remaining) if remaining > 0 else "EXPIRED"


def _reasons(status: NodeStatus) -> list[str]:
    faults = [f"{fault.subject}: {fault.reason}" for fault in (*status.proxy.nacks, *status.faults)]
    if not status.agent_version and not status.updated_at:
        faults.append("its agent reports nothing")
    elif not status.proxy.connected and status.proxy.last_exit:
        faults.append(f"Envoy ended: {status.proxy.last_exit}")
    return [" ".join(fault.split()) for fault in faults] or ["-"]


def _document(status: NodeStatus) -> Any:
    return {"state": status.state, **msgspec.to_builtins(status)}
