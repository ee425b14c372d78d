"""Sidecar (networking.istio.io): what its spec may hold, as Istio checks it."""

from __future__ import annotations

import re
from typing import Any

from agent.api.checks import addresses, words
from agent.api.checks.addresses import TLS_PROTOCOLS
from agent.api.checks.schema import Check, Report, integer, like, listing, message, one_of, text
from agent.api.checks.scope import WORKLOAD_SELECTOR
from agent.api.checks.server_tls import SERVER_TLS, mode
from agent.api.checks.traffic_policy import CONNECTION_POOL
from agent.api.specs.workload_entry import socket_obstacle
from agent.api.yaml_text import child

_CAPTURED = "cannot be had: connections come to Envoy by interception (agent.yaml), not to ports that it binds"
_CAPTURE = one_of("DEFAULT", "IPTABLES", "NONE")
_LOCAL = re.compile(r"(|127\.0\.0\.1|0\.0\.0\.0|\[::1\]|\[::\]):([0-9]{1,5})")


def _no_target_port(report: Report, path: str, value: Any) -> None:
    if value:
        report.invalid(path, "means nothing to a Sidecar (remove it)")


_PORT = message(
    {
        "number": integer(0, 65535),
        "name": text(addresses.port_name, empty=True),
        "protocol": text(addresses.protocol, empty=True),
        "targetPort": like(integer(0, 0))(_no_target_port),
    }
)


def _default_endpoint(value: str) -> str | None:
    if addresses.is_unix(value):
        return addresses.unix_socket(value)
    found = _LOCAL.fullmatch(value)
    if found and 1 <= int(found[2]) <= 65535:
        return None
    return "is no local endpoint (127.0.0.1:PORT, 0.0.0.0:PORT, [::1]:PORT, [::]:PORT or unix:///path)"


def _ingress(report: Report, path: str, listener: dict[str, Any]) -> None:
    if not listener["port"].get("number"):
        report.invalid(child(path, "port.number"), "is missing (1 to 65535)")
    if (listener["port"].get("protocol") or "").lower() == "udp":
        report.unsupported(path, "udp cannot go through the mesh")
    if wrong := socket_obstacle(listener.get("defaultEndpoint") or ""):
        report.unsupported(path, wrong)
    if listener.get("bind"):
        report.unsupported(path, f"bind {_CAPTURED}")
    if listener.get("captureMode") == "NONE":
        report.unsupported(path, f"captureMode NONE {_CAPTURED}")
    tls = listener.get("tls")
    if tls is not None:
        report.unsupported(
            path, "tls of a workload's own port: Envoy serves the mesh's mutual TLS there (use a Gateway)"
        )
        _ingress_tls(report, child(path, "tls"), tls, (listener["port"].get("protocol") or ""))


def _ingress_tls(report: Report, path: str, tls: dict[str, Any], protocol: str) -> None:
    for key in ("subjectAltNames", "httpsRedirect", "credentialName", "credentialNames", "tlsCertificates"):
        if tls.get(key):
            report.invalid(child(path, key), "is not supported in a Sidecar (certificates are files there)")
    if mode(tls) in ("ISTIO_MUTUAL", "AUTO_PASSTHROUGH"):
        report.invalid(child(path, "mode"), f"{mode(tls)} is not allowed in a Sidecar")
    if protocol.lower() not in TLS_PROTOCOLS:
        report.invalid(path, "does not go with a port whose protocol is not HTTPS or TLS")


def _egress(report: Report, path: str, listener: dict[str, Any]) -> None:
    """A port is on an address, or (number 0) a Unix socket."""
    port, bind = listener.get("port"), (listener.get("bind") or "")
    place = child(path, "bind")
    if port is None:
        wrong = None
    elif port.get("number"):
        wrong = words.address(bind) if bind else None
    else:
        wrong = addresses.unix_socket(bind) and "must be a Unix socket, as the port's number is 0 (unix:///path)"
        if listener.get("captureMode") == "IPTABLES":
            report.invalid(child(path, "captureMode"), "IPTABLES does not go with a Unix socket (DEFAULT or NONE)")
    if wrong:
        report.invalid(place, wrong)
    elif port is not None and not port.get("number"):
        report.unsupported(path, "a Unix socket to call services by: applications call them by name")
    elif bind:
        report.unsupported(place, "is not needed: applications call the hosts by name, at their virtual addresses")
    if listener.get("captureMode") == "NONE" and not wrong:
        report.unsupported(child(path, "captureMode"), f"NONE {_CAPTURED}")


_INGRESS = listing(
    message(
        {
            "port": _PORT,
            "bind": text(words.address, empty=True),
            "captureMode": _CAPTURE,
            "defaultEndpoint": text(_default_endpoint, empty=True),
            "tls": SERVER_TLS,
            "connectionPool": CONNECTION_POOL,
        },
        required=("port",),
        also=_ingress,
    )
)
_EGRESS = listing(
    message(
        {
            "port": _PORT,
            "bind": text(empty=True),
            "captureMode": _CAPTURE,
            "hosts": listing(text(lambda host: addresses.scoped_host(host, namespaces=("*", ".", "~"))), at_least=1),
        },
        required=("hosts",),
        also=_egress,
    )
)


def _outbound(report: Report, path: str, policy: dict[str, Any]) -> None:
    if "egressProxy" in policy:
        reason = "is known, but not supported: unknown hosts are called directly (declare those that go by a gateway)"
        report.unsupported(child(path, "egressProxy"), reason)
    if "egressProxy" in policy and policy.get("mode") != "ALLOW_ANY":
        report.invalid(child(path, "egressProxy"), "goes with the mode ALLOW_ANY only")


_OUTBOUND = message(
    {
        "mode": one_of("REGISTRY_ONLY", "ALLOW_ANY"),
        "egressProxy": message(
            {
                "host": text(addresses.dns_name),
                "subset": text(addresses.label, empty=True),
                "port": message({"number": integer(1, 65535)}, required=("number",)),
            },
            required=("host", "port"),
        ),
    },
    also=_outbound,
)


def _whole(report: Report, path: str, spec: dict[str, Any]) -> None:
    ingress, egress = spec.get("ingress") or [], spec.get("egress") or []
    if not ingress and not egress and not {"outboundTrafficPolicy", "inboundConnectionPool"} & set(spec):
        report.invalid(path, "says nothing (egress, ingress, outboundTrafficPolicy or inboundConnectionPool)")
    for index, listener in enumerate(egress[:-1]):
        if "port" not in {key for key, value in listener.items() if value is not None}:
            report.invalid(
                f"{child(path, 'egress')}[{index}].port", "is missing (only the last listener is for any port)"
            )
    for name, listeners in (("ingress", ingress), ("egress", egress)):
        _distinct(report, child(path, name), listeners)


def _distinct(report: Report, path: str, listeners: list[dict[str, Any]]) -> None:
    """Each listener has a port, or a Unix socket, of its own."""
    seen: set[Any] = set()
    for index, listener in enumerate(listeners):
        port = listener.get("port")
        if port is None:
            continue
        place = port.get("number") or listener.get("bind")
        if place in seen:
            report.invalid(f"{path}[{index}].port", f"{place} is given twice (each listener has its own)")
        seen.add(place)


SPEC: Check = message(
    {
        "workloadSelector": WORKLOAD_SELECTOR,
        "ingress": _INGRESS,
        "egress": _EGRESS,
        "inboundConnectionPool": CONNECTION_POOL,
        "outboundTrafficPolicy": _OUTBOUND,
    },
    also=_whole,
)
