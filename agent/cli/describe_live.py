"""What an Envoy really has of an instance or a service, as lines of `hostmesh describe`. Pure but for the asking."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agent.cli import envoy_view
from agent.cli.agents import Agent, view_json
from agent.mesh.names import canonical_host, inbound_cluster
from agent.mesh.service import Instance, ServiceKey


def instance_lines(agent: Agent, instance: Instance) -> list[str]:
    """Return how the instance's own Envoy serves it; raises HostmeshError if it cannot be asked."""
    listeners = envoy_view.listeners(view_json(agent, "listeners"))
    secrets = envoy_view.secret_rows(envoy_view.secrets(view_json(agent, "secret")))
    stats = {one["name"]: one["value"] for one in view_json(agent, "stats")["stats"] if "name" in one}
    lines = []
    for port in instance.ports:
        served = ", ".join(_chains(listeners, port.number)) or "not served"
        lines.append(f"Envoy:     {port.number}: {served}")
    identity = f"/ns/{instance.service.namespace}/sa/{instance.service_account}"
    held = [row for row in secrets if row[0].endswith(identity)]
    lines += [f"Holds:     {name}, serial {serial}, until {end}" for name, _, serial, end in held]
    return lines + [f"Served:    {port.number}: {_traffic(stats, port.number)}" for port in instance.ports]


def service_lines(agent: Agent, service: ServiceKey) -> list[str]:
    """Return where an Envoy sends calls of a service, and what it thinks of the endpoints; raises HostmeshError."""
    host = canonical_host(service)
    routes = envoy_view.route_rows(envoy_view.routes(view_json(agent, "routes")))
    endpoints = envoy_view.endpoint_rows(view_json(agent, "endpoints"))
    lines = [
        f"  port {table}: {match} → {target}"
        for table, name, match, target in routes
        if name == host or f"|{host}" in target
    ]
    lines += [
        f"  endpoint {address} {health} ({cluster})"
        for address, health, cluster in endpoints
        if cluster.endswith(f"|{host}")
    ]
    return lines or ["  nothing: no route and no endpoint (a Sidecar's scope?)"]


def _chains(listeners: list[Any], port: int) -> Iterator[str]:
    for listener in listeners:
        for chain in listener.get("filter_chains", ()):
            if chain.get("filter_chain_match", {}).get("destination_port") == port:
                yield "mutual TLS" if "transport_socket" in chain else "plain text"


def _traffic(stats: dict[str, int], port: int) -> str:
    prefix = f"cluster.{inbound_cluster(port)}"
    requests, connections = (stats.get(f"{prefix}.upstream_{what}_total", 0) for what in ("rq", "cx"))
    return f"{requests} requests, {stats.get(f'{prefix}.upstream_rq_5xx', 0)} answered 5xx, {connections} connections"
