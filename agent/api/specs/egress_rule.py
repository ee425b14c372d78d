"""EgressRule (config.istio.io): what its spec may hold, as Istio checked it."""

from __future__ import annotations

from typing import Any

from agent.api.checks import addresses
from agent.api.checks.schema import Check, Report, boolean, integer, like, listing, message, text
from agent.api.yaml_text import child

_TCP = ("tcp", "https", "mongo", "redis", "mysql")
_PROTOCOLS = ("http", "http2", "grpc", *_TCP)


def _service(value: str) -> str | None:
    """Want `*`, a host name with a wildcard at most in front, or a range of addresses."""
    if "/" in value:
        return addresses.subnet(value)
    if value == "*":
        return None
    return addresses.dns_name(value.removeprefix("*").lstrip(".-") if value.startswith("*") else value)


def _protocol(value: str) -> str | None:
    return None if value.lower() in _PROTOCOLS else f"is not allowed (one of {', '.join(_PROTOCOLS)})"


def _no_egress_proxy(report: Report, path: str, value: Any) -> None:
    boolean(report, path, value)
    if value is True:
        report.invalid(path, "Istio never had this (route to an egress gateway with a Gateway and a VirtualService)")


def _whole(report: Report, path: str, spec: dict[str, Any]) -> None:
    if spec["destination"]["service"] == "*":
        reason = 'the wildcard "*" is known, but not supported yet (name a domain: "*.example.com")'
        report.unsupported(child(path, "destination.service"), reason)
    elif "%" in spec["destination"]["service"]:
        reason = "an address of one network interface (with %) is known, but not supported yet"
        report.unsupported(child(path, "destination.service"), reason)
    numbers: set[int] = set()
    service = spec["destination"]["service"]
    for index, port in enumerate(spec["ports"]):
        place = f"{child(path, 'ports')}[{index}]"
        if port["port"] in numbers:
            report.invalid(f"{place}.port", f"{port['port']} is given twice")
        numbers.add(port["port"])
        if "/" in service and port["protocol"].lower() not in _TCP:
            report.invalid(f"{place}.protocol", f"does not go with a range of addresses (one of {', '.join(_TCP)})")


SPEC: Check = message(
    {
        "destination": message({"service": text(_service)}, required=("service",)),
        "ports": listing(
            message({"port": integer(1, 65535), "protocol": text(_protocol)}, required=("port", "protocol")),
            at_least=1,
        ),
        "useEgressProxy": like(boolean)(_no_egress_proxy),
    },
    required=("destination", "ports"),
    also=_whole,
)
