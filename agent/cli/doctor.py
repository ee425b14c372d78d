"""`hostmesh doctor`: looks for everything on this host, and between it and others, that keeps the mesh from working."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.command import Command
from agent.cli.output import output_option, print_records, table
from agent.cli.service import config_dir_option
from agent.errors import ConfigError, HostmeshError

if TYPE_CHECKING:
    from agent.cli.checkup.finding import Finding, Findings, Patient
    from agent.mesh.status import NodeStatus


@click.command(
    cls=Command,
    examples="""
hostmesh doctor
hostmesh doctor --all
hostmesh doctor -o json | jq '.[] | select(.level == "error")'
""",
)
@click.option("--all", "everything", is_flag=True, help="Show what is in order, too.")
@click.option("--run-dir", metavar="DIR", envvar="HOSTMESH_RUN_DIR", default="/run/hostmesh", show_default=True)
@click.option("--state-dir", metavar="DIR", default="/var/lib/hostmesh", show_default=True)
@config_dir_option
@output_option("table", "json", "yaml")
@click.pass_context
def doctor(ctx: click.Context, everything: bool, run_dir: str, state_dir: str, config_dir: Path, output: str) -> None:
    """Look for what is wrong with this host (as root): each finding with how to mend it.

    Looked at: kernel, iptables, ports, DNS, disk, configuration, Consul, the CA, clocks, the ways to other hosts, the
    agent and its faults, certificates, drifted rules. It changes nothing. Exit code 1 if there is an error.
    """
    from msgspec import to_builtins

    from agent.cli.checkup.finding import Level

    findings = examine(config_dir, Path(state_dir), Path(run_dir))
    if output != "table":
        print_records(to_builtins(findings), output)
    else:
        shown = [one for one in findings if everything or one.level is not Level.OK]
        rows = [(one.level.value.upper(), one.check, one.found, one.mend or "-") for one in shown]
        click.echo(table(("LEVEL", "CHECK", "FOUND", "MEND"), rows) if rows else "Nothing is wrong here.")
    ctx.exit(1 if any(one.level is Level.ERROR for one in findings) else 0)


def examine(config_dir: Path, state_dir: Path, run_dir: Path) -> list[Finding]:
    """Return the findings of every check, in the order in which one would look."""
    from agent.cli.checkup.finding import Patient, error
    from agent.config import load_config

    try:
        config = load_config(config_dir, state_dir, run_dir)
    except ConfigError as failure:
        return [error("configuration", line, "correct it: nothing else can be looked at") for line in failure.problems]
    patient = Patient(config, _status(run_dir))
    return [finding for name, check in _checks() for finding in _run(name, check, patient)]


def _checks() -> Iterable[tuple[str, Callable[[Patient], Findings]]]:
    from agent.cli.checkup import host_firewall, kernel, outside, own, ports

    return (
        ("configuration", own.check_files),
        ("kernel", kernel.check_kernel),
        ("disk", own.check_disk),
        ("ports", ports.check_ports),
        ("dns", ports.check_dns),
        ("consul", outside.check_consul),
        ("ca", outside.check_ca),
        ("clock", outside.check_clock),
        ("firewall", host_firewall.check_host_firewall),
        ("firewall", outside.check_ways),
        ("agent", own.check_agent),
        ("certificates", own.check_certificates),
        ("drift", own.check_drift),
    )


def _run(name: str, check: Callable[[Patient], Findings], patient: Patient) -> list[Finding]:
    """Run a check; what keeps it from being made is a finding itself."""
    from agent.cli.checkup.finding import warning

    try:
        return list(check(patient))
    except HostmeshError as failure:
        return [warning(name, f"could not be looked at: {failure}", "mend what is told above, and look again")]


def _status(run_dir: Path) -> NodeStatus | None:
    import msgspec

    from agent.adapters.agent_socket import AgentSocket
    from agent.mesh.status import NodeStatus

    try:
        return msgspec.json.decode(AgentSocket(run_dir / "admin.sock").ask("/status", 5.0), type=NodeStatus)
    except (HostmeshError, msgspec.DecodeError):
        return None
