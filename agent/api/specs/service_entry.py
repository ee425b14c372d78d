"""ServiceEntry (networking.istio.io): what its spec may hold, as Istio checks it."""

from __future__ import annotations

from typing import Any

from agent.api.checks import addresses, words
from agent.api.checks.addresses import HTTP_PROTOCOLS, TLS_PROTOCOLS
from agent.api.checks.schema import Check, Report, integer, listing, message, one_of, text
from agent.api.checks.scope import WORKLOAD_SELECTOR, visible_in
from agent.api.specs.workload_entry import ENDPOINT_FIELDS, unix_has_no_ports, unsupported_endpoint
from agent.api.yaml_text import child

_NAMED = ("DNS", "DNS_ROUND_ROBIN")
_DYNAMIC_PROTOCOLS = ("http", "http2", "grpc", "tls")
_RESOLUTIONS = ("NONE", "STATIC", *_NAMED, "DYNAMIC_DNS")

_NOT_YET = "is known, but not supported yet"

_PORT = message(
    {
        "number": integer(1, 65535),
        "name": text(addresses.port_name),
        "protocol": text(addresses.protocol, empty=True),
        "targetPort": integer(0, 65535),
    },
    required=("number", "name"),
)


def _whole(report: Report, path: str, spec: dict[str, Any]) -> None:
    resolution = spec.get("resolution") or "NONE"
    if "workloadSelector" in spec and "endpoints" in spec:
        report.invalid(child(path, "endpoints"), "does not go with workloadSelector (give one of them)")
    if resolution not in ("NONE", "STATIC") and any("/" in address for address in spec.get("addresses") or ()):
        report.invalid(child(path, "addresses"), f"ranges go with the resolutions NONE and STATIC, not {resolution}")
    _distinct_ports(report, child(path, "ports"), spec.get("ports") or [])
    if resolution == "NONE" and spec.get("endpoints"):
        report.invalid(
            child(path, "endpoints"), "do not go with the resolution NONE (STATIC for addresses, DNS for names)"
        )
    elif resolution == "STATIC":
        _static(report, path, spec)
    elif resolution in _NAMED:
        _by_name(report, path, spec, resolution)
    elif resolution == "DYNAMIC_DNS":
        _dynamic(report, path, spec)
    if resolution != "NONE" and len(spec["hosts"]) > 1:
        _told_apart(report, path, spec)
    _unsupported(report, path, spec, resolution)


def _unsupported(report: Report, path: str, spec: dict[str, Any], resolution: str) -> None:
    """Name what is not honoured yet; where the rest would mean something else without it, at the place of the rest."""
    if resolution == "DYNAMIC_DNS":
        _unsupported_dynamic(report, path, spec)
    if any("%" in address for address in spec.get("addresses") or ()):
        report.unsupported(path, f"an address of one network interface (with %) {_NOT_YET}")
    for index, port in enumerate(spec.get("ports") or ()):
        if (port.get("protocol") or port["name"]).lower() == "udp":
            report.unsupported(f"{child(path, 'ports')}[{index}]", "udp cannot go through the mesh")
    for index, endpoint in enumerate(spec.get("endpoints") or ()):
        unsupported_endpoint(report, f"{child(path, 'endpoints')}[{index}]", endpoint)


def _unsupported_dynamic(report: Report, path: str, spec: dict[str, Any]) -> None:
    if "workloadSelector" in spec:
        report.unsupported(child(path, "workloadSelector"), "does nothing with DYNAMIC_DNS (remove it)")
    for index, port in enumerate(spec.get("ports") or ()):
        place = f"{child(path, 'ports')}[{index}]"
        protocol = (port.get("protocol") or "").lower()
        if protocol not in TLS_PROTOCOLS and port.get("targetPort") not in (None, 0, port["number"]):
            report.unsupported(place, "targetPort with DYNAMIC_DNS: requests go to the port that their Host says")


def _distinct_ports(report: Report, path: str, ports: list[dict[str, Any]]) -> None:
    for key in ("name", "number"):
        seen = set()
        for index, port in enumerate(ports):
            if port[key] in seen:
                report.invalid(f"{path}[{index}].{key}", f"{port[key]} is given twice")
            seen.add(port[key])


