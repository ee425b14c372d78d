"""The systems and hosts that this one depends on: Consul, the CA, clocks, and the way to other hosts."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from urllib.parse import quote

from agent.adapters.consul.decode import decode_instances, decode_names
from agent.adapters.consul.store import KvConnection, NodeStatuses
from agent.adapters.identity.first_contact import fetch_root
from agent.cli.checkup.finding import Findings, Patient, error, ok, warning
from agent.config import OutboundCapture
from agent.errors import CaRefused, CaUnavailable, HostmeshError
from agent.runtime.configuration_check import consul_address
from node_ca.proto.token import JoinToken

TRY_SECONDS = 3.0
CA_METRICS_PORT = 15014
CLOCK_TOLERANCE_SECONDS = 30.0
MAX_WAYS = 200
"""Ways to other hosts that are tried, of a large mesh the first."""


def check_consul(patient: Patient) -> Findings:
    """Ask the local Consul agent as hostmesh-agent does."""
    config = patient.config
    kv = KvConnection(consul_address(config))
    try:
        agent = json.loads(kv.send("get", "/v1/agent/self").body)
        leader = json.loads(kv.send("get", "/v1/status/leader").body)
    except HostmeshError as failure:
        yield error("consul", str(failure), "systemctl status consul; agent.yaml: consul.address, consul.tokenFile")
        return
    name = agent["Config"]["NodeName"]
    if not leader:
        yield error("consul", "the cluster has no leader: nothing can be registered", "consul operator raft list-peers")
    else:
        yield ok("consul", f"{agent['Config'].get('Version', '')} on node {name}, leader {leader}")
    try:
        NodeStatuses(consul_address(config)).read()
    except HostmeshError as failure:
        policy = f"hostmesh consul-policy agent --node {config.node}"
        yield error("consul", f"rules and states cannot be read: {failure}", f"give the token this policy: {policy}")


def check_ca(patient: Patient) -> Findings:
    """Open a connection to each hostmesh-ca, and see that it is the one that made the join token."""
    config = patient.config
    if not config.ca.hosts:
        yield warning("ca", "no CA is configured: no mutual TLS", "agent.yaml: ca.address (hostmesh node init)")
    fingerprint = _fingerprint(patient)
    for host in config.ca.hosts:
        for port in (config.ca.enrolment_port, config.ca.renewal_port):
            why = _why_not(host, port)
            if why:
                yield error(
                    "ca",
                    f"hostmesh-ca at {host} port {port}: {why}",
                    f"let TCP {port} through the firewalls to {host}; there: systemctl status hostmesh-ca",
                )
        if fingerprint:
            try:
                fetch_root(host, config.ca.enrolment_port, fingerprint, TRY_SECONDS)
                yield ok("ca", f"{host} is the CA that made the join token")
            except CaRefused as failure:
                yield error("ca", str(failure), "take a new join token from this mesh's CA: hostmesh ca token create")
            except CaUnavailable:
                continue  # told above


def check_clock(patient: Patient) -> Findings:
    """Compare this host's clock with those of its CAs, by the time in their answers on the metrics port."""
    compared = 0
    for host in patient.config.ca.hosts:
        ahead = _clock_ahead(host)
        if ahead is None:
            continue
        compared += 1
        if abs(ahead) > CLOCK_TOLERANCE_SECONDS:
            side = "ahead of" if ahead > 0 else "behind"
            yield error(
                "clock",
                f"this clock is {abs(ahead):.0f} s {side} that of {host}: certificates may seem over or not begun",
                "synchronize both: timedatectl set-ntp true (systemd-timesyncd or chrony)",
            )
        else:
            yield ok("clock", f"within {CLOCK_TOLERANCE_SECONDS:g} s of {host}")
    if patient.config.ca.hosts and not compared:
        yield warning(
            "clock",
            f"could not be compared: no CA answers on its metrics port {CA_METRICS_PORT}",
            "see that both hosts are synchronized: timedatectl",
        )


def check_ways(patient: Patient) -> Findings:
    """Try the way to every other host: its agent's operator port, and the ports of its services."""
    config = patient.config
    address = consul_address(config)
    statuses, _ = NodeStatuses(address).read()
    wanted: dict[tuple[str, int], str] = {}
    for status in statuses:
        if status.node != config.node and status.operator:
            wanted[status.operator.address, status.operator.port] = f"{status.node} (operator port)"
    # Where every connection is captured, Envoy would answer in place of the other host.
    if config.interception.outbound is not OutboundCapture.ALL:
        own = patient.status.address if patient.status else config.address
        wanted |= {way: who for way, who in _services(KvConnection(address)).items() if way[0] != own}
    ways = sorted(wanted)[:MAX_WAYS]
    closed = [(way, why) for way, why in zip(ways, _try_all(ways), strict=True) if why]
    for (host, port), why in closed:
        yield error(
            "firewall",
            f"{wanted[host, port]}: {host} port {port}: {why}",
            f"let TCP {port} from this host through the firewalls on the way (that host's own sees services at 15006)"
            + ("" if "timed out" in why else ", and see that the program runs there"),
        )
    if not closed:
        yield ok("firewall", f"{len(ways)} ports of other hosts can be reached")


def _services(kv: KvConnection) -> dict[tuple[str, int], str]:
    """Return the ports of all healthy mesh instances, with who serves there."""
    found = {}
    for name in sorted(decode_names(kv.send("get", "/v1/catalog/services").body.encode())):
        body = kv.send("get", f"/v1/health/service/{quote(name, safe='')}", [("passing", "true")]).body
        for instance in decode_instances(name, body.encode()).instances:
            for port in instance.ports if instance.proxied else ():
                found[instance.address, port.number] = f"service {instance.service} on {instance.node}"
    return found


def _try_all(ways: Sequence[tuple[str, int]]) -> Iterable[str]:
    with ThreadPoolExecutor(max_workers=32) as pool:
        return list(pool.map(lambda way: _why_not(*way), ways))


def _why_not(host: str, port: int) -> str:
    """Return why no connection can be made, empty if one can."""
    try:
        socket.create_connection((host, port), TRY_SECONDS).close()
    except TimeoutError:
        return f"timed out after {TRY_SECONDS:g} s (a firewall drops it, or the host is away)"
    except OSError as failure:
        return (failure.strerror or str(failure)).lower()
    return ""


def _clock_ahead(host: str) -> float | None:
    """Return by how many seconds this clock is ahead of the CA's, None if that one does not tell."""
    connection = http.client.HTTPConnection(host, CA_METRICS_PORT, timeout=TRY_SECONDS)
    try:
        connection.request("GET", "/healthz")
        date = connection.getresponse().getheader("Date")
        return time.time() - parsedate_to_datetime(date).timestamp() if date else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()


def _fingerprint(patient: Patient) -> bytes:
    """Return the CA's fingerprint in the join token; empty if there is none (any more)."""
    try:
        words = patient.config.token_file.read_text(encoding="ascii").split()
        return next(JoinToken.from_text(word).root_fingerprint for word in words if word.startswith("hmt1."))
    except (OSError, ValueError, StopIteration):
        return b""
