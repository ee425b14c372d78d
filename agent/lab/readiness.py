"""When a part of a lab host counts as ready, and waiting for many of them at once. Asks, changes nothing."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec

from agent.adapters.agent_socket import AgentSocket
from agent.errors import HostError
from agent.lab import network
from agent.lab.host import Host
from agent.lab.plan import App
from agent.mesh.status import NodeStatus

Condition = Callable[[], str]
"""Returns what is still missing, "" once nothing is."""

_INTERVAL_SECONDS = 0.05
_DNS_PORT = 53
_PAGES = 8
_PAGE_LACKS = {
    "details": "Sorry, product details",
    "reviews": "Sorry, product reviews",
    "ratings": "Ratings service is currently unavailable",
}
"""What the page says in the place of each part that it could not get."""


def wait_all(hosts: Mapping[str, Host], conditions: Mapping[tuple[str, str], Condition], deadline: float) -> None:
    """Wait until all conditions hold, by monotonic deadline.

    Raises HostError that names host, part and reason, with the end of its log, as soon as a process of these hosts ends
    by itself or the time is up.
    """
    pending = dict(conditions)
    while True:
        missing = {key: text for key, condition in pending.items() if (text := condition())}
        pending = {key: pending[key] for key in missing}
        if not pending:
            return
        for host in hosts.values():
            for part in host.dead_parts():
                raise part_failure(host, part, "ended by itself")
        if time.monotonic() > deadline:
            name, part = next(iter(missing))
            others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise part_failure(hosts[name], part, f"not ready in time: {missing[name, part]}{others}")
        time.sleep(_INTERVAL_SECONDS)


def part_failure(host: Host, part: str, reason: str) -> HostError:
    """Return the error: a line with host, part and reason, then the end of the part's log."""
    log = host.log(part)
    return HostError(
        f"lab: host {host.name}: {part}: {reason}\n"
        + (f"--- end of {part}.log ---\n{log}" if log else "(its log is empty)")
    )


def consul_ready(host: Host) -> Condition:
    """Consul here knows a leader, and this node is in the catalog."""
    return _answers(host, f"/v1/catalog/node/{host.name}", 8500, '"Node":{')


def ca_ready(host: Host) -> Condition:
    """hostmesh-ca takes connections on its administration socket."""

    def condition() -> str:
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(str(host.path("run/admin.sock")))
            except OSError as error:
                return f"administration socket: {error.strerror}"
        return ""

    return condition


def names_ready(host: Host) -> Condition:
    """dnsmasq listens."""

    def condition() -> str:
        try:
            network.connect(host.namespace, ("127.0.0.1", _DNS_PORT), 1.0).close()
        except OSError as error:
            return f"port {_DNS_PORT}: {error}"
        return ""

    return condition


def app_ready(host: Host, app: App) -> Condition:
    """The application answers its health check, or accepts connections if it has no path for one."""
    if app.health_path:
        return _answers(host, app.health_path, app.port, "")

    def condition() -> str:
        try:
            network.connect(host.namespace, ("127.0.0.1", app.port), 2.0).close()
        except OSError as error:
            return f"port {app.port}: {error}"
        return ""

    return condition


def agent_ready(host: Host) -> Condition:
    """The agent says that its Envoy is connected."""
    return _answers(host, "/healthz", 15020, "ready")


def registered(host: Host, app: App) -> Condition:
    """The application is in the catalog and passes its check there: this host's Consul agent has told it."""
    return _answers(host, f"/v1/health/service/{app.service}?passing", 8500, f'"Node":"{host.name}"')


def agent_settled(host: Host, instances: Collection[tuple[str, int]]) -> Condition:
    """The host's Envoy has its certificate, has acknowledged all, and sends requests to all these addresses and ports.

    Retries hide an instance that cannot answer yet: no request would tell.
    """
    agent = AgentSocket(host.path("run/admin.sock"))

    def condition() -> str:
        try:
            status = msgspec.json.decode(agent.ask("/status"), type=NodeStatus)
            if status.state != "SYNCED":
                return f"its Envoy is {status.state}"
            if host.plan.identities and not status.certificates:
                return "its Envoy has no certificate"
            known = _healthy(json.loads(agent.view("endpoints")))
        except HostError as error:
            return str(error)
        missing = sorted(set(instances) - known)
        return f"its Envoy does not know {', '.join(f'{address}:{port}' for address, port in missing)}" * bool(missing)

    return condition


def _healthy(clusters: Any) -> set[tuple[str, int]]:
    """Return address and port of each endpoint that Envoy has from its agent and sends requests to."""
    return {
        (address.get("address", ""), address.get("port_value", 0))
        for cluster in clusters.get("cluster_statuses", ())
        for host in cluster.get("host_statuses", ())
        if host.get("health_status") in ({}, {"eds_health_status": "HEALTHY"})
        for address in (host.get("address", {}).get("socket_address", {}),)
    }


def page_ready(host: Host) -> Condition:
    """The product page is whole, several times in a row: each may have its reviews from another version."""

    def condition() -> str:
        return next(filter(None, (_page_lacks(host) for _ in range(_PAGES))), "")

    return condition


def _page_lacks(host: Host) -> str:
    try:
        status, text = host.get("/productpage", timeout=10.0)
    except OSError as error:
        return str(error)
    missing = [name for name, words in _PAGE_LACKS.items() if words in text]
    return f"the page lacks {' and '.join(missing)}" if missing else "" if status == 200 else f"status {status}"


def _answers(host: Host, path: str, port: int, expected: str) -> Condition:
    def condition() -> str:
        try:
            status, text = host.get(path, port, timeout=7.0)
        except OSError as error:
            return f"port {port}: {error}"
        if status != 200:
            return f"GET {path} on port {port}: {status} {text.strip()[:100]}"
        return "" if expected in text else f"GET {path} on port {port}: not complete yet"

    return condition
