"""`hostmesh node`: how a host becomes a node of the mesh, and leaves it."""

from __future__ import annotations

from pathlib import Path

import click

from agent.cli.ca_options import Duration, socket_option
from agent.cli.command import Group, given_flags
from agent.cli.node_init import init
from agent.cli.node_leave import leave
from agent.errors import CaUnavailable, ConflictError, HostmeshError, Refused, UserError

CA_PATIENCE_SECONDS = 5.0


@click.group(
    cls=Group,
    examples="""
# On the administrator's machine (where hostmesh-ca runs), then on the new host
hostmesh node bundle web-1 --ca ca.example --identity ns/default/sa/reviews
hostmesh node init --bundle web-1.bundle
""",
)
def node() -> None:
    """Let a host join the mesh, and leave it."""


@node.command(
    examples="""
hostmesh node bundle web-1 --ca ca.example --identity ns/default/sa/reviews
hostmesh node bundle web-2 --ca ca-1 --ca ca-2 --identity ns/shop/sa/web --node-token-file web-2.token --ttl 8h
"""
)
@click.argument("name")
@click.option(
    "--ca", "cas", multiple=True, metavar="HOST", help="hostmesh-ca, as the new host reaches it; again for more."
)
@click.option("--without-ca", is_flag=True, help="The host gets no certificates.")
@click.option("--ca-ports", default="15012,15013", show_default=True, help="The CA's ports of enrolment and renewal.")
@click.option(
    "--identity",
    "identities",
    multiple=True,
    metavar="ns/NAMESPACE/sa/ACCOUNT",
    help="Of its services; again for more.",
)
@click.option("--ttl", type=Duration(), default="1h", show_default=True, help="How long the join tokens can be used.")
@click.option(
    "--node-consul", default="http://127.0.0.1:8500", show_default=True, help="Consul, as the host reaches it."
)
@click.option("--node-consul-ca", metavar="FILE", help="CA certificate of that Consul (https).")
@click.option(
    "--node-token-file", metavar="FILE", help="The host's Consul ACL token (policy: hostmesh consul-policy agent)."
)
@click.option("--cluster-env", metavar="FILE", help="cluster.env, the settings that all hosts share.")
@click.option("--out", metavar="FILE", help="What to write (default: NAME.bundle).")
@click.option("--force", is_flag=True, help="Replace the file.")
@socket_option
@click.pass_context
def bundle(
    ctx: click.Context,
    name: str,
    cas: tuple[str, ...],
    without_ca: bool,
    ca_ports: str,
    identities: tuple[str, ...],
    ttl: int,
    node_consul: str,
    node_consul_ca: str | None,
    node_token_file: str | None,
    cluster_env: str | None,
    out: str | None,
    force: bool,
    socket: str,
) -> None:
    """Make the one file that a new host needs to join: settings, join tokens, trust, Consul's address.

    Run it where hostmesh-ca runs. The tokens are for one use; the file is a secret until they are used or over.
    """
    from agent.adapters.consul.address import ConsulAddress
    from agent.adapters.files import write_atomic
    from agent.api.checks.words import host as host_name
    from agent.cli.connection import resolve
    from agent.cli.node_bundle import BundleCa, BundleConsul, NodeBundle, dump_bundle

    if wrong := host_name(name):
        raise UserError(f"NAME: {wrong}")
    if bool(cas) is without_ca:
        raise click.UsageError("give --ca HOST (or --without-ca)", ctx)
    path = Path(out or f"{name}.bundle")
    if path.exists() and not force:
        raise ConflictError(f"{path} is there already; its join tokens may be used: replace it with --force")
    ConsulAddress.from_url(node_consul, source="--node-consul")
    ports = _ports(ca_ports)
    consul = BundleConsul(node_consul, _read(node_token_file).strip(), _read(node_consul_ca))
    environment = _read(cluster_env)
    namespace = resolve(given_flags(ctx)).namespace
    wanted = (identities or (f"ns/{namespace}/sa/default",)) if cas else ()
    tokens = _make_tokens(socket, wanted, ttl, cas, ports[0])
    made = NodeBundle(name, consul=consul, ca=BundleCa(cas, *ports), join_tokens=tokens, environment=environment)
    try:
        write_atomic(path, dump_bundle(made), mode=0o600)
    except HostmeshError:
        _revoke(socket, tokens)
        raise
    click.echo(f"{path}: written. Copy it to {name} and run there, as root: hostmesh node init --bundle {path.name}")


def _make_tokens(socket: str, identities: tuple[str, ...], ttl: int, cas: tuple[str, ...], port: int) -> dict[str, str]:
    from agent.adapters.identity.administration import CaAdministration

    tokens: dict[str, str] = {}
    try:
        for identity in identities:
            tokens[identity], _ = CaAdministration(socket).create_token(identity, ttl, 1)
        for token, ca in [(token, ca) for token in list(tokens.values())[:1] for ca in cas]:
            _try_ca(token, ca, port)
    except HostmeshError:
        _revoke(socket, tokens)
        raise
    return tokens


def _try_ca(token: str, ca: str, port: int) -> None:
    """Raise CaRefused if another CA answers there; one that cannot be reached from here may be from the host."""
    from agent.adapters.identity.first_contact import fetch_root
    from node_ca.proto.token import JoinToken

    try:
        fetch_root(ca, port, JoinToken.from_text(token).root_fingerprint, CA_PATIENCE_SECONDS)
    except CaUnavailable as error:
        click.echo(f"Note: {error}; the new host must reach it", err=True)


def _revoke(socket: str, tokens: dict[str, str]) -> None:
    """Make tokens unusable that nobody will ever see."""
    from agent.adapters.identity.administration import CaAdministration
    from node_ca.proto.token import JoinToken

    for token in tokens.values():
        try:
            CaAdministration(socket).revoke_token(JoinToken.from_text(token).id)
        except (HostmeshError, Refused) as error:
            click.echo(f"Note: a join token stays until it is over: {error}", err=True)


def _ports(text: str) -> tuple[int, int]:
    from agent.config_checks import ports

    try:
        enrolment, renewal = ports(text)
    except ValueError as error:
        raise UserError(f"--ca-ports {text}: not two ports; write 15012,15013") from error
    return enrolment, renewal


def _read(path: str | None) -> str:
    try:
        return Path(path).read_text(encoding="utf-8") if path else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


node.add_command(init)
node.add_command(leave)
