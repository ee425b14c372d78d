"""`hostmesh consul-policy`: prints what a role needs of Consul's ACLs, for `consul acl policy create -rules -`."""

from __future__ import annotations

import re

import click

from agent.cli.command import Group, given_flags
from agent.errors import UserError

_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")


@click.group(
    cls=Group,
    help="Print the Consul ACL policy of a role: the least that it needs.",
    examples="""
hostmesh consul-policy agent --node web-1 --service reviews --service ratings >agent-web-1.hcl
hostmesh consul-policy operator --namespace shop | consul acl policy create -name shop-operators -rules -
hostmesh consul-policy viewer
""",
)
def consul_policy() -> None:
    """Hold the roles."""


@consul_policy.command(examples="hostmesh consul-policy agent --node web-1 --service reviews")
@click.option("--node", required=True, metavar="NAME", help="The node's name (in Consul and in hostmesh the same).")
@click.option(
    "--service", "services", multiple=True, metavar="NAME", help="A service of its services.d; again for more."
)
def agent(node: str, services: tuple[str, ...]) -> None:
    """Of hostmesh-agent on one host."""
    from agent.adapters.consul.policies import agent_policy

    for name in (node, *services):
        _check(name)
    click.echo(agent_policy(node, services), nl=False)


@consul_policy.command(examples="hostmesh consul-policy ca")
def ca() -> None:
    """Of hostmesh-ca, if several share their records in Consul."""
    from agent.adapters.consul.policies import ca_policy

    click.echo(ca_policy(), nl=False)


@consul_policy.command(examples="hostmesh consul-policy viewer")
def viewer() -> None:
    """Of who sees rules, services and proxies' states, and changes nothing."""
    from agent.adapters.consul.policies import viewer_policy

    click.echo(viewer_policy(), nl=False)


@consul_policy.command(examples="hostmesh consul-policy operator --namespace shop --proxies")
@click.option("--proxies", is_flag=True, help="Also look into every Envoy of the mesh (proxy-config, describe).")
def operator(proxies: bool) -> None:
    """Of the operators of one namespace, which --namespace names."""
    from agent.adapters.consul.policies import operator_policy

    own = given_flags(click.get_current_context()).get("namespace")
    if own is None:
        raise UserError("whose operator? Give --namespace NAME")
    click.echo(operator_policy(own, proxies=proxies), nl=False)


@consul_policy.command(examples="hostmesh consul-policy administrator")
def administrator() -> None:
    """Of who operates the whole mesh."""
    from agent.adapters.consul.policies import administrator_policy

    click.echo(administrator_policy(), nl=False)


def _check(name: str) -> None:
    """Refuse what would be another rule, or nothing, in the policy's text."""
    if not _NAME.fullmatch(name):
        raise UserError(f"{name!r}: not a name (letters, digits, dots, dashes, underscores)")
