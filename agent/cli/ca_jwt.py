"""`hostmesh ca jwt`: the keys of JWT-SVIDs."""

from __future__ import annotations

import click

from agent.cli.ca_options import socket_option
from agent.cli.command import Group
from agent.errors import UserError


@click.group(
    cls=Group,
    help="JWT-SVIDs: tokens that programs get by the SPIFFE Workload API.",
    examples="hostmesh ca jwt keys",
)
def jwt() -> None:
    """Hold the subcommands."""


@jwt.command(examples="hostmesh ca jwt keys > jwks.json")
@socket_option
def keys(socket: str) -> None:
    """Print the public keys that verify tokens (a JSON Web Key Set), for those who are not in the mesh."""
    from agent.adapters.identity.administration import CaAdministration

    jwks = CaAdministration(socket).jwks()
    if not jwks:
        raise UserError("hostmesh-ca issues no JWT-SVIDs: it has no JWT key (ca.yaml: jwt.keyFile)")
    click.echo(jwks)
