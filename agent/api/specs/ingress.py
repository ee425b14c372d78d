"""Ingress (networking.k8s.io/v1, and the older extensions/v1beta1 of Istio's own ingress task): what its spec may hold.

Istio's ingress controller took any Ingress without a class, and those of the class `istio`; so does this one.
"""

from __future__ import annotations

import re
from typing import Any

from agent.api.checks import words
from agent.api.checks.gateway_tls import FOLDER
from agent.api.checks.schema import Check, Report, either, integer, listing, message, one_of, text
from agent.api.envelope import Document
from agent.api.yaml_text import child

CLASS = "istio"
_CLASS_ANNOTATION = "kubernetes.io/ingress.class"
_REGEX = re.compile(r"[*+?()\[\]{}|\\^$]")
_SPECIAL_ENDS = (".*", "*")


def check_class(report: Report, document: Document) -> None:
    """Tell other controllers' objects, and annotations that ask a controller for more, by name."""
    named = document.annotations.get(_CLASS_ANNOTATION, CLASS)
    if named != CLASS:
        reason = f'{_CLASS_ANNOTATION}: "{named}" is for another controller (this one takes {CLASS}, or no class)'
        report.unsupported("metadata.annotations", reason)
    for name in document.annotations:
        if ".kubernetes.io/" in f".{name}" and "ingress" in name and name != _CLASS_ANNOTATION:
            reason = "is for another controller (write a Gateway, a VirtualService or a RouteRule)"
            report.unsupported(f"metadata.annotations.{name}", reason)


def _class_name(report: Report, path: str, value: Any) -> None:
    text(words.subdomain)(report, path, value)
    if isinstance(value, str) and value != CLASS:
        report.unsupported(path, f'"{value}" is another controller (this one takes {CLASS}, or no class)')


def _host(value: str) -> str | None:
    if words.is_address(value):
        return f'"{value}" is an address (an Ingress wants a host name)'
    whole = not value.startswith("*") or value.startswith("*.")
    return words.wildcard_host(value) if whole else f'"{value}": a wildcard must be the whole first label'


def _path(value: str) -> str | None:
    if not value.startswith("/"):
        return f'"{value}" is not a path (it begins with "/")'
    return words.one_line_value(value)


def _resource(report: Report, path: str, value: Any) -> None:
    """Take what `_of_resource` names."""


def _of_resource(report: Report, path: str, backend: dict[str, Any]) -> None:
    """Name a backend that is no service, at the place that means nothing without it."""
    if "resource" in backend:
        report.unsupported(path, "backend.resource: there are no such resources here (name a service)")


def _backend(report: Report, path: str, backend: dict[str, Any]) -> None:
    if "resource" in backend:
        return
    if ("service" in backend) == ("serviceName" in backend):
        report.invalid(path, "needs one service (service: {name: …, port: …}, or serviceName and servicePort)")
    elif "serviceName" in backend and "servicePort" not in backend:
        report.invalid(child(path, "servicePort"), "is missing (a number or a name)")
    elif "service" in backend and "servicePort" in backend:
        report.invalid(child(path, "servicePort"), "does not go with service (write service.port)")


def _one_port(report: Report, path: str, port: dict[str, Any]) -> None:
    if ("number" in port) == ("name" in port):
        report.invalid(path, "needs a number or a name, and one of them only")


def _http_path(report: Report, path: str, given: dict[str, Any]) -> None:
    kind, value = given.get("pathType") or "ImplementationSpecific", given.get("path") or ""
    if not value and kind != "ImplementationSpecific":
        report.invalid(child(path, "path"), f"is missing (pathType {kind} needs one)")
    plain = next((value.removesuffix(end) for end in _SPECIAL_ENDS if value.endswith(end)), value)
    if kind == "ImplementationSpecific" and _REGEX.search(plain):
        reason = (
            f'path: "{value}" is a regular expression: Istio\'s paths are exact, or end in ".*" (use a VirtualService)'
        )
        report.unsupported(path, reason)
    _of_resource(report, path, given["backend"])


def _tls(report: Report, path: str, tls: dict[str, Any]) -> None:
    name = tls.get("secretName")
    if not name:
        report.unsupported(path, "secretName is missing: there is no default certificate (name a secret)")
    elif not FOLDER.fullmatch(name):
        reason = "secretName is not the name of a folder of secrets (letters, digits, '-', '_' and '.')"
        report.unsupported(path, reason)


def _whole(report: Report, path: str, spec: dict[str, Any]) -> None:
    if "backend" in spec and "defaultBackend" in spec:
        report.invalid(child(path, "backend"), "does not go with defaultBackend, which is its newer name")
    if not (spec.get("rules") or spec.get("backend") or spec.get("defaultBackend")):
        report.invalid(path, "routes nothing (give rules, or a defaultBackend)")
    for key in ("backend", "defaultBackend"):
        _of_resource(report, child(path, key), spec.get(key) or {})


_SERVICE_NAME = text(words.dns_label)
_PORT_NAME = text(words.dns_label)
_NUMBER = integer(1, 65535)
_BACKEND: Check = message(
    {
        "service": message(
            {
                "name": _SERVICE_NAME,
                "port": message({"number": _NUMBER, "name": _PORT_NAME}, also=_one_port),
            },
            required=("name", "port"),
        ),
        "serviceName": _SERVICE_NAME,
        "servicePort": either("a number or a name", number=_NUMBER, text=_PORT_NAME),
        "resource": _resource,
    },
    also=_backend,
)
_RULE = message(
    {
        "host": text(_host, empty=True),
        "http": message(
            {
                "paths": listing(
                    message(
                        {
                            "path": text(_path, empty=True),
                            "pathType": one_of("Exact", "Prefix", "ImplementationSpecific"),
                            "backend": _BACKEND,
                        },
                        required=("backend",),
                        also=_http_path,
                    ),
                    at_least=1,
                )
            },
            required=("paths",),
        ),
    }
)
SPEC: Check = message(
    {
        "ingressClassName": _class_name,
        "defaultBackend": _BACKEND,
        "backend": _BACKEND,
        "tls": listing(message({"hosts": listing(text(_host)), "secretName": text(empty=True)}, also=_tls)),
        "rules": listing(_RULE),
    },
    also=_whole,
)
