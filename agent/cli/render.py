"""`hostmesh render`: one node's whole Envoy configuration from a catalog file and rules, offline.

The same translation as the agent's; only files are read and one is written.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import click

from agent.cli.command import Command, given_flags
from agent.cli.documents import load_checked
from agent.errors import UserError


def _address(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    try:
        return str(ip_address(value))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not an IP address (127.0.0.2, for example)") from None


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--catalog", "catalog_file", metavar="FILE", required=True, help="The mesh: nodes, services, settings."
    ),
    click.option("--node", required=True, metavar="NAME", help="The node of the catalog whose Envoy this is for."),
    click.option(
        "-f",
        "--file",
        "files",
        multiple=True,
        metavar="FILE|DIR|-",
        help="Rules: file, folder (its *.yaml, *.yml and *.json) or - for standard input; may be given several times.",
    ),
    click.option("-o", "--output", metavar="FILE", help="Where to write; without it, standard output."),
    click.option(
        "--bind-outbound",
        metavar="ADDRESS",
        callback=_address,
        help="Listen on each service port at this address, so that clients need no iptables.",
    ),
    click.option(
        "--bind-inbound",
        metavar="ADDRESS",
        callback=_address,
        help="Listen on each port of this node's proxied instances at this address. With either --bind option, a "
        "direction that is not bound has no listeners.",
    ),
    click.option(
        "--certs",
        metavar="DIR",
        help="Folder of key.pem, cert-chain.pem and root-cert.pem, which Envoy reads from there; for mutual TLS. A "
        "gateway's secrets are in its folder secrets.",
    ),
    click.option("--admin", metavar="SOCKET|IP:PORT", help="Give Envoy an admin interface there (default: none)."),
)


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command(
    cls=Command,
    examples="""
# What would this node's Envoy do with these rules?
hostmesh render --catalog catalog.yaml --node vm-1 -f rules/ -o envoy.json
envoy --mode validate -c envoy.json

# A client of the mesh without iptables
hostmesh render --catalog catalog.yaml --node vm-1 -f rules/ --bind-outbound 127.0.0.2 -o envoy.json
envoy --use-dynamic-base-id -c envoy.json &
curl -H 'Host: reviews' http://127.0.0.2:9080/
""",
)
@_with_options
@click.pass_context
def render(
    ctx: click.Context,
    catalog_file: str,
    node: str,
    files: tuple[str, ...],
    output: str | None,
    bind_outbound: str | None,
    bind_inbound: str | None,
    certs: str | None,
    admin: str | None,
) -> None:
    """Write one node's whole Envoy configuration (a static bootstrap, JSON), without Consul.

    What rules and catalog ask for and can't be had is said on standard error; the rest is rendered.
    """
    from agent.api.lowering.lower import lower
    from agent.cli.catalog_file import read_catalog
    from agent.cli.certificate_files import read_certificates
    from agent.cli.render_mesh import check_bindings, node_options, node_snapshot, security_warnings
    from agent.mesh.names import process_name
    from agent.translate.plan import Planner
    from agent.translate.static import static_bootstrap

    catalog = read_catalog(_read(catalog_file), catalog_file)
    if node not in catalog.nodes:
        raise UserError(f"{catalog_file}: there is no node {node!r} (nodes: {', '.join(sorted(catalog.nodes))})")
    # What cannot be enforced is left out, as an agent does, and told with the other faults.
    documents = load_checked(files, given_flags(ctx).get("namespace") or "default").documents if files else []
    lowered = lower(documents, [service.key for service in catalog.services])
    certificates = read_certificates(certs) if certs else None
    snapshot = node_snapshot(catalog, node, lowered, certificates)
    options = node_options(catalog.host, bind_outbound, bind_inbound)
    check_bindings(snapshot, options)
    desired = Planner().plan(snapshot, options)
    faults = [f"{fault.subject}: {fault.reason}" for fault in sorted({*lowered.faults, *desired.faults})]
    for line in security_warnings(snapshot, certificates) + faults:
        click.echo(f"Warning: {line}", err=True)
    own = process_name(snapshot.workloads[0].service if snapshot.workloads else None)
    _write(output, static_bootstrap(desired, node, certificates.files if certificates else None, _admin(admin), own))


def _admin(place: str | None) -> dict[str, Any] | None:
    """Return Envoy's admin message for a socket's path or ADDRESS:PORT."""
    from agent.translate.bootstrap import admin

    if place is None or "/" in place:
        return admin(place) if place else None
    address, _, port = place.rpartition(":")
    try:
        value = {"address": str(ip_address(address.strip("[]"))), "port_value": int(port)}
    except ValueError:
        raise UserError(f"--admin {place}: neither the path of a socket (with a /) nor ADDRESS:PORT") from None
    return {"address": {"socket_address": value}}


def _read(name: str) -> str:
    try:
        return Path(name).read_text("utf-8-sig")
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not UTF-8 text (byte {error.start}); save the file as UTF-8") from error


def _write(output: str | None, data: bytes) -> None:
    if output is None or output == "-":
        click.echo(data, nl=False)
        return
    try:
        Path(output).write_bytes(data)
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror or error}") from error
