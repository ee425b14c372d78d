"""What of a Gateway's server cannot be honoured, named with the reason; the server is left out then, the others serve.

Beside what Envoy has no way to do: fields that would do nothing in their mode, and what it would refuse the listener
for, which would take the other servers of the port with it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from typing import Any

from agent.api.checks.addresses import TLS_PROTOCOLS
from agent.api.checks.schema import Report
from agent.api.checks.server_tls import PASSING, mode
from agent.api.yaml_text import child

SERVED = ("http", "http2", "grpc", "grpc-web", "https", "tls", "tcp", "mongo", "mysql", "redis")
ASKING = ("MUTUAL", "OPTIONAL_MUTUAL")
"""Modes that look at a client's certificate."""
FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}", re.ASCII)
"""What a folder of a gateway's secrets can be called."""
CIPHERS = frozenset(
    {
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-RSA-CHACHA20-POLY1305",
        "ECDHE-ECDSA-AES128-SHA",
        "ECDHE-RSA-AES128-SHA",
        "ECDHE-ECDSA-AES256-SHA",
        "ECDHE-RSA-AES256-SHA",
        "AES128-GCM-SHA256",
        "AES256-GCM-SHA384",
        "AES128-SHA",
        "AES256-SHA",
    }
)
"""Those of TLS 1.2 that Envoy's BoringSSL has; TLS 1.3's are all on and cannot be chosen."""
MAX_SOCKET_PATH = 107
"""The kernel's limit (sun_path), less the zero at the end."""
_HASH = re.compile(r"[0-9A-Fa-f]{64}|[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){31}")
_FILES = ("serverCertificate", "privateKey", "caCertificates", "caCrl")
_CLIENTS = (
    "subjectAltNames",
    "caCertificates",
    "caCrl",
    "caCertCredentialName",
    "verifyCertificateSpki",
    "verifyCertificateHash",
)
"""What says which clients' certificates are believed."""
_TERMS = ("cipherSuites", "minProtocolVersion", "maxProtocolVersion")
"""How TLS is spoken."""
_OWN = (*_FILES, "credentialName", "credentialNames", "caCertCredentialName", "tlsCertificates")


def name_unenforceable(report: Report, path: str, server: dict[str, Any]) -> None:
    """Name what gateways of this mesh cannot do of a server."""
    protocol, tls = server["port"]["protocol"].lower(), server.get("tls") or {}
    if protocol not in SERVED:
        reason = f"{protocol.upper()}: known, but not supported yet by gateways (allowed: {', '.join(SERVED)})"
        report.unsupported(child(path, "port.protocol"), reason)
    if len((server.get("bind") or "").removeprefix("unix://")) > MAX_SOCKET_PATH:
        report.unsupported(child(path, "bind"), f"is longer than a Unix socket's path can be ({MAX_SOCKET_PATH} bytes)")
    if server.get("defaultEndpoint"):
        reason = "is ignored by Istio's gateways too (bind a VirtualService to this Gateway)"
        report.unsupported(child(path, "defaultEndpoint"), reason)
    if protocol in TLS_PROTOCOLS:
        _tls(report, child(path, "tls"), tls)
    else:
        _name_idle(report, child(path, "tls"), tls, (*_OWN, *_CLIENTS, *_TERMS), "on a server that speaks plain text")


