"""The `hostmesh-ca` daemon's entry: options, logging, signals, systemd. Decides nothing about certificates."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

from node_ca import __version__
from node_ca.audit import JsonLines
from node_ca.authority import Plugin
from node_ca.config import DEFAULT_CONFIG, Config, load_config
from node_ca.errors import CaError
from node_ca.jwt_keys import configured

_LOG = logging.getLogger("hostmesh.ca")


@click.group(
    name="hostmesh-ca",
    invoke_without_command=True,
    epilog="Example: hostmesh-ca --check --config /etc/hostmesh/ca.yaml",
)
@click.option("--config", "path", type=click.Path(path_type=Path), default=DEFAULT_CONFIG, show_default=True)
@click.option(
    "--check", is_flag=True, help="Only check the configuration (and caFiles), and say what is wrong with it."
)
@click.version_option(__version__, prog_name="hostmesh-ca")
@click.pass_context
def main(ctx: click.Context, path: Path, check: bool) -> None:
    """Run the certificate authority of a hostmesh mesh; or back it up, or restore it."""
    with _faults_told():
        config = load_config(path)
        ctx.obj = config
        if check:
            plugin = _plugin(config)
            if plugin.folder is not None:
                plugin.issuer(plugin.folder, config.trust_domain, time.time())
            configured(config.jwt)
            click.echo(f"{path}: in order")
        elif ctx.invoked_subcommand is None:
            _log_json_lines()
            asyncio.run(_serve(config))


@main.command(epilog="Example: hostmesh-ca backup /root/ca-backup.tar")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.pass_obj
def backup(config: Config, file: Path) -> None:
    """Write keys and records into one file, also while the CA runs. Keep it as safe as the CA itself."""
    from node_ca.backup import back_up

    with _faults_told():
        recorded = back_up(Path(config.state_dir), config.trust_domain, _plugin(config), file.absolute())
    click.echo(f"{file}: has the CA's keys{' and records' if recorded else ' (its records are in Consul)'}")


@main.command(epilog="Example: hostmesh-ca restore /root/ca-backup.tar")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.pass_obj
def restore(config: Config, file: Path) -> None:
    """Put a backup into the state directory, which must be empty, while no CA runs there."""
    from node_ca.backup import restore as put_back

    with _faults_told():
        put_back(Path(config.state_dir), config.trust_domain, _plugin(config), file)
    click.echo(f"{config.state_dir}: restored from {file}")


@contextlib.contextmanager
def _faults_told() -> Iterator[None]:
    try:
        yield
    except CaError as error:
        click.echo(str(error), err=True)
        sys.exit(1)


def _plugin(config: Config) -> Plugin:
    return Plugin.read(config.ca_files, config.ca_key_passphrase_file, config.server_names.needed().general_names)


async def _serve(config: Config) -> None:
    # Before gRPC is imported: its core would write lines of its own among the JSON, one for each failed handshake.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from node_ca.server import CaServer

    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    server = await CaServer.open(config)
    try:
        await server.start()
        _LOG.info(
            "ready: trust domain %s, enrolment port %d, renewal port %d, admin socket %s",
            config.trust_domain,
            server.enrolment_port,
            server.renewal_port,
            config.admin_socket,
        )
        _notify("READY=1")
        await stopping.wait()
        _notify("STOPPING=1")
    finally:
        await server.stop()
    _LOG.info("stopped")


def _notify(state: str) -> None:
    if os.environ.get("NOTIFY_SOCKET"):
        from systemd import daemon  # a native module; only needed under systemd

        with contextlib.suppress(OSError):  # a supervisor that stopped listening is no reason to fail
            daemon.notify(state)


def _log_json_lines() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


if __name__ == "__main__":
    main()
