"""`hostmesh interception`: the rules by which this host's connections come to Envoy; with or without an agent."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.command import Group
from agent.cli.output import output_option, print_records, table
from agent.errors import HostError, UserError

if TYPE_CHECKING:
    from agent.config import Config
    from agent.runtime.host_interception import HostInterception
    from agent.translate.netfilter import NetfilterText

_FOLDERS = (
    ("--config-dir", "HOSTMESH_CONFIG_DIR", "/etc/hostmesh"),
    ("--state-dir", "HOSTMESH_STATE_DIR", "/var/lib/hostmesh"),
    ("--run-dir", "HOSTMESH_RUN_DIR", "/run/hostmesh"),
)


def _folders(command: Callable[..., None]) -> Callable[..., None]:
    for flag, variable, default in reversed(_FOLDERS):
        command = click.option(
            flag, envvar=variable, type=click.Path(path_type=Path), default=Path(default), show_default=True
        )(command)
    return command


class _Seconds(click.ParamType[float]):
    name = "DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from agent.api.checks.words import duration, seconds

        if isinstance(value, float):
            return value
        if problem := duration(str(value)):
            self.fail(problem, param, ctx)
        return seconds(str(value))


@click.group(
    cls=Group,
    examples="""
hostmesh interception plan
hostmesh interception diff
hostmesh interception apply --confirm 60s
""",
)
def interception() -> None:
    """Show, compare, apply and remove this host's iptables rules and routes (as root)."""


@interception.command(examples="hostmesh interception plan\nhostmesh interception plan -o json")
@_folders
@output_option("table", "json")
def plan(config_dir: Path, state_dir: Path, run_dir: Path, output: str) -> None:
    """Print the rules and routes that agent.yaml, sidecar.env and services.d mean; changes nothing."""
    host = _host(_config(config_dir, state_dir, run_dir))
    if output == "json":
        routes = [f"{network} dev lo" for network in host.ranges]
        print_records({"iptables": host.rules.v4, "ip6tables": host.rules.v6, "routes": routes}, output)
        return
    rows = [*_rule_rows(host.rules), *((f"ipv{it.version}", "route", "", f"{it} dev lo") for it in host.ranges)]
    click.echo(table(("FAMILY", "TABLE", "CHAIN", "RULE"), rows))


@interception.command(examples="hostmesh interception diff && echo all stands")
@_folders
@output_option("table", "json")
@click.pass_context
def diff(ctx: click.Context, config_dir: Path, state_dir: Path, run_dir: Path, output: str) -> None:
    """Compare what is live with the plan: `-` is missing, `+` is in excess; exit code 1 if anything differs."""
    host = _host(_config(config_dir, state_dir, run_dir))
    lines = asyncio.run(host.adapter.diff(host.rules.v4, host.rules.v6))
    changes = [line.split(" ", 3) for line in lines]
    if output == "json":
        fields = ("change", "family", "table", "rule")
        print_records([dict(zip(fields, _cells(change), strict=True)) for change in changes], output)
    elif changes:
        click.echo(table(("", "FAMILY", "TABLE", "RULE"), [_cells(change) for change in changes]))
    else:
        click.echo("Rules and routes are as planned.")
    if held := host.hold.reason():
        click.echo(f"Note: the agent leaves them alone: {held}", err=True)
    if changes:
        ctx.exit(1)


@interception.command(
    examples="""
hostmesh interception apply

# Taken back unless SSH, DNS and Consul still answer after a minute, or you confirm
hostmesh interception apply --confirm 60s
"""
)
@_folders
@click.option("--confirm", "seconds", type=_Seconds(), help="Take the change back unless this host stays reachable.")
def apply(config_dir: Path, state_dir: Path, run_dir: Path, seconds: float | None) -> None:
    """Make rules and routes as planned; a running agent takes up the same settings.

    With --confirm SSH (port 22), DNS and Consul are asked from this host for so long; unless all that answered before
    still do, everything is put back as it was. `hostmesh interception confirm` keeps the change at once. It goes on
    when the terminal that started it is cut off.
    """
    config = _config(config_dir, state_dir, run_dir)
    if seconds is not None:
        sys.exit(_try(config, seconds))
    host = _host(config)
    host.hold.set("interception is being changed")
    try:
        _reload_agent(config)
        found = asyncio.run(host.adapter.apply(host.rules.v4, host.rules.v6))
    finally:
        host.hold.release()
    click.echo(f"Applied: {len(found)} rules and routes changed." if found else "Nothing to change.")


