"""The catalog file of `hostmesh render`: a mesh written down by hand. Untrusted text → typed Catalog.

Reads no file itself; every problem is reported at once as `FILE:LINE: path: reason (how to mend it)`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import Struct, structs

from agent.api.checks import words
from agent.api.checks.active_check import ACTIVE_CHECK, read_active_check
from agent.api.checks.schema import Check, Report, boolean, integer, listing, mapping, message, one_of, text
from agent.api.problem import nearest, one_line
from agent.api.services import ANNOTATIONS
from agent.api.settings import settings_from
from agent.api.yaml_text import YamlValue, read_yaml
from agent.errors import ConfigError, ValidationError
from agent.mesh.gateway import INGRESS_LABELS
from agent.mesh.names import DEFAULT_NAMESPACE
from agent.mesh.ports import LISTENER_PORTS
from agent.mesh.service import (
    UDP_REFUSAL,
    Instance,
    Labels,
    Locality,
    Port,
    PortModes,
    Protocol,
    Service,
    ServiceKey,
    Workload,
    annotated_modes,
    labels_of,
    means_udp,
)
from agent.mesh.settings import MeshSettings
from agent.translate.netfilter import OutboundMode

MAX_ITEMS = 10_000


class HostSettings(Struct, frozen=True):
    """What agent.yaml would say on the node."""

    outbound: OutboundMode = OutboundMode.MESH
    dns_upstreams: tuple[str, ...] = ()
    gateway: Labels | None = None
    """The labels of the node, which is a gateway; None: it is none."""


class Catalog(Struct, frozen=True):
    """A mesh as a catalog file describes it."""

    settings: MeshSettings
    host: HostSettings
    nodes: dict[str, str]
    """Name → address."""
    services: tuple[Service, ...]
    instances: tuple[Instance, ...]
    """Of all services, in the file's order."""

    def workloads(self, node: str) -> tuple[Workload, ...]:
        """Return the instances on a node as its agent would know them; the first in the file is the default one.

        Their ports are those that they listen on.
        """
        return tuple(
            Workload(
                service=instance.service,
                address=instance.address,
                ports=tuple(
                    Port(instance.target_port(port.number) or port.number, port.name, port.protocol)
                    for port in instance.ports
                ),
                labels=instance.labels,
                service_account=instance.service_account,
                proxied=instance.proxied,
                port_modes=instance.port_modes,
            )
            for instance in self.instances
            if instance.node == node
        )


def read_catalog(content: str, source: str) -> Catalog:
    """Return the catalog; raises ConfigError with one line for each problem."""
    values, problems = read_yaml(content, source)
    if not problems and len(values) != 1:
        problems = [f"{source}:1: must hold one document, has {len(values)} (keys: mesh, nodes, services)"]
    if problems:
        raise ConfigError(problems)
    report = Report()
    _CATALOG(report, "", values[0].value)
    problems = [_line(values[0], source, problem.path, problem.reason) for problem in report.problems]
    if problems or not isinstance(values[0].value, dict):
        raise ConfigError(problems)
    return _catalog(_without_null(values[0].value), f"{source}:{values[0].lines.get('mesh', 1)}: mesh")


def _line(document: YamlValue, source: str, path: str, reason: str) -> str:
    """Return a problem with the line of the nearest part of the document that is there."""
    known = path
    while known and known not in document.lines:
        known = known[: max(known.rfind("."), known.rfind("["), 0)]
    place = f"{path}: " if path else ""
    return f"{source}:{document.lines.get(known, document.line)}: {place}{reason}"


def _without_null(value: Any) -> Any:
    """Return the data without null fields: a field without a value is as good as absent."""
    if isinstance(value, dict):
        return {key: _without_null(item) for key, item in value.items() if item is not None}
    return [_without_null(item) for item in value] if isinstance(value, list) else value


