"""`hostmesh ca`: the certificate authority, by its socket on its own machine; here its join tokens."""

from __future__ import annotations

import time

import click

from agent.cli.ca_cert import cert
from agent.cli.ca_jwt import jwt
from agent.cli.ca_options import Duration, socket_option, utc
from agent.cli.ca_root import root
from agent.cli.command import Group
from agent.cli.output import output_option, print_records, table


@click.group(
    cls=Group,
    help="Work with the mesh's certificate authority; run it on hostmesh-ca's own machine.",
    examples="hostmesh ca token create --identity ns/default/sa/reviews",
)
def ca() -> None:
    """Hold the subcommands."""


@ca.group(
    cls=Group,
    help="Join tokens: with one, a new host gets its first certificate.",
    examples="""
hostmesh ca token create --identity ns/default/sa/reviews --ttl 1h
hostmesh ca token list
""",
)
def token() -> None:
    """Hold the subcommands."""


@token.command(
    examples="""
hostmesh ca token create --identity ns/default/sa/reviews
hostmesh ca token create --identity ns/default/sa/reviews --ttl 2d --uses 10 -o json
"""
)
@click.option("--identity", required=True, metavar="ns/NAMESPACE/sa/ACCOUNT", help="Who its bearer may become.")
@click.option("--ttl", type=Duration(), default="1h", show_default=True, help="How long it can be used.")
@click.option("--uses", type=click.IntRange(1), default=1, show_default=True, help="How many hosts may use it.")
@socket_option
@output_option("text", "json", "yaml")
def create(identity: str, ttl: int, uses: int, socket: str, output: str) -> None:
    """Make a join token and print it, this once: the CA keeps only a hash."""
    from agent.adapters.identity.administration import CaAdministration

    text, info = CaAdministration(socket).create_token(identity, ttl, uses)
    if output == "text":
        click.echo(text)
        return
    record = {"token": text, "id": info.id, "identity": info.identity, "expiresAt": info.expires_at, "uses": info.uses}
    print_records(record, output)


@token.command("list", examples="hostmesh ca token list -o json")
@socket_option
@output_option("table", "json", "yaml")
def list_tokens(socket: str, output: str) -> None:
    """List the join tokens, without their secrets."""
    from msgspec import to_builtins

    from agent.adapters.identity.administration import CaAdministration

    tokens = CaAdministration(socket).list_tokens()
    if output != "table":
        print_records(to_builtins(tokens), output)
        return
    now = time.time()
    rows = [
        (info.id, info.identity, info.state(now), f"{info.used}/{info.uses}", utc(info.expires_at)) for info in tokens
    ]
    click.echo(table(("ID", "IDENTITY", "STATE", "USED", "EXPIRES"), rows))


@token.command(examples="hostmesh ca token revoke 5f0c1d2e3a4b")
@click.argument("token_id", metavar="ID")
@socket_option
def revoke(token_id: str, socket: str) -> None:
    """Make a join token unusable; certificates that were issued for it stay."""
    from agent.adapters.identity.administration import CaAdministration

    info = CaAdministration(socket).revoke_token(token_id)
    click.echo(f"Revoked join token {info.id} ({info.identity}), used {info.used} of {info.uses} times")


ca.add_command(cert)
ca.add_command(jwt)
ca.add_command(root)
