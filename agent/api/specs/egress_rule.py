"""EgressRule (config.istio.io): what its spec may hold, as Istio checked it."""

from __future__ import annotations

import re
from typing import Any

from agent.api.checks import addresses
from agent.api.checks.schema import Check, Report, boolean, integer, like, listing, message, text
from agent.api.checks.words import is_address
from agent.api.yaml_text import child

_NUMBERED = re.compile(r"(?:[0-9]{1,19}\.){0,99}[0-9]{1,19}$")
"""What looks like an address, or the end of one."""
_TCP = ("tcp", "https", "mongo", "redis", "mysql")
_PROTOCOLS = ("http", "http2", "grpc", *_TCP)


def _service(value: str) -> str | None:
    """Want `*`, a host name with a wildcard at most in front, an address, or a range of addresses."""
    if "/" in value:
        return addresses.subnet(value)
    if value == "*" or is_address(value):
        return None
    name = _named(value)
    return None if _NUMBERED.fullmatch(name) else addresses.dns_name(name)


def _named(service: str) -> str:
    """Return what follows the wildcard, if there is one."""
    return service[2 if service[1:2] in (".", "-") else 1 :] if service.startswith("*") else service


def _protocol(value: str) -> str | None:
    return None if value.lower() in _PROTOCOLS else f"is not allowed (one of {', '.join(_PROTOCOLS)})"


def _no_egress_proxy(report: Report, path: str, value: Any) -> None:
    boolean(report, path, value)
    if value is True:
        report.invalid(path, "Istio never had this (route to an egress gateway with a Gateway and a VirtualService)")


def _whole(report: Report, path: str, spec: dict[str, Any]) -> None:
    service = spec["destination"]["service"]
    if service == "*":
        reason = 'the wildcard "*" is known, but not supported yet (name a domain: "*.example.com")'
        report.unsupported(child(path, "destination.service"), reason)
    elif "%" in service:
        reason = "an address of one network interface (with %) is known, but not supported yet"
        report.unsupported(child(path, "destination.service"), reason)
    elif is_address(service) or _NUMBERED.fullmatch(_named(service)):
        reason = "a number in place of a name is known, but not supported yet (write a range: 10.1.2.3/32)"
        report.unsupported(child(path, "destination.service"), reason)
    numbers: set[int] = set()
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
