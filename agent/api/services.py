"""services.d/*.yaml: the service instances on this host, from YAML to Workload; knows no Consul."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from agent.api.checks import words
from agent.api.checks.active_check import ACTIVE_CHECK, read_active_check, url_path
from agent.api.checks.schema import Check as Check_
from agent.api.checks.schema import Report, boolean, either, integer, listing, mapping, message, one_of, text
from agent.api.problem import Problem, one_line
from agent.api.yaml_text import Node, YamlValue, read_yaml
from agent.errors import ConfigError
from agent.mesh.names import DEFAULT_NAMESPACE
from agent.mesh.ports import LISTENER_PORTS, NEVER_CAPTURED
from agent.mesh.service import (
    AUTH_ANNOTATION,
    UDP_REFUSAL,
    Check,
    Port,
    Protocol,
    ServiceKey,
    Workload,
    annotated_modes,
    annotation_fault,
    labels_of,
    means_udp,
)

_RESERVED = ("protocol", "namespace", "service-account")
"""Keys of the catalog's service meta that are not labels."""
_NUMBER = integer(1, 65535)


def read_services(text: str, source: str, default_address: str, proxied: bool = True) -> list[Workload]:
    """Return the workloads a file declares: one mapping, a list, or several documents.

    `default_address` is the node's own, `proxied` the mesh's default. Raises ConfigError with one `FILE:LINE: service
    NAME: field: reason` for each problem; a file with one bad service gives none.
    """
    values, problems = read_yaml(text, source, _list_items)
    workloads = []
    for value in values:
        report = Report()
        SERVICE(report, "", value.value)
        problems += [_describe(problem, value, source) for problem in report.problems]
        if not report.problems and isinstance(value.value, dict):
            plain = {"proxied": proxied, **{k: v for k, v in value.value.items() if v is not None}}
            workloads.append(_workload(plain, default_address))
    problems += _duplicates(workloads, source)
    if problems:
        raise ConfigError(problems)
    return workloads


def _list_items(node: Node) -> Iterable[Node]:
    return tuple(node.value) if isinstance(node, yaml.SequenceNode) else (node,)


def _describe(problem: Problem, value: YamlValue, source: str) -> str:
    path = problem.path
    while path and path not in value.lines:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    name = value.value.get("name") if isinstance(value.value, dict) else None
    subject = f"service {one_line(name, 64)}: " if isinstance(name, str) else ""
    place = f"{problem.path}: " if problem.path else ""
    return f"{source}:{value.lines.get(path, value.line)}: {subject}{place}{problem.reason}"


def _duplicates(workloads: list[Workload], source: str) -> list[str]:
    """Two instances of one service on one port would be one and the same registration."""
    seen: set[tuple[ServiceKey, int]] = set()
    problems = []
    for workload in workloads:
        for port in workload.ports:
            if (workload.service, port.number) in seen:
                problems.append(
                    f"{source}:1: service {workload.service}: port {port.number} is declared twice (keep one)"
                )
            seen.add((workload.service, port.number))
    return problems


def _protocol(report: Report, path: str, value: Any) -> None:
    if isinstance(value, str) and means_udp(value):
        report.invalid(path, UDP_REFUSAL)
        return
    one_of(*Protocol)(report, path, value.lower() if isinstance(value, str) else value)


def _port_name(report: Report, path: str, value: Any) -> None:
    text(words.dns_label)(report, path, value)
    if isinstance(value, str) and means_udp(value):
        report.invalid(path, UDP_REFUSAL)


def _port_whole(report: Report, path: str, port: dict[str, Any]) -> None:
    if ("port" in port) == ("number" in port):
        report.invalid(path, "needs its number (port: 9080)" if "port" not in port else "give port or number, not both")


def _ports_differ(report: Report, path: str, ports: Any) -> None:
    listing(_PORT, at_least=1, at_most=64)(report, path, ports)
    if report.invalid_count:
        return
    for field, values in (
        ("name", [_read_port(port).name for port in ports]),
        ("number", [_read_port(port).number for port in ports]),
    ):
        for index, value in enumerate(values):
            if value in values[:index]:
                report.invalid(f"{path}[{index}]", f"the {field} {value} is given twice (each port has its own)")


def _service_whole(report: Report, path: str, service: dict[str, Any]) -> None:
    if ("port" in service) == ("ports" in service):
        report.invalid(
            "ports" if "ports" in service else "port",
            "give port or ports, not both"
            if "ports" in service
            else "is missing (port: 9080, or ports: […] for several)",
        )
    if "ports" in service and "protocol" in service:
        report.invalid("protocol", "goes with port; write it into each of ports instead")
    _reachable(report, service)
    if service.get("activeCheck") and not report.invalid_count:
        ports = _read_ports(service)
        if wrong := read_active_check(service["activeCheck"], ports).obstacle(ports):
            report.invalid("activeCheck", wrong)


