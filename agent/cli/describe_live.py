"""What an Envoy really has of an instance or a service, as records for `describe`. Pure but for the asking."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from agent.cli import envoy_view
from agent.cli.agents import Agent, view_json
from agent.cli.description import Record
from agent.mesh.names import canonical_host, inbound_cluster
from agent.mesh.service import Instance, ServiceKey


class InboundFacts(Struct, frozen=True):
    """What a node's Envoy says of the traffic that comes in."""

    listeners: list[Any]
    secrets: list[envoy_view.Row]
    stats: dict[str, int]


def read_inbound(agent: Agent) -> InboundFacts:
    """Ask a node's agent; raises HostmeshError."""
    return InboundFacts(
        envoy_view.listeners(view_json(agent, "listeners")),
        envoy_view.secret_rows(envoy_view.secrets(view_json(agent, "secret"))),
        {one["name"]: one["value"] for one in view_json(agent, "stats")["stats"] if "name" in one},
    )


def inbound_record(facts: InboundFacts, instance: Instance) -> Record:
    """Return how an instance's own Envoy serves it."""
    identity = f"/ns/{instance.service.namespace}/sa/{instance.service_account}"
    return {
        "ports": [
            {"number": port.number, "takes": list(_takes(facts.listeners, port.number)), **_traffic(facts, port.number)}
            for port in instance.ports
        ],
        "certificates": [
            {"name": name, "serial": serial, "validUntil": end}
            for name, _, serial, end in facts.secrets
            if name.endswith(identity)
        ],
    }


def outbound_record(agent: Agent, node: str, service: ServiceKey) -> Record:
    """Return where a node's Envoy sends calls of a service, and how it sees the endpoints; raises HostmeshError."""
    host = canonical_host(service)
    routes = envoy_view.route_rows(envoy_view.routes(view_json(agent, "routes")))
    connections = envoy_view.connection_rows(envoy_view.listeners(view_json(agent, "listeners")))
    endpoints = envoy_view.endpoint_rows(view_json(agent, "endpoints"))
    return {
        "node": node,
        "routes": [
            {"table": table, "match": match, "destination": target}
            for table, name, match, target in routes
            if name == host or f"|{host}" in target
        ],
        "connections": [
            {"listener": listener, "match": match, "destination": target}
            for listener, match, target in connections
            if f"|{host}" in target
        ],
        "endpoints": [
            {"address": address, "health": health, "cluster": cluster}
            for address, health, cluster in endpoints
            if cluster.endswith(f"|{host}")
        ],
    }


def _takes(listeners: list[Any], port: int) -> Iterator[str]:
    for listener in listeners:
        for chain in listener.get("filter_chains", ()):
            if chain.get("filter_chain_match", {}).get("destination_port") == port:
                yield "mutual TLS" if "transport_socket" in chain else "plain text"


def _traffic(facts: InboundFacts, port: int) -> dict[str, int]:
    prefix = f"cluster.{inbound_cluster(port)}.upstream"
    names = {"requests": "rq_total", "answered5xx": "rq_5xx", "connections": "cx_total"}
    return {name: facts.stats.get(f"{prefix}_{stat}", 0) for name, stat in names.items()}
