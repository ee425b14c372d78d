"""The tcp and tls routes of a VirtualService: what they may hold, as Istio checks it."""

from __future__ import annotations

import re
from typing import Any

from agent.api.checks import addresses, words
from agent.api.checks.fields import LABELS
from agent.api.checks.schema import Check, Report, integer, like, listing, message, text
from agent.api.problem import one_line
from agent.api.yaml_text import child

_PORT = integer(1, 65535)
_ANY_PORT = integer(0, 65535)
"""Of a match: 0 is as good as absent."""


def destination_host(value: str) -> str | None:
    """Want the host that a route goes to: a name, not every host."""
    return '"*" is no destination (name a host)' if value == "*" else words.service_host(value)


def gateway_name(value: str) -> str | None:
    """Want `mesh`, NAME, NAMESPACE/NAME or the old NAME.NAMESPACE.svc.cluster.local."""
    namespace, slash, name = value.partition("/")
    if slash and addresses.is_label(namespace) and addresses.is_label(name):
        return None
    if not slash and addresses.dns_name(value) is None:
        return None
    return f'"{one_line(value, 70)}" is not the name of a gateway (NAME or NAMESPACE/NAME)'


DESTINATION: Check = message(
    {
        "host": text(destination_host),
        "subset": text(addresses.label, empty=True),
        "port": message({"number": _PORT}, required=("number",)),
    },
    required=("host",),
)
"""Where a route or a mirror leads, of any protocol."""
_WEIGHT = integer(0, 2**31 - 1)


@like(_WEIGHT)
def weight(report: Report, path: str, value: Any) -> None:
    """Check the weight of a destination, of any protocol."""
    _WEIGHT(report, path, value)
    if isinstance(value, int) and _MAX_WEIGHT < value < 2**31:
        report.unsupported(path, f"{value} is more than Envoy adds up (at most {_MAX_WEIGHT})")


_MAX_WEIGHT = 1_000_000
_ROUTE = listing(
    message({"destination": DESTINATION, "weight": weight}, required=("destination",)), at_least=1, at_most=256
)


_MATCH = {
    "destinationSubnets": listing(text(addresses.subnet)),
    "port": _ANY_PORT,
    "sourceLabels": LABELS,
    "sourceNamespace": text(empty=True),
    "gateways": listing(text(gateway_name)),
}


def _weights(report: Report, path: str, route: dict[str, Any]) -> None:
    weights = [target.get("weight") or 0 for target in route["route"]]
    if len(weights) > 1 and not sum(weights):
        report.invalid(child(path, "route"), "the weights add up to 0 (at least one must be above)")


_TCP = listing(
    message(
        {
            "match": listing(message({**_MATCH, "sourceSubnet": text(addresses.subnet, empty=True)})),
            "route": _ROUTE,
        },
        required=("route",),
        also=_weights,
    )
)


def _sni_host(value: str) -> str | None:
    if value.startswith("outbound_"):
        known = len(value) <= 255 and _BETWEEN_MESHES.fullmatch(value)
        return None if known else f'"{one_line(value, 70)}" is not outbound_.PORT_._.HOST'
    return None if words.is_address(value) else addresses.wildcard_name(value)


_BETWEEN_MESHES = re.compile(r"outbound_[^_]*[0-9][^_]*_[^_]*_[^_]*[a-zA-Z][^_]*(_.*)?")
"""A server name that Istio's own proxies make up for AUTO_PASSTHROUGH."""


_TLS_MATCH = message({**_MATCH, "sniHosts": listing(text(_sni_host), at_least=1)}, ("sniHosts",))
_TLS = listing(
    message(
        {"match": listing(_TLS_MATCH, at_least=1), "route": _ROUTE},
        required=("match", "route"),
        also=_weights,
    )
)


TCP_ROUTES: Check = _TCP
TLS_ROUTES: Check = _TLS


def matches(pattern: str, host: str) -> bool:
    """Tell whether two hosts overlap: equal, or one within the other's wildcard."""
    one, other = (name.rstrip(".").lower() for name in (pattern, host))
    if one.startswith("*") and other.startswith("*"):
        return one[1:].endswith(other[1:]) or other[1:].endswith(one[1:])
    for wildcard, name in ((one, other), (other, one)):
        if wildcard.startswith("*") and name.endswith(wildcard[1:]):
            return True
    return one == other


def is_within(name: str, host: str) -> bool:
    """Tell whether every name that `name` means is one that `host` means."""
    name, host = name.rstrip(".").lower(), host.rstrip(".").lower()
    return name == host or (host.startswith("*") and name.removeprefix("*").endswith(host[1:]))


def check_hosts(report: Report, path: str, spec: dict[str, Any]) -> None:
    """Check what the hosts of a VirtualService, its gateways and its routes say of each other."""
    hosts, gateways = spec.get("hosts") or [], spec.get("gateways") or []
    place = child(path, "hosts")
    for index, host in enumerate(hosts):
        first = next((other for other in hosts[:index] if matches(other, host)), None)
        if first is not None:
            reason = f'"{host}" is given twice' if first == host else f'"{host}" and "{first}" overlap'
            report.invalid(f"{place}[{index}]", reason)
        if host == "*" and (not gateways or "mesh" in gateways):
            report.invalid(f"{place}[{index}]", '"*" is for gateways only, not for the mesh (name a host)')
    if not gateways or "mesh" in gateways:
        _no_claims(report, path, spec)
    if not hosts:
        for key in ("gateways", "tcp", "tls"):
            if spec.get(key):
                reason = "does not go with a delegate (which has no hosts, and http only)"
                report.invalid(child(path, key), reason)
        for index, route in enumerate(spec.get("http") or ()):
            if "delegate" in route:
                report.invalid(f"{child(path, 'http')}[{index}].delegate", "a delegate cannot delegate further")
    for index, route in enumerate(spec.get("tls") or ()):
        for number, match in enumerate(route["match"]):
            for position, name in enumerate(match["sniHosts"]):
                if hosts and not words.is_address(name) and not any(is_within(name, host) for host in hosts):
                    where = f"{child(path, 'tls')}[{index}].match[{number}].sniHosts[{position}]"
                    report.invalid(where, f'"{name}" is not within spec.hosts')


def _no_claims(report: Report, path: str, spec: dict[str, Any]) -> None:
    """Claims of a token are known at a gateway, which has checked it."""
    for index, route in enumerate(spec.get("http") or ()):
        for number, match in enumerate(route.get("match") or ()):
            for field in ("headers", "withoutHeaders"):
                for name in match.get(field) or {}:
                    if name.startswith("@request.auth.claims"):
                        where = f"{child(path, 'http')}[{index}].match[{number}].{field}.{name}"
                        report.invalid(where, "claims are for gateways only (spec.gateways without mesh)")
