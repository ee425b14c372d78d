"""`hostmesh describe`: what the mesh knows of a service or an instance, and which rules are about it. Reads only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from agent.cli.command import Group, given_flags
from agent.cli.output import table
from agent.errors import HostmeshError, UserError

if TYPE_CHECKING:
    from agent.api.analysis.world import World
    from agent.cli.connection import Connection
    from agent.mesh.routes import Destination
    from agent.mesh.service import Instance, Labels, Service, ServiceKey
    from agent.mesh.status import NodeStatus


@click.group(
    cls=Group,
    help="Tell what the mesh knows of a service or an instance: from Consul's catalog, the stored rules, what the "
    "agents report and what their Envoys really have (asked as `hostmesh proxy-config` does).",
    examples="""
hostmesh describe service reviews
hostmesh describe service reviews --from productpage
hostmesh describe instance hostmesh-reviews-9080
""",
)
def describe() -> None:
    """Hold the subcommands."""


@describe.command(
    examples="hostmesh describe service reviews.shop\nhostmesh describe service reviews --from productpage"
)
@click.argument("name")
@click.option("--from", "caller", metavar="NODE", help="Show also what this node's Envoy has of the service.")
@click.pass_context
def service(ctx: click.Context, name: str, caller: str | None) -> None:
    """Show a service's ports, names and instances, the rules about it in order, and what is wrong with them."""
    from agent.cli.connection import resolve
    from agent.mesh.names import hosts_by_service

    connection = resolve(given_flags(ctx))
    world = _world(connection)
    key = world.catalog.resolve(name, connection.namespace)
    if key is None or world.services is None:
        known = ", ".join(sorted(str(each) for each in world.catalog.services)[:20]) or "none"
        raise UserError(f"no service {name!r} in the catalog (known: {known})")
    found = world.services[key]
    click.echo(f"Service:   {key}")
    click.echo(f"Names:     {', '.join(hosts_by_service(world.services, connection.namespace)[key])}")
    click.echo(f"Ports:     {', '.join(f'{port.number} {port.name}/{port.protocol}' for port in found.ports)}")
    click.echo(f"mTLS:      {world.settings.mtls} in the mesh; {_proxied(found)}")
    click.echo("")
    click.echo(_instances(found))
    click.echo("")
    click.echo("\n".join(_rules(world, key)))
    for line in _findings(world, key):
        click.echo(line)
    if caller:
        from agent.cli.agents import find_agent
        from agent.cli.describe_live import service_lines

        click.echo(f"\nEnvoy of {caller}:")
        click.echo("\n".join(service_lines(find_agent(caller, None, None), key)))


@describe.command(examples="hostmesh describe instance hostmesh-reviews-9080\nhostmesh describe instance reviews-v1")
@click.argument("name", metavar="ID|NODE")
@click.pass_context
def instance(ctx: click.Context, name: str) -> None:
    """Show an instance (by its ID in Consul, or all of a node): where it is, its health, subsets and proxy."""
    from agent.cli.connection import resolve
    from agent.cli.fleet import read_statuses

    connection = resolve(given_flags(ctx))
    world = _world(connection)
    all_of_them = [each for found in (world.services or {}).values() for each in found.instances]
    chosen = [each for each in all_of_them if name in (each.id, each.node)]
    if not chosen:
        raise UserError(f"no instance with the ID {name!r}, and none on a node of that name (see `describe service`)")
    statuses = {status.node: status for status in read_statuses(connection)}
    for each in chosen:
        click.echo("\n".join(_instance(world, each, statuses.get(each.node))))


def _world(connection: Connection) -> World:
    from agent.api.analysis.world import World
    from agent.api.kinds import KINDS
    from agent.api.settings import parse_settings
    from agent.api.validate import find_problems, is_invalid
    from agent.cli.fleet import read_services
    from agent.cli.objects import list_objects
    from agent.cli.settings import read_stored_settings
    from agent.mesh.names import KV_MESH

    settings = parse_settings(read_stored_settings(connection), KV_MESH)
    documents, problems = list_objects(connection, KINDS, None)
    for problem in problems:
        click.echo(f"Warning: {problem}", err=True)
    valid = [document for document in documents if not is_invalid(find_problems(document))]
    return World(valid, read_services(connection, settings.excluded_services), settings)