def _reachable(report: Report, service: dict[str, Any]) -> None:
    """Peers speak mutual TLS to a proxied instance; on a port that is never captured no Envoy would answer them."""
    proxied = service.get("proxied") is not False
    places = [(f"ports[{index}]", port) for index, port in enumerate(service.get("ports", []))] or [("", service)]
    for place, port in places:
        field = "port" if "port" in port else "number"
        path = f"{place}.{field}" if place else field
        if port.get(field) in LISTENER_PORTS:
            report.invalid(path, f"{port[field]} is one of Envoy's own on every host (use another one)")
        elif proxied and port.get(field) in NEVER_CAPTURED:
            report.invalid(path, f"{port[field]} is never captured, so no Envoy answers there (set proxied: false)")


def _check_whole(report: Report, path: str, check: dict[str, Any]) -> None:
    if "http" in check and check.get("tcp"):
        report.invalid(path, "give http or tcp, not both")
    elif check.get("tcp") is False and "http" not in check:
        report.invalid(path, "an instance needs a check (http: /path, or tcp: true)")


def _annotations(report: Report, path: str, value: Any) -> None:
    mapping(text(empty=True))(report, path, value)
    for name, said in value.items() if isinstance(value, dict) else ():
        if not isinstance(said, str):
            continue
        if not str(name).startswith(AUTH_ANNOTATION):
            report.invalid(f"{path}.{one_line(name, 60)}", f"is not an annotation of hostmesh ({AUTH_ANNOTATION}PORT)")
        elif wrong := annotation_fault(name.removeprefix(AUTH_ANNOTATION), said):
            report.invalid(path, wrong)


ANNOTATIONS: Check_ = _annotations
"""`auth.istio.io/PORT: NONE | MUTUAL_TLS`."""


def label_name(key: str) -> str | None:
    """Want a label that an instance can have: a Kubernetes label key that is none of the catalog's own."""
    if key in _RESERVED or key.startswith("hostmesh-"):
        return "is a name hostmesh itself uses in the catalog (choose another label)"
    return words.label_key(key)


_PORT = message({"name": _port_name, "port": _NUMBER, "number": _NUMBER, "protocol": _protocol}, also=_port_whole)
SERVICE = message(
    {
        "name": text(words.dns_label),
        "namespace": text(words.dns_label),
        "serviceAccount": text(words.subdomain),
        "address": text(words.address),
        "port": _NUMBER,
        "ports": _ports_differ,
        "protocol": _protocol,
        "labels": mapping(text(words.label_value, empty=True), label_name),
        "annotations": ANNOTATIONS,
        "proxied": boolean,
        "user": text(words.unix_user),
        "check": message(
            {
                "http": text(url_path),
                "tcp": boolean,
                "port": _NUMBER,
                "interval": either("a duration such as 5s", text=text(words.duration)),
                "timeout": either("a duration such as 2s", text=text(words.duration)),
            },
            also=_check_whole,
        ),
        "activeCheck": ACTIVE_CHECK,
    },
    required=("name",),
    also=_service_whole,
)


def _workload(service: dict[str, Any], default_address: str) -> Workload:
    ports = _read_ports(service)
    return Workload(
        service=ServiceKey(service.get("namespace", DEFAULT_NAMESPACE), service["name"]),
        address=service.get("address", default_address),
        ports=ports,
        labels=labels_of(service.get("labels", {})),
        service_account=service.get("serviceAccount", "default"),
        proxied=service["proxied"],
        check=_read_check(service.get("check", {})),
        active_check=read_active_check(service.get("activeCheck"), ports),
        port_modes=annotated_modes(service.get("annotations") or {}),
        user=service.get("user", ""),
    )


def _read_ports(service: dict[str, Any]) -> tuple[Port, ...]:
    plain_port = {key: service[key] for key in ("port", "protocol") if service.get(key) is not None}
    return tuple(_read_port(port) for port in service.get("ports") or [plain_port])


def _read_port(port: dict[str, Any]) -> Port:
    """Read a port: the protocol is declared, or the name's prefix says it, or it is TCP, and is the name by default."""
    name = port.get("name")
    declared = port.get("protocol")
    protocol = Protocol(declared.lower()) if declared else Protocol.from_name(name or "")
    return Port(port.get("port") or port["number"], name or protocol.value, protocol)


def _read_check(check: dict[str, Any]) -> Check:
    return Check(
        http_path=check.get("http"),
        interval_seconds=words.seconds(check.get("interval") or "5s"),
        timeout_seconds=words.seconds(check.get("timeout") or "2s"),
        port=check.get("port"),
    )
