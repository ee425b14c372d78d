"""Gateway objects and the VirtualServices bound to them to mesh types: pure, takes validated specs only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agent.api.checks.addresses import HTTP_PROTOCOLS, TLS_PROTOCOLS
from agent.api.checks.server_tls import mode
from agent.api.envelope import Document
from agent.mesh.gateway import FileCredential, Gateway, GatewayServer, ServerKind, ServerTls
from agent.mesh.routes import ObjectRef
from agent.mesh.service import labels_of

MESH = "mesh"
"""The gateway that stands for every host's own Envoy."""
_ASKS = {"MUTUAL": True, "OPTIONAL_MUTUAL": False}
"""Modes that look at clients' certificates → whether there must be one; ISTIO_MUTUAL always does, by the mesh's."""


def lower_gateway(document: Document) -> Gateway:
    """Return a Gateway's servers."""
    selector = labels_of(document.spec.get("selector") or {})
    servers = tuple(_server(server, document.namespace) for server in document.spec["servers"])
    return Gateway(document.ref, selector, servers)


def bound_gateways(document: Document) -> tuple[ObjectRef, ...]:
    """Return the Gateway objects that a VirtualService is bound to, the mesh not among them."""
    names = _names(document.spec.get("gateways"))
    return tuple(dict.fromkeys(gateway_named(name, document.namespace) for name in names if name != MESH))


def is_for_mesh(document: Document) -> bool:
    """Tell whether a VirtualService is for the hosts' own Envoys too; one that names no gateway is."""
    names = _names(document.spec.get("gateways"))
    return not names or MESH in names


def matches_through(
    matches: Iterable[Mapping[str, Any]], namespace: str, gateway: ObjectRef | None
) -> list[Mapping[str, Any]]:
    """Return the matches that hold for requests through a gateway (None: within the mesh); most name none."""
    kept = []
    for match in matches:
        names = _names(match.get("gateways"))
        through = [None if name == MESH else gateway_named(name, namespace) for name in names]
        if not names or gateway in through:
            kept.append(match)
    return kept


def _names(gateways: Iterable[str] | None) -> list[str]:
    return [name for name in gateways or () if name]


def gateway_named(name: str, namespace: str) -> ObjectRef:
    """Return the Gateway that NAME, NAMESPACE/NAME or the old NAME.NAMESPACE.svc.cluster.local means."""
    before, slash, after = name.partition("/")
    if slash:
        return ObjectRef("Gateway", before, after)
    short, dot, rest = name.partition(".")
    return ObjectRef("Gateway", rest.split(".")[0] if dot else namespace, short)


def _server(server: Mapping[str, Any], namespace: str) -> GatewayServer:
    port, tls = server["port"], server.get("tls") or {}
    kind = _kind(port["protocol"].lower(), tls)
    return GatewayServer(
        name=port["name"],
        port=port.get("number") or 0,
        hosts=tuple(_host(host, namespace) for host in server["hosts"]),
        bind=server.get("bind") or "",
        kind=kind,
        tls=_tls(tls) if kind in (ServerKind.HTTPS, ServerKind.TLS) else None,
        https_redirect=tls.get("httpsRedirect") or False,
    )


def _kind(protocol: str, tls: Mapping[str, Any]) -> ServerKind:
    if protocol in TLS_PROTOCOLS:
        passing = {"PASSTHROUGH": ServerKind.PASSTHROUGH, "AUTO_PASSTHROUGH": ServerKind.SERVICES}
        return passing.get(mode(dict(tls))) or (ServerKind.HTTPS if protocol == "https" else ServerKind.TLS)
    return ServerKind.HTTP if protocol in HTTP_PROTOCOLS else ServerKind.TCP


def _host(text: str, namespace: str) -> tuple[str, str]:
    """Return whose routes a host is for, and the host; `./` is the Gateway's own namespace."""
    before, slash, after = text.rpartition("/")
    return (before if before != "." else namespace) if slash else "*", after.lower().rstrip(".")


def _tls(tls: Mapping[str, Any]) -> ServerTls:
    pairs, authorities = _pairs(tls), _authorities(tls)
    given = [credential for credential in (*pairs, authorities) if isinstance(credential, FileCredential)]
    return ServerTls(
        certificates=tuple(_credential_name(pair) for pair in pairs),
        client_certificate=_ASKS.get(tls.get("mode") or ""),
        authorities=_credential_name(authorities) if tls.get("mode") in _ASKS else "",
        subject_alt_names=tuple(tls.get("subjectAltNames") or ()),
        key_pins=tuple(tls.get("verifyCertificateSpki") or ()),
        certificate_pins=tuple(tls.get("verifyCertificateHash") or ()),
        ciphers=tuple(name for name in tls.get("cipherSuites") or () if name),
        files=tuple(given),
        min_version=tls.get("minProtocolVersion") or "",
        max_version=tls.get("maxProtocolVersion") or "",
    )


def _pairs(tls: Mapping[str, Any]) -> list[str | FileCredential]:
    """Return where a server's keys and certificates are: names of folders, or files."""
    if tls.get("mode") == "ISTIO_MUTUAL":
        return []
    names = tls.get("credentialNames") or ([tls["credentialName"]] if tls.get("credentialName") else [])
    listed = tls.get("tlsCertificates") or ([tls] if tls.get("serverCertificate") and tls.get("privateKey") else [])
    return [*names, *(FileCredential(each["serverCertificate"], each["privateKey"]) for each in listed)]


def _authorities(tls: Mapping[str, Any]) -> str | FileCredential:
    """Return where the authorities of clients are: named apart, else with the server's first certificate."""
    if tls.get("caCertificates"):
        return FileCredential(authorities=tls["caCertificates"], crl=tls.get("caCrl") or "")
    if tls.get("caCertCredentialName"):
        return str(tls["caCertCredentialName"])
    return str(tls.get("credentialName") or next(iter(tls.get("credentialNames") or ()), ""))


def _credential_name(credential: str | FileCredential) -> str:
    return credential if isinstance(credential, str) else credential.name
