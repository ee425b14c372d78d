"""Who listens where: the mesh's own ports, the ports of this host's services, and DNS."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import psutil
from msgspec import Struct

from agent.adapters.dns.hosts import FILE_NAME
from agent.adapters.dns.question import Unknown
from agent.cli.checkup.finding import Findings, Patient, error, ok, warning
from agent.config import load_workloads
from agent.mesh.ports import DNS_PORT, LISTENER_PORTS
from agent.runtime.names_watch import look

METRICS_PORT = 15020
_FORWARD = "systemctl enable --now hostmesh-dns; hostmesh dns forward {0} >{1}, and restart {0} (docs/names.md)"
_NAME_SERVERS = {
    "named": ("bind", _FORWARD.format("bind", "/etc/bind/hostmesh.conf")),
    "unbound": ("unbound", _FORWARD.format("unbound", "/etc/unbound/unbound.conf.d/hostmesh.conf")),
    "systemd-resolve": (
        "systemd-resolved",
        "systemctl start hostmesh-resolved; see `resolvectl status hostmesh` (docs/names.md)",
    ),
}


class Listener(Struct, frozen=True):
    """A socket that takes connections or datagrams."""

    address: str
    port: int
    program: str
    pid: int


def listeners(kind: str = "tcp") -> list[Listener]:
    """Return the sockets of this network that listen, with their programs where root asks."""
    found = []
    for connection in psutil.net_connections(kind):
        if kind == "tcp" and connection.status != psutil.CONN_LISTEN:
            continue
        if connection.laddr:
            pid = connection.pid or 0
            found.append(Listener(connection.laddr.ip, connection.laddr.port, _program(pid), pid))
    return found


def check_ports(patient: Patient) -> Findings:
    """Tell which of the mesh's ports another program has, and which services nobody serves."""
    config, open_ports = patient.config, listeners()
    own = {*LISTENER_PORTS, METRICS_PORT, *([config.operator.port] if config.operator.enabled else [])}
    taken = [one for one in open_ports if one.port in own and not _is_ours(one, config.proxy.binary)]
    for one in {it.port: it for it in taken}.values():
        who = f"{one.program} (process {one.pid})" if one.pid else "another program"
        yield error(
            "ports",
            f"port {one.port} of the mesh is taken by {who}",
            "move that program to another port" + (" (or operator.port)" if one.port == config.operator.port else ""),
        )
    if not taken:
        yield ok("ports", "no other program is on the mesh's ports")
    served = {one.port for one in open_ports}
    workloads, _ = load_workloads(config.config_dir, config.address or "127.0.0.1")
    for workload in workloads if config.gateway_labels is None else ():
        for number in sorted({port.number for port in workload.ports} - served):
            yield warning(
                "services",
                f"service {workload.service}: nothing listens on its port {number}",
                "start the application, or correct the port (hostmesh service list)",
            )


def check_dns(patient: Patient) -> Findings:
    """Tell whether programs get the mesh's names, and if not, or if there are none, who answers names here."""
    known = look(patient.config.state_dir / "dns" / FILE_NAME)
    if known is True:
        yield ok("dns", "programs on this host get the mesh's names")
        return
    if isinstance(known, Unknown):
        yield error("dns", str(known), known.mend)
        return
    servers = [one for one in (*listeners("udp"), *listeners("tcp")) if one.port == DNS_PORT and _is_local(one.address)]
    programs = {one.program: one for one in servers if one.program}
    foreign = [name for name in programs if name in _NAME_SERVERS]
    if "dnsmasq" not in programs:
        first = foreign[0] if foreign else ""
        if first and first != "systemd-resolve":
            name, mend = _NAME_SERVERS[first]
            yield error("dns", f"{name} has port 53, so no dnsmasq answers the mesh's names", mend)
            return
        if servers and not programs:
            yield warning("dns", "a program has port 53 that only root can see", "run hostmesh doctor as root")
            return
        yield error("dns", "no dnsmasq listens on port 53: the mesh's names have no answer", "systemctl start dnsmasq")
    else:
        yield ok("dns", "dnsmasq listens on port 53")
    yield from _resolver()


def _resolver() -> Findings:
    """Tell whether programs of this host ask dnsmasq at all."""
    path = Path("/etc/resolv.conf")
    try:
        lines = [line.split() for line in path.read_text(errors="replace").splitlines()]
    except OSError as failure:
        yield error("dns", f"{path}: {failure.strerror}", "write `nameserver 127.0.0.1` into it")
        return
    named = [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]
    first = named[0] if named else ""
    if first == "127.0.0.53":
        name, mend = _NAME_SERVERS["systemd-resolve"]
        yield warning("dns", f"programs ask {name}, which must pass the mesh's names on to dnsmasq", mend)
    elif not first or not _is_local(first):
        yield error(
            "dns",
            f"{path} names {first or 'no server'} first: programs here never ask dnsmasq",
            "write `nameserver 127.0.0.1` as its first server (and the others as server= into /etc/dnsmasq.d)",
        )
    else:
        yield ok("dns", f"programs ask {first}")


def _is_local(address: str) -> bool:
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return parsed.is_loopback or parsed.is_unspecified


def _is_ours(listener: Listener, envoy: str) -> bool:
    """Tell whether it is the agent, or the Envoy that it supervises."""
    try:
        process = psutil.Process(listener.pid) if listener.pid else None
        words = process.cmdline() if process else []
    except psutil.Error:
        return False
    return any(word in (envoy, "hostmesh-agent") or word.endswith("/hostmesh-agent") for word in words[:3])


def _program(pid: int) -> str:
    try:
        return psutil.Process(pid).name() if pid else ""
    except psutil.Error:
        return ""