def _proxied(found: Service) -> str:
    count = sum(each.proxied for each in found.instances)
    return f"{count} of {len(found.instances)} instances take mutual TLS"


def _instances(found: Service) -> str:
    rows = [
        (each.id, each.node, each.address, str(each.health), "yes" if each.proxied else "no", _labels(each.labels))
        for each in found.instances
    ]
    return table(("INSTANCE", "NODE", "ADDRESS", "HEALTH", "PROXIED", "LABELS"), rows)


def _labels(labels: Labels) -> str:
    return ",".join(f"{key}={value}" for key, value in labels) or "-"


def _rules(world: World, key: ServiceKey) -> list[str]:
    """Return the documents about a service: routes in the order in which they are tried, then policies."""
    from agent.api.lowering.lower import lower

    policy = lower(world.documents, world.catalog.services).policies.get(key)
    lines = ["Routes, the first that matches counts:"]
    for route in policy.routes if policy else ():
        name = f" {route.name}" if route.name else ""
        matches = f"{len(route.matches)} match{'es' if len(route.matches) != 1 else ''}" if route.matches else "always"
        targets = ", ".join(f"{one.weight} % {_target(one.destination)}" for one in route.destinations)
        lines.append(f"  {route.origin}{name} ({matches}): {targets or 'answered by the proxy'}")
    if policy is None or policy.default_route:
        lines.append("  otherwise: all instances")
    else:
        lines.append("  otherwise: 404")
    named = [rule.origin for rule in policy.connections] if policy else []
    subsets = world.subsets.get(key, {})
    lines.append(f"Policies:  {', '.join(map(str, named)) or 'none'}")
    for name, labels in sorted(subsets.items()):
        lines.append(f"  subset {name} ({_labels(labels)}): {world.instances(key, labels)} serving instances")
    return lines


def _target(destination: Destination) -> str:
    return f"{destination.service}/{destination.subset.name}" if destination.subset else str(destination.service)


def _findings(world: World, key: ServiceKey) -> list[str]:
    from agent.api.analysis.analyze import analyze

    about = {
        f"{document.kind} {document.name}.{document.namespace}"
        for document in world.documents
        if any(reference.service == key for reference in world.references(document))
    }
    found = analyze(world.documents, world.services, world.settings)
    return [f"  {one.line}" for one in found if one.object in about]


def _instance(world: World, each: Instance, status: NodeStatus | None) -> list[str]:
    subsets = [
        name for name, labels in sorted(world.subsets.get(each.service, {}).items()) if set(labels) <= set(each.labels)
    ]
    idle = "" if world.settings.warning_instances.serves(each.health) else " (gets no traffic)"
    lines = [
        f"Instance:  {each.id}",
        f"Service:   {each.service}",
        f"Node:      {each.node} ({each.address})",
        f"Ports:     {', '.join(f'{port.number} {port.name}/{port.protocol}' for port in each.ports)}",
        f"Health:    {each.health}{idle}",
        f"Labels:    {_labels(each.labels)}",
        f"Subsets:   {', '.join(subsets) or '-'}",
        f"Identity:  {each.service.namespace}/{each.service_account}",
    ]
    if status is None or not each.proxied:
        return [
            *lines,
            "Proxy:     none (plain text)" if not each.proxied else "Proxy:     its agent does not report",
            "",
        ]
    revision = f"revision {status.proxy.acked_revision} of {status.proxy.config_revision}"
    lines.append(f"Proxy:     {status.state}, {revision}, Envoy {status.proxy.version or '-'}")
    faults = [f"  {fault.subject}: {fault.reason}" for fault in (*status.proxy.nacks, *status.faults)]
    return [*lines, *_live(each), *faults, ""]


def _live(each: Instance) -> list[str]:
    """Return what the instance's Envoy says, or why it cannot be asked: the rest is worth printing all the same."""
    from agent.cli.agents import find_agent
    from agent.cli.describe_live import instance_lines

    try:
        return instance_lines(find_agent(each.node, None, None), each)
    except HostmeshError as error:
        return [f"Envoy:     cannot be asked: {error}"]
