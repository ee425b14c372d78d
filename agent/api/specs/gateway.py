"""Gateway (networking.istio.io): what its spec may hold, as Istio checks it."""

from __future__ import annotations

from typing import Any

from agent.api.checks import addresses, words
from agent.api.checks.addresses import HTTP_PROTOCOLS, TLS_PROTOCOLS
from agent.api.checks.gateway_tls import name_unenforceable
from agent.api.checks.schema import Check, Report, integer, like, listing, mapping, message, text
from agent.api.checks.server_tls import PASSING, SERVER_TLS, mode
from agent.api.yaml_text import child


def _host(text_value: str) -> str | None:
    if "/" in text_value:
        return addresses.scoped_host(text_value, namespaces=("*", "."), or_address=True)
    return addresses.qualified_host(text_value, or_address=True)


def _bind(value: str) -> str | None:
    return addresses.unix_socket(value) if addresses.is_unix(value) else words.address(value)


def _no_target_port(report: Report, path: str, value: Any) -> None:
    if value:
        report.invalid(path, "means nothing to a gateway (remove it)")


_PORT = message(
    {
        "number": integer(0, 65535),
        "name": text(),
        "protocol": text(addresses.protocol),
        "targetPort": like(integer(0, 0))(_no_target_port),
    },
    required=("name", "protocol"),
)


def _server(report: Report, path: str, server: dict[str, Any]) -> None:
    number, unix = server["port"].get("number") or 0, addresses.is_unix(server.get("bind") or "")
    place = child(child(path, "port"), "number")
    if not unix and not number:
        report.invalid(place, "is missing (1 to 65535)")
    if unix and number:
        report.invalid(place, "must be 0 for a Unix socket")
    protocol, tls = server["port"]["protocol"].lower(), server.get("tls")
    if protocol in TLS_PROTOCOLS:
        if tls is None:
            report.invalid(child(path, "tls"), f"is missing (a server for {protocol.upper()} must have TLS settings)")
    elif tls is not None:
        _plain(report, child(path, "tls"), protocol, tls)
    name_unenforceable(report, path, server)


def _plain(report: Report, path: str, protocol: str, tls: dict[str, Any]) -> None:
    """A plain text server has TLS settings for the redirect to HTTPS only."""
    files = [key for key in ("caCertificates", "privateKey", "serverCertificate") if tls.get(key)]
    if protocol not in HTTP_PROTOCOLS:
        report.invalid(path, f"does not go with the protocol {protocol.upper()} (only with HTTPS and TLS)")
    elif mode(tls) not in PASSING or files:
        report.invalid(path, f"does not go with {protocol.upper()}, which is plain text (only httpsRedirect does)")


def _servers(report: Report, path: str, value: Any) -> None:
    _SERVERS(report, path, value)
    names: set[Any] = set()
    for index, server in enumerate(value if isinstance(value, list) else ()):
        port = server.get("port") if isinstance(server, dict) else None
        name = port.get("name") if isinstance(port, dict) else None
        if isinstance(name, str) and name in names:
            report.invalid(f"{path}[{index}].port.name", f'"{name}" is given twice (each port has its own name)')
        names.add(name if isinstance(name, str) else None)


_SERVERS = listing(
    message(
        {
            "port": _PORT,
            "bind": text(_bind, empty=True),
            "hosts": listing(text(_host), at_least=1),
            "tls": SERVER_TLS,
            "defaultEndpoint": text(empty=True),
            "name": text(empty=True),
        },
        required=("port", "hosts"),
        also=_server,
    ),
    at_least=1,
)

SPEC: Check = message(
    {"selector": mapping(text(empty=True)), "servers": like(_SERVERS)(_servers)},
    required=("servers",),
)


def name_problem(name: str) -> str | None:
    """Want a name without dots: VirtualServices say NAMESPACE/NAME, and older ones NAME.NAMESPACE."""
    return None if addresses.is_label(name) else f'"{name}" is not the name of a Gateway (no dots)'
