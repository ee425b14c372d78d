"""WorkloadEntry and WorkloadGroup (networking.istio.io): what their specs may hold, as Istio checks them."""

from __future__ import annotations

import re
from typing import Any

from agent.api.checks import addresses
from agent.api.checks.fields import LABELS
from agent.api.checks.schema import Check, Report, integer, like, listing, mapping, message, one_of, text
from agent.api.problem import one_line
from agent.api.yaml_text import child

_OWN_SOCKET = re.compile(r"\bhostmesh\b")
_LONGEST_SOCKET = 107
"""Linux: 108 with the zero at the end."""
_PORT = integer(1, 65535)
_UINT32 = integer(0, 2**32 - 1)
_NOT_NEGATIVE = integer(0, 2**31 - 1)

PORTS: Check = mapping(_PORT, addresses.port_name)
ENDPOINT_FIELDS: dict[str, Check] = {
    "address": text(empty=True),
    "ports": PORTS,
    "labels": LABELS,
    "network": text(empty=True),
    "locality": text(empty=True),
    "weight": _UINT32,
    "serviceAccount": text(empty=True),
}
"""Of a WorkloadEntry and of a ServiceEntry's endpoints; the address depends on the place."""


def _entry(report: Report, path: str, entry: dict[str, Any]) -> None:
    address = entry.get("address") or ""
    if not address and not entry.get("network"):
        report.invalid(child(path, "address"), "is missing (a host name, an IP address or unix:///path)")
    unsupported_endpoint(report, path, entry)
    if not address:
        return
    wrong = addresses.endpoint_address(address)
    if wrong:
        report.invalid(child(path, "address"), wrong)
    unix_has_no_ports(report, path, entry)


def unix_has_no_ports(report: Report, path: str, entry: dict[str, Any]) -> None:
    """Refuse ports beside a Unix socket."""
    if addresses.is_unix(entry.get("address") or "") and entry.get("ports"):
        report.invalid(child(path, "ports"), "do not go with a Unix socket")


def unsupported_endpoint(report: Report, path: str, entry: dict[str, Any]) -> None:
    """Name what of an endpoint is not honoured."""
    address = entry.get("address") or ""
    if entry.get("network"):
        reason = "hosts reach each other directly: there is one network only, and no gateways between several"
        report.unsupported(child(path, "network") if address else path, reason)
    if wrong := socket_obstacle(address):
        report.unsupported(path, wrong)


def socket_obstacle(address: str) -> str | None:
    """Return why an address, if it is a Unix socket, cannot be connected to."""
    if not addresses.is_unix(address):
        return None
    path = address.removeprefix("unix://")
    if _OWN_SOCKET.search(path):
        return "a socket of hostmesh's own can be nobody's endpoint"
    if len(path.encode()) > _LONGEST_SOCKET or not path.isprintable():
        return f"the path of a Unix socket has at most {_LONGEST_SOCKET} bytes, all printable"
    return None


SPEC: Check = message(ENDPOINT_FIELDS, also=_entry)


def _probe_header(name: str) -> str | None:
    """Want a header name as Kubernetes takes it."""
    known = re.fullmatch(r"[-A-Za-z0-9]+", name)
    return None if known else f'"{one_line(name, 70)}" is not a header name (letters, digits and "-")'


_PROBES = ("httpGet", "tcpSocket", "exec", "grpc")


def _probe(report: Report, path: str, probe: dict[str, Any]) -> None:
    given = [key for key in _PROBES if key in probe]
    if len(given) != 1:
        report.invalid(
            path, f"needs one of {', '.join(_PROBES)}" if not given else f"{' and '.join(given)} exclude each other"
        )


_GROUP_LABELS = message({"labels": LABELS, "annotations": mapping(text(empty=True))})
_READINESS = message(
    {
        "initialDelaySeconds": _NOT_NEGATIVE,
        "timeoutSeconds": _NOT_NEGATIVE,
        "periodSeconds": _NOT_NEGATIVE,
        "successThreshold": _NOT_NEGATIVE,
        "failureThreshold": _NOT_NEGATIVE,
        "httpGet": message(
            {
                "path": text(empty=True),
                "port": _PORT,
                "host": text(empty=True),
                "scheme": one_of("HTTP", "HTTPS", ""),
                "httpHeaders": listing(message({"name": text(_probe_header), "value": text(empty=True)}, ("name",))),
            },
            required=("port",),
        ),
        "tcpSocket": message({"host": text(empty=True), "port": _PORT}, required=("port",)),
        "exec": message({"command": listing(text(empty=True), at_least=1)}, required=("command",)),
        "grpc": message({"port": _PORT, "service": text(empty=True)}, required=("port",)),
    },
    also=_probe,
)


def _template(report: Report, path: str, value: Any) -> None:
    """The address and much else of a template is filled in when a workload registers, so it is not checked here."""
    _LOOSE(report, path, value)


_LOOSE = message({**ENDPOINT_FIELDS, "labels": mapping(text(empty=True)), "ports": mapping(_UINT32)})

GROUP_SPEC: Check = message(
    {"metadata": _GROUP_LABELS, "template": like(_LOOSE)(_template), "probe": _READINESS}, required=("template",)
)