def _tls(report: Report, path: str, tls: dict[str, Any]) -> None:
    chosen = mode(tls)
    if chosen in PASSING:
        _name_idle(report, path, tls, (*_OWN, *_CLIENTS, *_TERMS), f"with {chosen}, which does not end TLS")
        return
    if chosen == "SIMPLE":
        _name_idle(report, path, tls, _CLIENTS, "with SIMPLE, which asks clients for no certificate (MUTUAL does)")
    if chosen == "ISTIO_MUTUAL":
        authorities = ("caCertCredentialName", "caCrl")
        _name_idle(report, path, tls, authorities, "with ISTIO_MUTUAL, whose authorities are the mesh's")
    if chosen == "OPTIONAL_MUTUAL":
        for key in ("subjectAltNames", "verifyCertificateSpki", "verifyCertificateHash"):
            if tls.get(key):
                reason = (
                    "with OPTIONAL_MUTUAL Envoy would refuse clients without a certificate (write MUTUAL, or remove it)"
                )
                report.unsupported(child(path, key), reason)
    _sources(report, path, tls)
    _pins(report, path, tls)
    for index, name in enumerate(tls.get("cipherSuites") or ()):
        if name and name not in CIPHERS:
            reason = f'"{name}" is no cipher suite of Envoy\'s for TLS 1.2 (allowed: {", ".join(sorted(CIPHERS))})'
            report.unsupported(f"{child(path, 'cipherSuites')}[{index}]", reason)


def _name_idle(report: Report, path: str, tls: dict[str, Any], keys: Iterable[str], where: str) -> None:
    """Name the fields that would do nothing; a version left to Envoy says nothing either."""
    for key in dict.fromkeys(keys):
        if tls.get(key) and tls[key] != "TLS_AUTO":
            report.unsupported(child(path, key), f"means nothing {where} (remove it)")


def _sources(report: Report, path: str, tls: dict[str, Any]) -> None:
    """Want folders of secrets by their names, and files by whole paths."""
    names = [("credentialName", tls.get("credentialName")), ("caCertCredentialName", tls.get("caCertCredentialName"))]
    names += [(f"credentialNames[{index}]", name) for index, name in enumerate(tls.get("credentialNames") or ())]
    for key, name in names:
        if name and not FOLDER.fullmatch(name):
            reason = "is not the name of a folder of secrets (letters, digits, '-', '_' and '.')"
            report.unsupported(child(path, key), reason)
    files = [(key, tls.get(key)) for key in _FILES]
    for index, listed in enumerate(tls.get("tlsCertificates") or ()):
        files += [(f"tlsCertificates[{index}].{key}", listed.get(key)) for key in ("serverCertificate", "privateKey")]
        if listed.get("caCertificates"):
            place = child(path, f"tlsCertificates[{index}].caCertificates")
            report.unsupported(place, "authorities of clients are the server's (write tls.caCertificates)")
    for key, name in files:
        if name and (not name.startswith("/") or "~" in name or not name.isprintable()):
            report.unsupported(child(path, key), "is not the whole path of a file on the gateway host (begins with /)")
    for key in ("serverCertificate", "privateKey"):
        if tls.get(key) and any(tls.get(source) for source in ("credentialName", "credentialNames", "tlsCertificates")):
            report.unsupported(child(path, key), "means nothing beside another source of the certificate (remove it)")
    if tls.get("caCrl") and not tls.get("caCertificates") and mode(tls) in ASKING:
        reason = (
            "goes with caCertificates; beside a secret it is the file ca.crl of that (hostmesh secret install --crl)"
        )
        report.unsupported(child(path, "caCrl"), reason)
    if tls.get("caCertificates") and tls.get("caCertCredentialName"):
        report.unsupported(child(path, "caCertCredentialName"), "does not go with caCertificates (give one of them)")


def _pins(report: Report, path: str, tls: dict[str, Any]) -> None:
    for index, pin in enumerate(tls.get("verifyCertificateSpki") or ()):
        if not _is_spki(pin):
            reason = "is not the SHA-256 of a public key in Base64 (44 characters)"
            report.unsupported(f"{child(path, 'verifyCertificateSpki')}[{index}]", reason)
    for index, pin in enumerate(tls.get("verifyCertificateHash") or ()):
        if not _HASH.fullmatch(pin):
            reason = "is not the SHA-256 of a certificate (64 hexadecimal digits, with or without colons)"
            report.unsupported(f"{child(path, 'verifyCertificateHash')}[{index}]", reason)


def _is_spki(text: str) -> bool:
    try:
        return len(text) == 44 and len(base64.b64decode(text, validate=True)) == 32
    except (binascii.Error, ValueError):
        return False
