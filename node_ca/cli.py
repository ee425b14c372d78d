"""The `hostmesh-ca` daemon's entry: options, logging, signals, systemd. Decides nothing about certificates."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from pathlib import Path

import click

from node_ca import __version__
from node_ca.audit import JsonLines
from node_ca.config import DEFAULT_CONFIG, Config, load_config
from node_ca.errors import CaError

_LOG = logging.getLogger("hostmesh.ca")


@click.command(name="hostmesh-ca", epilog="Example: hostmesh-ca --check --config /etc/hostmesh/ca.yaml")
@click.option("--config", "path", type=click.Path(path_type=Path), default=DEFAULT_CONFIG, show_default=True)
@click.option("--check", is_flag=True, help="Only check the configuration, and say what is wrong with it.")
@click.version_option(__version__, prog_name="hostmesh-ca")
def main(path: Path, check: bool) -> None:
    """Run the certificate authority of a hostmesh mesh."""
    try:
        config = load_config(path)
        if check:
            click.echo(f"{path}: in order")
            return
        _log_json_lines()
        asyncio.run(_serve(config))
    except CaError as error:
        click.echo(str(error), err=True)
        sys.exit(1)


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