def _endpoints(report: Report, path: str, spec: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return each endpoint with its path; what their ports say must be ports of the service."""
    names = {port["name"] for port in spec.get("ports") or ()}
    found = [(f"{child(path, 'endpoints')}[{index}]", one) for index, one in enumerate(spec.get("endpoints") or ())]
    for place, endpoint in found:
        for name in endpoint.get("ports") or {}:
            if name not in names:
                report.invalid(child(child(place, "ports"), name), "is not the name of one of spec.ports")
    return found


def _static(report: Report, path: str, spec: dict[str, Any]) -> None:
    for place, endpoint in _endpoints(report, path, spec):
        address = endpoint.get("address") or ""
        if addresses.is_unix(address):
            wrong = addresses.unix_socket(address)
            unix_has_no_ports(report, place, endpoint)
            if len(spec.get("ports") or ()) != 1:
                report.invalid(child(path, "ports"), "must be exactly one port for an endpoint that is a Unix socket")
        elif not address and endpoint.get("network"):
            wrong = None
        else:
            wrong = words.address(address) and f"{words.address(address)} (STATIC takes no names; DNS does)"
        if wrong:
            report.invalid(child(place, "address"), wrong)


def _by_name(report: Report, path: str, spec: dict[str, Any], resolution: str) -> None:
    endpoints = _endpoints(report, path, spec)
    for index, host in enumerate(() if endpoints else spec["hosts"]):
        if addresses.dns_name(host):
            place = f"{child(path, 'hosts')}[{index}]"
            report.invalid(place, f'"{host}" cannot be looked up (a full host name, or give endpoints)')
    if resolution == "DNS_ROUND_ROBIN" and len(endpoints) > 1:
        report.invalid(child(path, "endpoints"), f"has {len(endpoints)} items (at most 1 for DNS_ROUND_ROBIN)")
    for place, endpoint in endpoints:
        wrong = addresses.name_or_address(endpoint.get("address") or "")
        if wrong:
            report.invalid(child(place, "address"), wrong)


def _dynamic(report: Report, path: str, spec: dict[str, Any]) -> None:
    """The proxy looks up the name of each request, so it must see a name in it."""
    for key in ("endpoints", "addresses"):
        if spec.get(key):
            report.invalid(child(path, key), "does not go with DYNAMIC_DNS, which looks up the request's own host")
    for index, host in enumerate(spec["hosts"]):
        if not host.startswith("*"):
            report.invalid(
                f"{child(path, 'hosts')}[{index}]", f'"{host}" is no wildcard (DYNAMIC_DNS is for wildcards)'
            )
    for index, port in enumerate(spec.get("ports") or ()):
        if (port.get("protocol") or "").lower() not in _DYNAMIC_PROTOCOLS:
            place = f"{child(path, 'ports')}[{index}].protocol"
            report.invalid(place, f"does not go with DYNAMIC_DNS (one of {', '.join(_DYNAMIC_PROTOCOLS)})")


def _told_apart(report: Report, path: str, spec: dict[str, Any]) -> None:
    for index, port in enumerate(spec.get("ports") or ()):
        if (port.get("protocol") or "").lower() not in HTTP_PROTOCOLS | TLS_PROTOCOLS:
            place = f"{child(path, 'ports')}[{index}].protocol"
            report.invalid(place, "several hosts cannot be told apart without HTTP or TLS (one ServiceEntry for each)")
            return


SPEC: Check = message(
    {
        "hosts": listing(text(addresses.entry_host), at_least=1),
        "addresses": listing(text(addresses.subnet)),
        "ports": listing(_PORT),
        "location": one_of("MESH_EXTERNAL", "MESH_INTERNAL"),
        "resolution": one_of(*_RESOLUTIONS),
        "endpoints": listing(message(ENDPOINT_FIELDS)),
        "workloadSelector": WORKLOAD_SELECTOR,
        "exportTo": visible_in(nowhere=True),
        "subjectAltNames": listing(text(empty=True)),
    },
    required=("hosts",),
    also=_whole,
)