def _catalog(plain: dict[str, Any], mesh_source: str) -> Catalog:
    try:
        settings = settings_from(plain.get("mesh"), mesh_source)
    except ValidationError as error:
        raise ConfigError(list(error.problems)) from error
    nodes = {node["name"]: node["address"] for node in plain["nodes"]}
    places = {node["name"]: node.get("locality", "") for node in plain["nodes"]}
    services = [_service(service, nodes, places) for service in plain.get("services", [])]
    seen = [service for service in services if service.key.name not in settings.excluded_services]
    instances = tuple(instance for service in seen for instance in service.instances)
    ordered = (Service(service.key, service.ports, tuple(sorted(service.instances))) for service in seen)
    return Catalog(settings, _host(plain), nodes, tuple(ordered), instances)


def _host(plain: dict[str, Any]) -> HostSettings:
    outbound = (plain.get("interception") or {}).get("outbound", OutboundMode.MESH)
    upstreams = tuple((plain.get("dns") or {}).get("upstreams") or ())
    labels = labels_of(plain.get("labels") or {}) or INGRESS_LABELS
    return HostSettings(OutboundMode(outbound), upstreams, labels if plain.get("role") == "gateway" else None)


def _service(plain: dict[str, Any], nodes: dict[str, str], places: dict[str, str]) -> Service:
    """Return a service with its instances in the file's order."""
    key = ServiceKey(plain.get("namespace", DEFAULT_NAMESPACE), plain["name"])
    ports = tuple(_port(port) for port in plain["ports"])
    account = plain.get("serviceAccount", "default")
    modes = annotated_modes(plain.get("annotations", {}))
    instances = tuple(
        _instance(
            key, ports, account, modes, item, nodes[item["node"]], item.get("locality") or places[item["node"]], index
        )
        for index, item in enumerate(plain.get("instances", []))
    )
    check = read_active_check(plain.get("activeCheck"), ports)
    return Service(key, tuple(sorted(ports)), tuple(structs.replace(each, active_check=check) for each in instances))


def _instance(
    key: ServiceKey,
    ports: tuple[Port, ...],
    account: str,
    modes: PortModes,
    plain: dict[str, Any],
    address: str,
    locality: str,
    index: int,
) -> Instance:
    served, targets = _served_ports(ports, plain.get("port"))
    return Instance(
        id=f"{key}-{index:04d}",
        service=key,
        node=plain["node"],
        address=plain.get("address", address),
        ports=tuple(sorted(served)),
        labels=labels_of(plain.get("labels", {})),
        proxied=plain.get("proxied", False),
        service_account=account,
        port_modes=modes,
        target_ports=targets,
        locality=Locality.from_text(locality),
    )


def _served_ports(ports: tuple[Port, ...], listens: int | None) -> tuple[tuple[Port, ...], tuple[tuple[int, int], ...]]:
    """Return (service ports, their target ports) of an instance that listens on a port.

    None or the first port's number: it serves every port of the service. The number of another one: that one alone.
    Any other number: that is where it serves the first port; the others have their own numbers.
    """
    numbers = [port.number for port in ports]
    if listens is None or listens == numbers[0]:
        return ports, ()
    if listens in numbers:
        return (ports[numbers.index(listens)],), ()
    return ports, ((numbers[0], listens),)


def _port(plain: dict[str, Any]) -> Port:
    name = plain.get("name", "")
    protocol = Protocol(plain["protocol"].lower()) if "protocol" in plain else Protocol.from_name(name)
    return Port(plain["port"], name or protocol.value, protocol)


def _locality(value: str) -> str | None:
    if len(value) <= 256 and 1 <= len(value.split("/")) <= 3 and all(value.split("/")) and "*" not in value:
        return None
    return f'"{one_line(value, 60)}" is not a locality (region/zone/subzone; later parts may be left out)'


def _protocol(report: Report, path: str, value: Any) -> None:
    known = ", ".join(Protocol)
    if not isinstance(value, str):
        report.invalid(path, f"must be a protocol (one of {known})")
    elif means_udp(value):
        report.invalid(path, UDP_REFUSAL)
    elif value.lower() not in list(Protocol):
        report.invalid(path, f'"{one_line(value, 40)}" is not a protocol of the mesh (one of {known})')