@interception.command(examples="hostmesh interception confirm")
@_folders
def confirm(config_dir: Path, state_dir: Path, run_dir: Path) -> None:
    """Keep the change that `apply --confirm` has on trial."""
    from agent.runtime.trial import confirm

    confirm(run_dir)
    click.echo("Confirmed: the change stays.")


@interception.command(examples="hostmesh interception remove")
@_folders
def remove(config_dir: Path, state_dir: Path, run_dir: Path) -> None:
    """Take out every rule and route of hostmesh, and the mesh's names; a running agent leaves it so until `apply`.

    Programs of this host then talk as if there were no mesh. Ends with the machine's uptime, or `apply`, or a stop of
    the agent.
    """
    from agent.adapters.dns.hosts import HostsFile
    from agent.adapters.netfilter.hold import Hold
    from agent.adapters.netfilter.interception import Interception
    from agent.runtime.host_interception import agent_runs

    config = _config(config_dir, state_dir, run_dir)
    runs = agent_runs(config)
    if runs:
        Hold(config.run_dir).set("an operator has removed interception (`hostmesh interception apply` puts it back)")
    names = HostsFile(config.state_dir / "dns")
    if names.path.exists():
        names.clear()
    asyncio.run(Interception(_runner(), ()).remove())
    click.echo("Removed." + (" The agent leaves it so: `hostmesh interception apply` puts it back." if runs else ""))


@interception.command("trial", hidden=True, examples="hostmesh interception trial 60")
@_folders
@click.argument("seconds", type=float)
def trial(config_dir: Path, state_dir: Path, run_dir: Path, seconds: float) -> None:
    """Do what `apply --confirm` says, in a process that no terminal ends."""
    from agent.adapters.netfilter.interception import Interception
    from agent.adapters.probes import probes
    from agent.runtime.configuration_check import consul_address
    from agent.runtime.trial import Trial

    config = _config(config_dir, state_dir, run_dir)
    host = _host(config)
    asked = probes(config.address or "127.0.0.1", consul_address(config))
    change = Trial(run_dir, host.adapter, lambda it: Interception(_runner(), it.ranges), asked, click.echo)
    if not asyncio.run(change.run(host.rules, seconds, lambda: _reload_agent(config))):
        raise HostError("the change was taken back")
    click.echo("The change stays.")


def _try(config: Config, seconds: float) -> int:
    """Run the trial in a session of its own, show what it says as long as there is a terminal, return its exit code."""
    folders = [f"--config-dir={config.config_dir}", f"--state-dir={config.state_dir}", f"--run-dir={config.run_dir}"]
    command = "from agent.cli.main import main; main()"
    program = [sys.executable, "-c", command, "interception", "trial", *folders, str(seconds)]
    log = config.run_dir / "interception.log"
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                program, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
    except OSError as error:
        raise HostError(f"{log}: {error.strerror or error}: run it as root, where the agent is installed") from error
    click.echo(f"On trial for {seconds:g} s; `hostmesh interception confirm` keeps it. What happens is in {log}.")
    with log.open(encoding="utf-8", errors="replace") as said:
        while process.poll() is None:
            click.echo(said.read(), nl=False)
            try:
                process.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
        click.echo(said.read(), nl=False)
    return process.returncode


def _reload_agent(config: Config) -> None:
    """Have a running agent take up the settings, so that it wants what is applied."""
    from agent.runtime.host_interception import reload_agent

    reload_agent(config)


def _config(config_dir: Path, state_dir: Path, run_dir: Path) -> Config:
    from agent.config import load_config

    return load_config(config_dir, state_dir, run_dir)


def _host(config: Config) -> HostInterception:
    from agent.runtime.host_interception import host_interception

    host = host_interception(config, _runner())
    if host.faults:
        raise UserError("; ".join(str(fault.reason) for fault in host.faults))
    return host


def _runner() -> Any:
    from agent.adapters.command import SystemRunner

    return SystemRunner()


def _rule_rows(rules: NetfilterText) -> Iterator[tuple[str, str, str, str]]:
    for family, text in (("ipv4", rules.v4), ("ipv6", rules.v6)):
        name = ""
        for line in text.splitlines():
            if line.startswith("*"):
                name = line[1:]
            elif line.startswith("-"):
                _, chain, rule = line.split(maxsplit=2)
                yield family, name, chain, rule.removeprefix("1 ")


def _cells(change: list[str]) -> tuple[str, str, str, str]:
    sign, family, name, rule = change
    return sign, family, name.rstrip(":"), rule
