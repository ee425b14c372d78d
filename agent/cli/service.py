"""`hostmesh service`: the services of this host, as files in services.d; the agent picks changes up by itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.command import Group, given_flags
from agent.cli.output import output_option, print_records, table
from agent.errors import ConfigError, ConflictError, HostError, UserError

if TYPE_CHECKING:
    from agent.mesh.service import Workload

_HERE = "127.0.0.1"
"""In place of the host's own address, which only its agent knows."""

config_dir_option = click.option(
    "--config-dir",
    type=click.Path(path_type=Path),
    envvar="HOSTMESH_CONFIG_DIR",
    default=Path("/etc/hostmesh"),
    show_default=True,
    help="The agent's configuration.",
)


@click.group(cls=Group, examples="hostmesh service add reviews http:9080 -l version=v1")
def service() -> None:
    """Declare the services that run on this host (as root); the agent picks changes up by itself."""


@service.command(
    examples="""
hostmesh service add reviews 9080 -l version=v1 -s bookinfo-reviews --check-http /health

# Several ports; of another namespace; an application that shall have no Envoy in front
hostmesh -n shop service add web http:8080 grpc:9090
hostmesh service add mysql 3306 --not-proxied
"""
)
@click.argument("name")
@click.argument("ports", metavar="[NAME:]PORT...", nargs=-1, required=True)
@click.option("-l", "--labels", multiple=True, metavar="K=V,...", help="Labels, e.g. version=v2.")
@click.option("-s", "--serviceaccount", help="Service account (default: default).")
@click.option("--user", help="Unix user of the application: its programs get this identity.")
@click.option("--address", help="Where it is reached (default: the host's own address).")
@click.option("--check-http", metavar="PATH", help="Have Consul ask this path (default: whether the port takes TCP).")
@click.option("--proxied/--not-proxied", default=None, help="Envoy in front or not (default: as `hostmesh mesh` says).")
@click.option("--force", is_flag=True, help="Replace a service of that name that says something else.")
@config_dir_option
@click.pass_context
def add(
    ctx: click.Context,
    name: str,
    ports: tuple[str, ...],
    labels: tuple[str, ...],
    serviceaccount: str | None,
    user: str | None,
    address: str | None,
    check_http: str | None,
    proxied: bool | None,
    force: bool,
    config_dir: Path,
) -> None:
    """Declare a service of this host; it is checked together with what is there before anything is written.

    The protocol of a port is its name's, as in Istio (http, grpc-api, tcp-x); bare well-known ports have theirs.
    """
    from agent.adapters.files import read_optional, write_atomic
    from agent.cli.output import to_yaml
    from agent.cli.ports import parse_pairs, parse_ports

    parsed = parse_ports(ports)
    fields = {
        "name": name,
        "namespace": _namespace(ctx),
        "serviceAccount": serviceaccount,
        "address": address,
        "ports": [{"name": port.name, "port": port.number, "protocol": port.protocol.value} for port in parsed],
        "labels": dict(parse_pairs(labels, "label")),
        "proxied": proxied,
        "user": user,
        "check": {"http": check_http} if check_http else None,
    }
    text = to_yaml({key: value for key, value in fields.items() if value not in (None, {})})
    path = config_dir / "services.d" / f"{name}{'' if fields['namespace'] == 'default' else '.' + _namespace(ctx)}.yaml"
    _check(config_dir, path, text)
    before = read_optional(path)
    if before == text.encode():
        click.echo(f"{path}: unchanged")
        return
    if before is not None and not force:
        raise ConflictError(f"{path} is there and says something else; replace it with --force")
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(f"{path.parent}: cannot be made: {error.strerror or error} (run as root)") from error
    write_atomic(path, text.encode(), mode=0o644)
    click.echo(f"{path}: {'written' if before is None else 'replaced'}; a running agent picks it up within a second")


@service.command("list", examples="hostmesh service list\nhostmesh service list -o json")
@config_dir_option
@output_option("table", "json", "yaml")
@click.pass_context
def list_services(ctx: click.Context, config_dir: Path, output: str) -> None:
    """List what services.d declares; faults go to standard error and end with exit code 1."""
    from msgspec import to_builtins

    from agent.config import load_workloads

    found, faults = load_workloads(config_dir, _HERE)
    if output == "table":
        click.echo(table(("SERVICE", "NAMESPACE", "PORTS", "ACCOUNT", "LABELS"), [_row(one) for one in found]))
    else:
        print_records([to_builtins(one) for one in found], output)
    for fault in faults:
        click.echo(fault, err=True)
    ctx.exit(1 if faults else 0)


@service.command(examples="hostmesh service remove reviews\nhostmesh -n shop service remove web")
@click.argument("name")
@config_dir_option
@click.pass_context
def remove(ctx: click.Context, name: str, config_dir: Path) -> None:
    """Remove a service of this host; the agent takes it out of Consul."""
    wanted = (_namespace(ctx), name)
    for path in sorted((config_dir / "services.d").glob("*.y*ml")):
        keys = {(one.service.namespace, one.service.name) for one in _read(path)}
        if wanted not in keys:
            continue
        if len(keys) > 1:
            raise UserError(f"{path} declares other services too; take {name} out of it with an editor")
        try:
            path.unlink()
        except OSError as error:
            raise HostError(f"{path}: cannot be removed: {error.strerror or error} (run as root)") from error
        click.echo(f"{path}: removed; a running agent takes it out of Consul within a second")
        return
    raise UserError(f"{config_dir / 'services.d'}: no service {name} of the namespace {wanted[0]} is declared there")


def _check(config_dir: Path, path: Path, text: str) -> None:
    """Raise ConfigError if the file is wrong by itself, or beside the others."""
    from agent.api.services import read_services
    from agent.config import load_workloads
    from agent.runtime.workloads import one_identity_per_port

    try:
        added = read_services(text, path.name, _HERE)
    except ConfigError as error:
        raise UserError("; ".join(problem.partition(": ")[2] for problem in error.problems)) from error
    others = [one for one in load_workloads(config_dir, _HERE)[0] if one.service != added[0].service]
    _, refused = one_identity_per_port([*others, *added], others)
    if refused:
        raise UserError(refused[0])


def _read(path: Path) -> list[Workload]:
    from agent.adapters.files import read_optional
    from agent.api.services import read_services

    try:
        return read_services((read_optional(path) or b"").decode(errors="replace"), str(path), _HERE)
    except ConfigError:
        return []  # `list` tells what is wrong with it


def _row(workload: Workload) -> tuple[str, ...]:
    ports = ", ".join(f"{port.number}/{port.protocol.value}" for port in workload.ports)
    labels = ",".join(f"{key}={value}" for key, value in workload.labels)
    return workload.service.name, workload.service.namespace, ports, workload.service_account, labels or "-"


def _namespace(ctx: click.Context) -> str:
    from agent.cli.connection import resolve

    return resolve(given_flags(ctx)).namespace
