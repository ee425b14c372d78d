"""`hostmesh register | deregister`: instances on hosts that run no agent, entered into Consul's catalog by hand."""

from __future__ import annotations

from ipaddress import ip_address

import click

from agent.cli.command import Command, given_flags
from agent.cli.ports import parse_pairs, parse_ports
from agent.errors import UserError
from agent.mesh.service import ActiveCheck, Labels, Port, ServiceKey


@click.command(
    cls=Command,
    examples="""
# The MySQL server at 1.2.3.4; a bare well-known port gets its protocol's name
hostmesh -n onprem register mysql 1.2.3.4 3306

hostmesh register reviews 10.0.0.9 http:9080 -l version=v2,app=reviews -s bookinfo-reviews
""",
)
@click.argument("svcname")
@click.argument("ip")
@click.argument("ports", metavar="[NAME:]PORT...", nargs=-1, required=True)
@click.option(
    "-l", "--labels", multiple=True, metavar="K=V,...", help="Labels of the instance, e.g. env=prod,version=v2."
)
@click.option("-a", "--annotations", multiple=True, metavar="K=V,...", help="Annotations, e.g. foo=bar,test.")
@click.option("-s", "--serviceaccount", default="default", show_default=True, help="Service account of the instance.")
@click.option(
    "--active-check",
    metavar="KIND",
    help="Let every caller's Envoy check the first port: http:/path, grpc[:SERVICE] or tcp. Default: nobody does.",
)
@click.pass_context
def register(
    ctx: click.Context,
    svcname: str,
    ip: str,
    ports: tuple[str, ...],
    labels: tuple[str, ...],
    annotations: tuple[str, ...],
    serviceaccount: str,
    active_check: str | None,
) -> None:
    """Enter an instance on a host without an agent into the catalog; doing it again replaces its entry.

    The mesh sends plain text to it. Nothing checks its health, unless --active-check is given.
    """
    from agent.adapters.consul.external import ExternalInstance, ExternalInstances
    from agent.cli.connection import resolve

    address = _address(ip)
    parsed = parse_ports(ports)
    pairs = parse_pairs(labels, "label")
    _check(pairs, serviceaccount)
    notes = parse_pairs(annotations, "annotation", bare=True)
    connection = resolve(given_flags(ctx))
    service = ServiceKey(connection.namespace, svcname)
    check = _active_check(active_check, parsed) if active_check else ActiveCheck()
    instance = ExternalInstance(service, address, parsed, pairs, notes, serviceaccount, check)
    node = ExternalInstances(connection.consul()).register(instance)
    described = ", ".join(f"{port.number} ({port.protocol})" for port in parsed)
    click.echo(f"Registered service {service} at {address}, ports {described}, on node {node}")


@click.command(
    cls=Command,
    examples="hostmesh deregister mysql 1.2.3.4 -n onprem",
)
@click.argument("svcname")
@click.argument("ip")
@click.pass_context
def deregister(ctx: click.Context, svcname: str, ip: str) -> None:
    """Take an instance that `hostmesh register` entered out of the catalog."""
    from agent.adapters.consul.external import ExternalInstances
    from agent.cli.connection import resolve

    address = _address(ip)
    connection = resolve(given_flags(ctx))
    service = ServiceKey(connection.namespace, svcname)
    for entry in ExternalInstances(connection.consul()).deregister(service, address):
        click.echo(f"Deregistered service {service} at {address} ({entry})")


def _check(labels: Labels, account: str) -> None:
    from agent.api.checks.words import label_value, subdomain
    from agent.api.services import label_name

    for key, value in labels:
        if problem := label_name(key) or label_value(value):
            raise UserError(f"label {key}={value}: {problem}")
    if problem := subdomain(account):
        raise UserError(f"--serviceaccount: {problem}")


def _active_check(text: str, ports: tuple[Port, ...]) -> ActiveCheck:
    from agent.api.checks.active_check import ACTIVE_CHECK, read_active_check
    from agent.api.checks.schema import Report

    kind, _, target = text.partition(":")
    plain = {kind: target if kind != "tcp" else not target}
    report = Report()
    ACTIVE_CHECK(report, "", plain)
    if report.problems:
        reason = report.problems[0].reason
        raise UserError(f"--active-check {text}: {reason}; write http:/path, grpc, grpc:SERVICE or tcp")
    check = read_active_check(plain, ports)
    if wrong := check.obstacle(ports):
        raise UserError(f"--active-check {text}: {wrong}")
    return check


def _address(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError as error:
        raise UserError(f"{text!r} is not an IP address; write for example 1.2.3.4") from error
