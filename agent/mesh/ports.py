"""Port numbers that mean something of their own to the mesh."""

from __future__ import annotations

OUTBOUND_PORT = 15001
INBOUND_PORT = 15006
SSH_PORT = 22
DNS_PORT = 53
"""Never captured outbound: names are the DNS servers' business, over TCP too."""
OPERATOR_PORT = 15022
"""Where an agent answers operators on other hosts, unless agent.yaml moves it."""
METRICS_PORT = 15020
"""Metrics and health of the agent."""
OWN_PORTS = (15001, 15006, 15012, 15013, METRICS_PORT, 15021, OPERATOR_PORT, 15090)
"""Ports of agent, Envoy and hostmesh-ca."""
LISTENER_PORTS = (15001, 15006, 15021, 15090)
"""Where Envoy itself listens on every host: a service on such a port would have a listener in that one's way."""
CONSUL_PORTS = (8300, 8301, 8302, 8500, 8501, 8502, 8503, 8600)
NEVER_CAPTURED = frozenset({SSH_PORT, *OWN_PORTS, *CONSUL_PORTS})
"""Ports that are captured neither inbound nor (outside the service range) outbound."""
