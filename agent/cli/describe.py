"""`hostmesh describe`: what the mesh knows of a service or an instance, and which rules are about it. Reads only."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import click

from agent.cli.command import Group, given_flags
from agent.cli.completion import complete_node
from agent.cli.output import output_option, print_records
from agent.errors import HostmeshError, UserError

if TYPE_CHECKING:
    from agent.api.analysis.world import World
    from agent.cli.connection import Connection
    from agent.cli.describe_live import InboundFacts
    from agent.cli.description import Record
    from agent.mesh.service import Instance


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
    examples="""
hostmesh describe service reviews.shop
hostmesh describe service reviews --from productpage -o json
"""
)
@click.argument("name")
@click.option(
    "--from",
    "caller",
    metavar="NODE",
    shell_complete=complete_node,
    help="Show also what this node's Envoy has of the service.",
)
@output_option("text", "json", "yaml")
@click.pass_context
def service(ctx: click.Context, name: str, caller: str | None, output: str) -> None:
    """Show a service's ports, names and instances, the rules about it in order, and what is wrong with them."""
    from agent.cli.agents import find_agent
    from agent.cli.connection import resolve
    from agent.cli.describe_live import outbound_record
    from agent.cli.describe_text import service_text
    from agent.cli.description import service_record

    connection = resolve(given_flags(ctx))
    world = _world(connection)
    key = world.catalog.resolve(name, connection.namespace)
    if key is None or world.services is None:
        known = ", ".join(sorted(str(each) for each in world.catalog.services)[:20]) or "none"
        raise UserError(f"no service {name!r} in the catalog (known: {known})")
    record = service_record(world, key, connection.namespace)
    if caller:
        record["envoy"] = outbound_record(find_agent(caller, None, None), caller, key)
    _print([record], service_text, output)


@describe.command(
    examples="""
hostmesh describe instance hostmesh-reviews-9080
hostmesh describe instance reviews-v1 -o yaml
"""
)
@click.argument("name", metavar="ID|NODE")
@output_option("text", "json", "yaml")
@click.pass_context
def instance(ctx: click.Context, name: str, output: str) -> None:
    """Show an instance (by its ID in Consul, or all of a node): where it is, its health, subsets and proxy.

    Its Envoy is asked too; if it cannot be, the reason is shown in that place.
    """
    from agent.cli.connection import resolve
    from agent.cli.describe_text import instance_text
    from agent.cli.description import instance_record
    from agent.cli.fleet import read_statuses

    connection = resolve(given_flags(ctx))
    world = _world(connection)
    all_of_them = [each for found in (world.services or {}).values() for each in found.instances]
    chosen = [each for each in all_of_them if name in (each.id, each.node)]
    if not chosen:
        raise UserError(f"no instance with the ID {name!r}, and none on a node of that name (see `describe service`)")
    statuses = {status.node: status for status in read_statuses(connection)}
    records = [instance_record(world, each, statuses.get(each.node)) for each in chosen]
    ask = cache(_inbound)  # a node once, however many instances it has
    for each, record in zip(chosen, records, strict=True):
        if record["proxy"]:
            record["envoy"] = _live(ask(each.node), each)
    _print(records, instance_text, output)


def _print(records: list[Record], to_text: Callable[[Record], str], output: str) -> None:
    if output == "text":
        click.echo("\n".join(map(to_text, records)))
    else:
        print_records(records, output)


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


def _live(facts: InboundFacts | str, each: Instance) -> Record:
    from agent.cli.describe_live import inbound_record

    return {"error": facts} if isinstance(facts, str) else inbound_record(facts, each)


def _inbound(node: str) -> InboundFacts | str:
    """Return what the node's Envoy says, or why it cannot be asked: the rest is worth printing all the same."""
    from agent.cli.agents import find_agent
    from agent.cli.describe_live import read_inbound

    try:
        return read_inbound(find_agent(node, None, None))
    except HostmeshError as error:
        return str(error)