def _settings(report: Report, path: str, value: Any) -> None:
    """Note what is wrong with each setting at its own line."""
    try:
        settings_from(value, "")
    except ValidationError as error:
        for problem in error.problems:
            field, _, reason = problem.removeprefix(": ").partition(": ")
            report.invalid(f"{path}.{field}" if reason else path, reason or field)


def _ports(report: Report, path: str, value: Any) -> None:
    listing(_PORT, at_least=1, at_most=64)(report, path, value)
    if isinstance(value, list):
        _distinct(report, path, [port.get("port") for port in value if isinstance(port, dict)], "port")


def _distinct(report: Report, path: str, values: Iterable[Any], what: str) -> None:
    seen: dict[Any, int] = {}
    for index, value in enumerate(values):
        if isinstance(value, str | int | tuple) and seen.setdefault(value, index) != index:
            shown = value if isinstance(value, str | int) else f"{value[1]} in namespace {value[0]}"
            report.invalid(f"{path}[{index}]", f"{what} {shown} is given twice (first as {path}[{seen[value]}])")


def _whole(report: Report, path: str, catalog: dict[str, Any]) -> None:
    """Check what one part says of another; runs only if every part is right by itself."""
    nodes = [node["name"] for node in catalog["nodes"]]
    _distinct(report, "nodes", nodes, "node")
    services = catalog.get("services", [])
    _distinct(report, "services", [(s.get("namespace") or DEFAULT_NAMESPACE, s["name"]) for s in services], "service")
    for index, service in enumerate(services):
        for position, instance in enumerate(service.get("instances") or []):
            if instance["node"] not in nodes:
                place = f"services[{index}].instances[{position}].node"
                known = nearest(instance["node"], nodes) or f" (nodes: {', '.join(nodes)})"
                report.invalid(place, f'"{one_line(instance["node"], 64)}" is not one of nodes{known}')


def _service_port(report: Report, path: str, value: Any) -> None:
    _NUMBER(report, path, value)
    if value in LISTENER_PORTS:
        report.invalid(path, f"{value} is one of Envoy's own on every host (use another one)")


def _port_name(report: Report, path: str, value: Any) -> None:
    text(words.dns_label)(report, path, value)
    if isinstance(value, str) and means_udp(value):
        report.invalid(path, UDP_REFUSAL)


def _service_whole(report: Report, path: str, service: dict[str, Any]) -> None:
    if service.get("activeCheck") and not report.invalid_count:
        ports = tuple(_port(port) for port in _without_null(service["ports"]))
        if wrong := read_active_check(service["activeCheck"], ports).obstacle(ports):
            report.invalid(f"{path}.activeCheck", wrong)


_NUMBER = integer(1, 65535)
_LABELS = mapping(text(words.label_value, empty=True), words.label_key)
_PORT: Check = message({"name": _port_name, "port": _service_port, "protocol": _protocol}, required=("port",))
_INSTANCE = message(
    {
        "node": text(),
        "address": text(words.address),
        "port": _NUMBER,
        "labels": _LABELS,
        "proxied": boolean,
        "locality": text(_locality),
    },
    required=("node",),
)
_SERVICE = message(
    {
        "name": text(words.dns_label),
        "namespace": text(words.dns_label),
        "serviceAccount": text(words.subdomain),
        "ports": _ports,
        "activeCheck": ACTIVE_CHECK,
        "annotations": ANNOTATIONS,
        "instances": listing(_INSTANCE, at_most=MAX_ITEMS),
    },
    required=("name", "ports"),
    also=_service_whole,
)
_CATALOG = message(
    {
        "mesh": _settings,
        "role": one_of("host", "gateway"),
        "labels": _LABELS,
        "interception": message({"outbound": one_of(*OutboundMode)}),
        "dns": message({"upstreams": listing(text(words.dns_server), at_most=16)}),
        "nodes": listing(
            message(
                {"name": text(), "address": text(words.address), "locality": text(_locality)},
                required=("name", "address"),
            ),
            at_least=1,
            at_most=MAX_ITEMS,
        ),
        "services": listing(_SERVICE, at_most=MAX_ITEMS),
    },
    required=("nodes",),
    also=_whole,
)
