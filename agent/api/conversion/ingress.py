"""One Ingress or IngressRule to a Gateway and a VirtualService for each of its hosts. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any

from agent.api.conversion.rule import Notes, service_host
from agent.api.envelope import Document
from agent.api.lowering.ingress import ANY_HOST, Front, Way, fronts, ways
from agent.mesh.gateway import INGRESS_LABELS
from agent.mesh.routes import HttpMatch, StringMatch

_FIELDS = ("uri", "method", "scheme", "authority")


def convert_ingress(document: Document, ruled: Collection[str]) -> tuple[list[tuple[str, str, dict[str, Any]]], Notes]:
    """Return (kind, name, spec) of each new object, and what changes meaning; `ruled` hosts have RouteRules."""
    name, found = object_name(document.name), ways(document)
    notes: Notes = []
    made = [("Gateway", name, {"selector": dict(INGRESS_LABELS), "servers": _servers(fronts(document), notes)})]
    for host in dict.fromkeys(way.host for way in found):
        mine = sorted((way for way in found if way.host == host), key=lambda way: way.order)
        routes = [_route(way, document.namespace, notes) for way in mine]
        own = name if host == ANY_HOST else object_name(f"{name}-{host}")
        made.append(("VirtualService", own, {"hosts": [host], "gateways": [name], "http": routes}))
    for host in sorted({service_host(way.service, document.namespace) for way in found}.intersection(ruled)):
        reason = (
            f"RouteRules of {host} held for requests from the edge, too; a VirtualService at a gateway stands alone:"
            " repeat in it what they say"
        )
        notes.append(("spec", reason))
    return made, notes


def object_name(text: str) -> str:
    """Return a name that a Gateway can have."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower().replace("*", "any")).strip("-") or "converted"


def _servers(wanted: Iterable[Front], notes: Notes) -> list[dict[str, Any]]:
    """Return a server for each port and secret."""
    servers: dict[tuple[int, str], list[str]] = {}
    for front in wanted:
        servers.setdefault((front.port, front.secret), []).append(front.host)
        if "." not in front.host and front.host != ANY_HOST:
            notes.append(("spec", f'a Gateway has no host without a dot in it: write the full name of "{front.host}"'))
    found = []
    for number, ((port, secret), hosts) in enumerate(servers.items()):
        protocol = "HTTPS" if secret else "HTTP"
        name = protocol.lower() if number == 0 else f"{protocol.lower()}-{number}"
        server: dict[str, Any] = {"port": {"number": port, "name": name, "protocol": protocol}, "hosts": hosts}
        if secret:
            server["tls"] = {"mode": "SIMPLE", "credentialName": secret}
        found.append(server)
    return found


def _route(way: Way, namespace: str, notes: Notes) -> dict[str, Any]:
    destination: dict[str, Any] = {"host": service_host(way.service, namespace)}
    if isinstance(way.port, str):
        reason = f'the port\'s name "{way.port}" is left out: a VirtualService wants its number (port.number)'
        notes.append((way.path, reason))
    elif way.port:
        destination["port"] = {"number": way.port}
    matches = [plain for match in way.matches if (plain := _match(match))]
    return {**({"match": matches} if matches else {}), "route": [{"destination": destination}]}


def _match(match: HttpMatch) -> dict[str, Any]:
    found: dict[str, Any] = {name: _plain(value) for name in _FIELDS if (value := getattr(match, name)) is not None}
    if match.headers:
        found["headers"] = {header.name: _plain(header.match) for header in match.headers}
    if match.port is not None:
        found["port"] = match.port
    return found


def _plain(match: StringMatch) -> dict[str, str]:
    return {match.kind.value: match.value}
