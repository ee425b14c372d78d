"""`hostmesh lab`: Bookinfo in the mesh on this one machine, each host a network namespace."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from agent.cli.command import Group
from agent.cli.context_file import contexts_path, load_contexts
from agent.cli.lab_context import leave_lab_context, use_lab_context
from agent.cli.output import table, to_json, to_yaml
from agent.errors import HostError, UserError
from agent.lab.full_plan import lab_plan
from agent.lab.host import Host
from agent.lab.lab import Lab
from agent.lab.plan import BOOKINFO, CHECKOUT, DEFAULT_NAME
from agent.lab.preflight import require_free_ports, require_not_enrolled, require_root

_SAMPLES = CHECKOUT / "vagrant" / "samples" / "bookinfo"
_PORT = click.IntRange(1, 65535)


@click.group(
    cls=Group,
    help="Run Bookinfo in the mesh on this one machine: each host is a network namespace with its own Consul agent, "
    "names, hostmesh-agent, Envoy and application. Needs root. The machine's own network stays as it is.",
    examples="""
hostmesh lab up
hostmesh lab status -o yaml
hostmesh lab exec sleep -- curl -s http://httpbin:8000/headers
hostmesh lab down
""",
)
def lab() -> None:
    """Hold the subcommands."""


_name_option = click.option(
    "--name", default=DEFAULT_NAME, show_default=True, help="Name of the lab; another one gives a second lab beside it."
)


@lab.command(examples="hostmesh lab up --port 8080")
@_name_option
@click.option("--port", type=_PORT, default=9081, show_default=True, help="Port of the page on 127.0.0.1.")
@click.option(
    "--consul-port", type=_PORT, default=9500, show_default=True, help="Port of Consul's HTTP API on 127.0.0.1."
)
@click.option(
    "--gateway-port", type=_PORT, default=9082, show_default=True, help="Port 80 of the gateway on 127.0.0.1."
)
@click.option(
    "--gateway-tls-port", type=_PORT, default=9443, show_default=True, help="Port 443 of the gateway on 127.0.0.1."
)
@click.option("--prometheus-port", type=_PORT, default=9090, show_default=True, help="Port of Prometheus on 127.0.0.1.")
@click.option(
    "--graph-port", type=_PORT, default=8088, show_default=True, help="Port of the service graph on 127.0.0.1."
)
@click.option("--zipkin-port", type=_PORT, default=9411, show_default=True, help="Port of Zipkin on 127.0.0.1.")
@click.option(
    "--timeout", type=click.IntRange(1), default=120, show_default=True, help="How long it may take, in seconds."
)
@click.option("--keep", is_flag=True, help="If it fails, leave everything as it is, to look at.")
def up(
    name: str,
    port: int,
    consul_port: int,
    gateway_port: int,
    gateway_tls_port: int,
    prometheus_port: int,
    graph_port: int,
    zipkin_port: int,
    timeout: int,
    keep: bool,
) -> None:
    """Bring the lab up, wait until the page answers, and make it the current context."""
    require_root()
    existing = Lab(lab_plan(name=name))
    if existing.attach():
        _require_whole(existing)
        click.echo("The lab is up already.\n")
        _describe(existing)
        return
    if not BOOKINFO.is_dir():
        raise UserError(f"lab: {BOOKINFO} is missing: the lab runs from a checkout of hostmesh")
    require_not_enrolled()
    load_contexts(contexts_path())  # a damaged file is told before the work, not after it
    options = ("--port", "--consul-port", "--gateway-port", "--gateway-tls-port")
    later = ("--prometheus-port", "--graph-port", "--zipkin-port")
    ports = (port, consul_port, gateway_port, gateway_tls_port, prometheus_port, graph_port, zipkin_port)
    require_free_ports(tuple(zip(ports, (*options, *later), strict=True)))
    began = time.monotonic()
    made = Lab(lab_plan(*ports[:4], name, *ports[4:]), _progress(began))
    try:
        made.up(timeout=timeout, keep=keep)
    except HostError as error:
        left = "left as it is (--keep): `hostmesh lab down` removes it" if keep else "everything was taken down again"
        raise HostError(f"{error}\nlab: {left}") from error
    use_lab_context(made.state.consul, made.state.ca_socket)
    click.echo(f"{time.monotonic() - began:5.1f} s  up\n")
    _describe(made)


@lab.command(examples="hostmesh lab down")
@_name_option
def down(name: str) -> None:
    """Remove every trace of the lab; also after a crash, and if nothing is there."""
    require_root()
    Lab(lab_plan(name=name)).down()
    leave_lab_context()


@lab.command(examples="hostmesh lab status -o json")
@click.option("-o", "--output", type=click.Choice(["short", "json", "yaml"]), default="short", show_default=True)
@_name_option
@click.pass_context
def status(ctx: click.Context, output: str, name: str) -> None:
    """Show what runs where; exit code 1 if there is no lab or a part of it does not run."""
    require_root()
    found = Lab(lab_plan(name=name))
    if not found.attach():
        raise UserError("lab: there is none; `hostmesh lab up` makes it")
    document = _document(found)
    if output == "short":
        click.echo(_host_table(document))
    else:
        click.echo(to_json(document) if output == "json" else to_yaml(document).rstrip())
    if not document["whole"]:
        ctx.exit(1)


@lab.command(
    "exec",
    examples="""
