"""What watches the lab's mesh: Prometheus and the service graph, on the host of Consul's server. Pure data."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from agent.lab.plan import CHECKOUT, App, LabPlan

PROMETHEUS = CHECKOUT / "vagrant" / "prometheus" / "prometheus.sh"
PROMETHEUS_PORT, GRAPH_PORT = 9090, 8088
"""Their own on the host, and unless said otherwise on the machine's loopback."""


def with_monitoring(plan: LabPlan, prometheus_port: int = PROMETHEUS_PORT, graph_port: int = GRAPH_PORT) -> LabPlan:
    """Return the plan with Prometheus and the service graph; ports are those of the machine's loopback."""
    hosts = tuple(
        msgspec.structs.replace(host, apps=(*host.apps, _prometheus(), _graph())) if host.consul_server else host
        for host in plan.hosts
    )
    return msgspec.structs.replace(plan, hosts=hosts, prometheus_port=prometheus_port, graph_port=graph_port)


def _prometheus() -> App:
    return App(
        "prometheus",
        ("sh", str(PROMETHEUS), str(PROMETHEUS_PORT)),
        port=PROMETHEUS_PORT,
        health_path="/-/ready",
        programs=("prometheus",),
    )


def _graph() -> App:
    command = str(Path(sys.executable).with_name("hostmesh"))
    argv = (command, "servicegraph", "--prometheus", f"http://127.0.0.1:{PROMETHEUS_PORT}", "--port", str(GRAPH_PORT))
    return App("servicegraph", argv, port=GRAPH_PORT, health_path="/healthz", programs=("dot",))
