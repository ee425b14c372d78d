"""The hostmesh-agent command: reads the configuration, sets up the log, runs the daemon."""

from __future__ import annotations

import asyncio
import faulthandler
import sys
from pathlib import Path

import click

from agent import __version__
from agent.config import load_config
from agent.errors import ConfigError, HostmeshError
from agent.runtime.configuration_check import check_configuration
from agent.runtime.log_setup import set_up_log


@click.command(epilog="Example: hostmesh-agent --check --config-dir /etc/hostmesh")
@click.option("--config-dir", type=click.Path(path_type=Path), default=Path("/etc/hostmesh"), show_default=True)
@click.option("--state-dir", type=click.Path(path_type=Path), default=Path("/var/lib/hostmesh"), show_default=True)
@click.option("--run-dir", type=click.Path(path_type=Path), default=Path("/run/hostmesh"), show_default=True)
@click.option("--check", is_flag=True, help="Check the configuration, start nothing.")
@click.option("--guard", is_flag=True, help="Shut this host's mesh ports until an agent serves; start nothing.")
@click.option("--leave", is_flag=True, help="Have the agent that runs leave the catalog: the host goes down.")
@click.option("--remove", is_flag=True, help="Take down what an agent that died has left: rules, names, Envoy.")
@click.version_option(__version__, prog_name="hostmesh-agent")
def main(config_dir: Path, state_dir: Path, run_dir: Path, check: bool, guard: bool, leave: bool, remove: bool) -> None:
    """Run the mesh on this host: registration, certificates, interception, DNS and Envoy."""
    try:
        if check:
            _check(config_dir, state_dir, run_dir)
            return
        if remove:
            from agent.runtime.takedown import take_down

            set_up_log("info")
            asyncio.run(take_down(config_dir, state_dir, run_dir))
            return
        config = load_config(config_dir, state_dir, run_dir)
        set_up_log(config.log.level)
        if guard:
            from agent.runtime import takedown

            asyncio.run(takedown.guard(config))
            return
        if leave:
            from agent.runtime.leaving import ask_to_leave

            asyncio.run(ask_to_leave(config))
            return
        faulthandler.enable()  # systemd's watchdog ends an agent that hangs with SIGABRT: the log shall say where
        from agent.runtime.daemon import run_daemon  # grpc and the xDS messages take 0.3 s to import: not for --check

        asyncio.run(run_daemon(config))
    except ConfigError as error:
        for problem in error.problems:
            click.echo(f"hostmesh-agent: {problem}", err=True)
        sys.exit(1)
    except HostmeshError as error:
        click.echo(f"hostmesh-agent: {error}", err=True)
        sys.exit(1)


def _check(config_dir: Path, state_dir: Path, run_dir: Path) -> None:
    checked = check_configuration(config_dir, state_dir, run_dir)
    if checked.problems:
        raise ConfigError(list(checked.problems))
    for note in checked.notes:
        click.echo(f"Note: {note}", err=True)
    click.echo(checked.summary)