hostmesh lab exec sleep -- curl -s http://httpbin:8000/headers
hostmesh lab exec mysql -- bash
""",
)
@_name_option
@click.argument("host")
@click.argument("command", nargs=-1, required=True)
def execute(name: str, host: str, command: tuple[str, ...]) -> None:
    """Run a command on a host of the lab, as its root; its exit code is this one's."""
    require_root()
    terminal = {key: value for key, value in os.environ.items() if key in ("TERM", "COLUMNS", "LINES")}
    _host(name, host).become(command, terminal)


@lab.command(
    examples="""
hostmesh lab logs httpbin-v2 httpbin
hostmesh lab logs sleep envoy --lines 50
"""
)
@_name_option
@click.argument("host")
@click.argument("part")
@click.option("--lines", type=click.IntRange(1), default=10, show_default=True, help="How many of the last lines.")
def logs(name: str, host: str, part: str, lines: int) -> None:
    """Print the end of what a part of a host has written (the PARTS of `lab status`)."""
    require_root()
    found = _host(name, host)
    if not found.path(f"log/{part}.log").exists():
        parts = ", ".join(sorted(path.stem for path in found.path("log").glob("*.log")))
        raise UserError(f"lab: host {host}: no log of {part!r} (there are: {parts})")
    click.echo(found.log(part, lines))


def _host(name: str, host: str) -> Host:
    found = Lab(lab_plan(name=name))
    if not found.attach():
        raise UserError("lab: there is none; `hostmesh lab up` makes it")
    if host not in found.hosts:
        raise UserError(f"lab: no host {host!r} (hosts: {', '.join(found.hosts)})")
    return found[host]


def _progress(began: float) -> Callable[[str], None]:
    return lambda text: click.echo(f"{time.monotonic() - began:5.1f} s  {text}")


def _require_whole(existing: Lab) -> None:
    document = _document(existing)
    if document["whole"]:
        return
    dead = [f"{h['name']}: {part}" for h in document["hosts"] for part, pid in h["parts"].items() if pid is None]
    what = f"these do not run: {', '.join(dead)}" if dead else "it never came up whole"
    raise UserError(f"lab: it is half up, {what}; `hostmesh lab down` removes it")


def _document(found: Lab) -> dict[str, Any]:
    """Return the lab as plain data; a part's pid is None where it does not run."""
    hosts = []
    running = True
    for host in found:
        names = [*found.state.hosts[host.name].parts, *(["envoy"] if host.plan.agent else [])]
        parts = {name: host.pid(name) for name in names if name != "anchor"}
        running = running and None not in parts.values()
        hosts.append({"name": host.name, "address": host.address, "namespace": host.namespace, "parts": parts})
    forwarders = {name: process.is_running for name, process in found.state.forwarders.items()}
    return {
        "page": found.state.page,
        "consul": found.state.consul,
        "gateway": found.state.gateway,
        "gatewayTls": found.state.gateway_tls,
        "prometheus": found.state.prometheus,
        "servicegraph": found.state.servicegraph,
        "zipkin": found.state.zipkin,
        "whole": found.state.complete and running and all(forwarders.values()),
        "hosts": hosts,
    }


def _host_table(document: dict[str, Any]) -> str:
    rows = []
    for host in document["hosts"]:
        parts = (part if pid is not None else f"{part} (NOT RUNNING)" for part, pid in host["parts"].items())
        rows.append((host["name"], host["address"], host["namespace"], ", ".join(parts)))
    return table(("HOST", "ADDRESS", "NAMESPACE", "PARTS"), rows)


def _describe(made: Lab) -> None:
    hostmesh = _own_command()
    rules = os.path.relpath(_SAMPLES)
    name = "" if made.plan.name == DEFAULT_NAME else f" --name {made.plan.name}"
    click.echo(_host_table(_document(made)))
    click.echo(f"""
The page:   {made.state.page}
Consul:     {made.state.consul}
Prometheus: {made.state.prometheus}
The graph:  {made.state.servicegraph}/ (who calls whom, live; `hostmesh dashboard servicegraph`)
Traces:     {made.state.zipkin or "no collector"} (none until the mesh's settings say so: docs/tasks/tracing.md)
Gateway:    http://{made.state.gateway} and https://{made.state.gateway_tls} (closed until rules open them: docs/tasks)

Try next (reload the page after each):
  {hostmesh} apply -f {shlex.quote(f"{rules}/route-rule-reviews-v3.yaml")}
      shifts everybody to reviews v3, with red stars
  {hostmesh} apply -f {shlex.quote(f"{rules}/route-rule-reviews-test-v2.yaml")}
      sends user jason (sign in on the page) to reviews v2, with black stars
  watch -n 1 {hostmesh} proxy-status
      shows which rules each host's Envoy has acknowledged
  {hostmesh} lab exec sleep -- curl -s http://httpbin:8000/headers
      sends a request from a host of the lab; docs/tasks has more to do

Remove it:  {hostmesh} lab down{name}""")


def _own_command() -> str:
    """Return how the operator calls this program: by its name if the login shell finds it, else by its path."""
    own = Path(sys.argv[0]).absolute()
    virtual = Path(sys.prefix) / "bin"  # `make` puts it into PATH, the operator's shell doesn't have it
    folders = [folder for folder in os.environ.get("PATH", "").split(os.pathsep) if Path(folder) != virtual]
    if shutil.which("hostmesh", path=os.pathsep.join(folders)):
        return "hostmesh"
    path = os.path.relpath(own)
    return shlex.quote(path if not path.startswith("..") else str(own))
