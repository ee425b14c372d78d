"""ServerTLSSettings (of a Gateway's servers and a Sidecar's ingress): what they may hold, as Istio checks it."""

from __future__ import annotations

from typing import Any

from agent.api.checks.schema import Check, Report, boolean, listing, message, one_of, text
from agent.api.yaml_text import child

_VERSIONS = ("TLS_AUTO", "TLSV1_0", "TLSV1_1", "TLSV1_2", "TLSV1_3")
_FILE = text(empty=True)
_CERTIFICATE = {"serverCertificate": _FILE, "privateKey": _FILE, "caCertificates": _FILE}
_SERVING = ("SIMPLE", "MUTUAL", "OPTIONAL_MUTUAL")
PASSING = ("PASSTHROUGH", "AUTO_PASSTHROUGH")
_CREDENTIALS = ("credentialName", "credentialNames")


def mode(tls: dict[str, Any]) -> str:
    """Return the mode in force."""
    return tls.get("mode") or "PASSTHROUGH"


def _whole(report: Report, path: str, tls: dict[str, Any]) -> None:
    if mode(tls) == "ISTIO_MUTUAL":
        for key in (*_CERTIFICATE, *_CREDENTIALS, "tlsCertificates"):
            if tls.get(key):
                report.invalid(child(path, key), "does not go with ISTIO_MUTUAL, whose certificates are the mesh's")
        return
    own = "serverCertificate" if tls.get("serverCertificate") and tls.get("privateKey") else None
    sources = [key for key in (own, *_CREDENTIALS, "tlsCertificates") if key and tls.get(key)]
    if len(sources) > 1:
        report.invalid(path, f"{' and '.join(sources)} exclude each other (one source of the certificate)")
    by_name = any(tls.get(key) for key in _CREDENTIALS)
    if mode(tls) in _SERVING and not by_name:
        _certificates(report, path, tls)
    if tls.get("caCrl") and mode(tls) in PASSING and tls.get("credentialName"):
        report.invalid(child(path, "caCrl"), "does not go with credentialName (the list is a part of the credential)")
    if tls.get("caCrl") and mode(tls) == "SIMPLE" and not by_name:
        report.invalid(child(path, "caCrl"), "does not go with SIMPLE, which checks no client certificate")


def _certificates(report: Report, path: str, tls: dict[str, Any]) -> None:
    """Want certificates in files: SIMPLE the server's own, the mutual modes the clients' authority too."""
    listed = tls.get("tlsCertificates")
    places = [(f"{child(path, 'tlsCertificates')}[{i}]", one) for i, one in enumerate(listed or ())] or [(path, tls)]
    for place, certificate in places:
        for key, what in (("serverCertificate", "the server certificate"), ("privateKey", "its private key")):
            if not certificate.get(key):
                report.invalid(child(place, key), f"is missing ({mode(tls)} needs {what}, or credentialName)")
    if mode(tls) != "SIMPLE" and not tls.get("caCertificates"):
        report.invalid(child(path, "caCertificates"), f"is missing ({mode(tls)} needs the client CA bundle)")


SERVER_TLS: Check = message(
    {
        **_CERTIFICATE,
        "httpsRedirect": boolean,
        "mode": one_of(*PASSING, *_SERVING, "ISTIO_MUTUAL"),
        "caCrl": _FILE,
        "subjectAltNames": listing(text()),
        "credentialName": text(empty=True),
        "credentialNames": listing(text()),
        "caCertCredentialName": text(empty=True),
        "tlsCertificates": listing(message(_CERTIFICATE)),
        "verifyCertificateSpki": listing(text()),
        "verifyCertificateHash": listing(text()),
        "minProtocolVersion": one_of(*_VERSIONS),
        "maxProtocolVersion": one_of(*_VERSIONS),
        "cipherSuites": listing(text(empty=True)),
    },
    also=_whole,
)
