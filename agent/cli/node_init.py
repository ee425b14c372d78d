"""`hostmesh node init`: makes this host a node of the mesh; again with the same bundle it changes nothing."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.command import Command
from agent.cli.service import config_dir_option
from agent.errors import UserError

if TYPE_CHECKING:
    from agent.cli.node_bundle import NodeBundle

UNIT = "hostmesh-agent.service"


@click.command(
    cls=Command,
    examples="""
hostmesh node init --bundle web-1.bundle

# Without a bundle: by flags, or it asks for what is missing
hostmesh node init --node web-1 --ca ca.example --join-token-file token
hostmesh node init
""",
)
@click.option("--bundle", "bundle_file", metavar="FILE", help="What `hostmesh node bundle` made; - for standard input.")
@click.option("--node", help="The node's name (default: the bundle's, else the host name).")
@click.option("--ca", "cas", multiple=True, metavar="HOST", help="hostmesh-ca; again for more.")
@click.option("--without-ca", is_flag=True, help="Take part without certificates.")
@click.option("--join-token-file", metavar="FILE", help="The join token, from `hostmesh ca token create`.")
@click.option("--node-consul", metavar="URL", help="Consul's address (default: http://127.0.0.1:8500).")
@click.option("--no-start", is_flag=True, help="Write and check the configuration only.")
@click.option("--force", is_flag=True, help="Replace settings and files that say something else.")
@config_dir_option
def init(
    bundle_file: str | None,
    node: str | None,
    cas: tuple[str, ...],
    without_ca: bool,
    join_token_file: str | None,
    node_consul: str | None,
    no_start: bool,
    force: bool,
    config_dir: Path,
) -> None:
    """Write this host's configuration, check it, and start the agent now and at each boot (as root).

    Everything is checked before anything is written; what cannot be written whole is put back as it was.
    """
    from agent.cli.node_files import check_files, install_files, wanted_files

    given = _from_flags(bundle_file, node, cas, without_ca, join_token_file, node_consul)
    changes = wanted_files(config_dir, given, force=force)
    checked = check_files(config_dir, changes)
    install_files(config_dir, changes)
    for note in checked.notes:
        click.echo(f"Note: {note}", err=True)
    for name in sorted(changes):
        click.echo(f"{config_dir / name}: written")
    if not changes:
        click.echo(f"{config_dir}: unchanged")
    click.echo(checked.summary)
    if not no_start:
        _start(changed=bool(changes))


def _from_flags(
    bundle_file: str | None,
    node: str | None,
    cas: tuple[str, ...],
    without_ca: bool,
    join_token_file: str | None,
    node_consul: str | None,
) -> NodeBundle:
    """Return the bundle with what the flags say over it, and what is missing asked for if somebody is there."""
    import msgspec

    from agent.adapters.consul.address import ConsulAddress
    from agent.api.checks.words import host as host_name
    from agent.cli.node_bundle import BundleCa, NodeBundle, read_bundle

    found = read_bundle(_read(bundle_file), bundle_file) if bundle_file else NodeBundle()
    asks = not bundle_file and sys.stdin.isatty()
    name = node or found.node or (_ask("This node's name", socket.gethostname()) if asks else socket.gethostname())
    if wrong := host_name(name):
        raise UserError(f"--node: {wrong}")
    address = node_consul or (_ask("Consul's address", found.consul.address) if asks else found.consul.address)
    ConsulAddress.from_url(address, source="--node-consul")
    if asks and not (cas or without_ca):
        cas = tuple(_ask("hostmesh-ca's host (empty: no certificates)", "").split())
    ca = BundleCa() if without_ca else msgspec.structs.replace(found.ca, addresses=cas or found.ca.addresses)
    if not ca.addresses and not without_ca and not asks:
        raise UserError("where is the CA? Give --bundle FILE, --ca HOST, or --without-ca")
    tokens = {"": _token(_read(join_token_file).decode(errors="replace"))} if join_token_file else found.join_tokens
    if ca.addresses and not tokens and asks:
        tokens = {"": _token(click.prompt("Join token (hostmesh ca token create)", hide_input=True))}
    consul = msgspec.structs.replace(found.consul, address=address)
    return msgspec.structs.replace(found, node=name, consul=consul, ca=ca, join_tokens={} if without_ca else tokens)


def _start(*, changed: bool) -> None:
    from agent.adapters import systemd

    if not systemd.is_booted() or not systemd.is_installed(UNIT):
        click.echo(
            "Note: systemd, or the package hostmesh-agent, is not there: start hostmesh-agent yourself", err=True
        )
        return
    systemd.act("enable", "--quiet", UNIT)
    if not systemd.is_active(UNIT):
        systemd.act("start", UNIT)
        click.echo("hostmesh-agent: started, and enabled at boot")
    elif changed:
        systemd.act("restart", UNIT)  # no request is lost by it
        click.echo("hostmesh-agent: restarted")
    else:
        click.echo("hostmesh-agent: runs already")


def _token(text: str) -> str:
    from node_ca.proto.token import JoinToken

    try:
        return JoinToken.from_text(text).text()
    except ValueError as error:
        raise UserError(f"the join token: {error}") from error


def _ask(question: str, default: str) -> str:
    answer: str = click.prompt(question, default=default, show_default=bool(default))
    return answer.strip()


def _read(path: str | None) -> bytes:
    try:
        return sys.stdin.buffer.read() if path == "-" else Path(path or "").read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
