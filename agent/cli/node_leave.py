"""`hostmesh node leave` and `hostmesh mesh purge`: take out of Consul what hostmesh has put there."""

from __future__ import annotations

from pathlib import Path

import click

from agent.cli.command import Command, given_flags
from agent.cli.service import config_dir_option
from agent.errors import HostmeshError, UserError

UNIT = "hostmesh-agent.service"
_YES = click.option("--yes", is_flag=True, help="Do not ask.")


@click.command(cls=Command, examples="hostmesh node leave\nhostmesh node leave --yes")
@_YES
@click.option("--run-dir", metavar="DIR", envvar="HOSTMESH_RUN_DIR", default="/run/hostmesh", show_default=True)
@config_dir_option
def leave(yes: bool, run_dir: str, config_dir: Path) -> None:
    """End this host's part in the mesh (as root): stop the agent for good, take what it registered out of Consul.

    Its files stay: `apt purge hostmesh-agent` removes them. `hostmesh node init` lets it join again.
    """
    from agent.adapters import systemd
    from agent.adapters.consul.departure import Departure
    from agent.config import load_config
    from agent.runtime.configuration_check import consul_address

    config = load_config(config_dir, Path("/var/lib/hostmesh"), Path(run_dir))
    departure = Departure(consul_address(config))
    departure.of_this_node(config.node)  # nothing is stopped if Consul cannot be asked
    if not yes:
        click.confirm(f"Stop hostmesh-agent on {config.node} and take its registrations out of Consul?", abort=True)
    if systemd.is_booted() and systemd.is_installed(UNIT):
        systemd.act("disable", "--quiet", "--now", UNIT)
    _refuse_while_running(Path(run_dir))
    found = departure.of_this_node(config.node)
    departure.remove_local(found.services)
    departure.remove(found, with_services=False)
    for service in found.services:
        click.echo(f"Deregistered {service.id}")
    click.echo(f"{config.node} has left the mesh")


@click.command(cls=Command, examples="hostmesh mesh purge\nhostmesh mesh purge --yes")
@_YES
@click.pass_context
def purge(ctx: click.Context, yes: bool) -> None:
    """Take the whole mesh out of Consul: all rules, settings, instances, sessions, and the CA's shared records.

    Every host must have left (`hostmesh node leave`). It removes exactly what it lists; what comes or changes meanwhile
    stays, and ends it with an error. The Consul token must be allowed to write all that (a management token).
    """
    from agent.adapters.consul.departure import KV_TREE, Departure
    from agent.cli.connection import resolve

    connection = resolve(given_flags(ctx))
    departure = Departure(connection.consul())
    found = departure.of_the_mesh()
    if found.is_empty:
        click.echo(f"Nothing of hostmesh is in Consul at {connection.address}")
        return
    living = sorted({it.node for it in found.sessions} | {it.node for it in found.services if it.alive})
    if living:
        raise UserError(f"still in the mesh: {', '.join(living)}; run `hostmesh node leave` there first")
    click.echo(f"In Consul at {connection.address}:")
    for key in found.keys:
        click.echo(f"  key      {key.key}")
    for service in found.services:
        click.echo(f"  service  {service.id} of node {service.node}")
    for node in found.nodes:
        click.echo(f"  node     {node}")
    if not yes:
        click.confirm("Remove all of it? It cannot be brought back", abort=True)
    departure.remove(found)
    click.echo(f"Removed {len(found.keys)} keys under {KV_TREE}, {len(found.services)} services")


def _refuse_while_running(run_dir: Path) -> None:
    from agent.adapters.agent_socket import AgentSocket

    try:
        node = AgentSocket(run_dir / "admin.sock").node()
    except HostmeshError:
        return
    raise UserError(
        f"the agent of {node} still runs and would register again; stop it first (SIGTERM), then run this again"
    )
