"""The `tls` of a trafficPolicy (networking.istio.io): how a client secures connections, by Istio's own validation."""

from __future__ import annotations

from typing import Any

from agent.api.checks import words
from agent.api.checks.schema import Check, Report, boolean, listing, message, one_of, text
from agent.api.yaml_text import child

_FILE = text(words.one_line_value, empty=True)
_OWN = ("clientCertificate", "privateKey")
_FILES = (*_OWN, "caCertificates", "caCrl")
_IDLE = {
    "DISABLE": (*_FILES, "credentialName", "subjectAltNames", "sni", "insecureSkipVerify"),
    "SIMPLE": _OWN,
    "MUTUAL": (),
    "ISTIO_MUTUAL": (*_FILES, "credentialName", "insecureSkipVerify"),
}
"""Mode → fields that do nothing with it, in Istio too, which does not say so."""


def _whole(report: Report, path: str, tls: dict[str, Any]) -> None:
    mode = tls.get("mode") or "DISABLE"
    before = report.invalid_count
    _contradictions(report, path, tls, mode)
    if report.invalid_count > before:
        return
    for key in _IDLE[mode]:
        if tls.get(key):
            report.unsupported(child(path, key), f"means nothing with mode {mode} (remove it, or choose another mode)")
    for key in _FILES:
        if tls.get(key) and key not in _IDLE[mode] and not tls[key].startswith("/"):
            report.unsupported(child(path, key), "is not the whole path of a file on the calling host (begins with /)")


def _contradictions(report: Report, path: str, tls: dict[str, Any], mode: str) -> None:
    if tls.get("insecureSkipVerify"):
        verifying = ["caCertificates", "subjectAltNames"] + (["credentialName"] if mode == "SIMPLE" else [])
        for key in verifying if mode in ("SIMPLE", "MUTUAL") else ():
            if tls.get(key):
                report.invalid(child(path, key), "does not go with insecureSkipVerify: true")
    if mode in ("SIMPLE", "MUTUAL") and tls.get("credentialName"):
        for key in _FILES:
            if tls.get(key):
                report.invalid(child(path, key), "does not go with credentialName")
    elif mode == "MUTUAL":
        for key in _OWN:
            if not tls.get(key):
                report.invalid(child(path, key), "is missing (mode MUTUAL needs it)")


CLIENT_TLS: Check = message(
    {
        "mode": one_of("DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"),
        **dict.fromkeys(_FILES, _FILE),
        "credentialName": text(empty=True),
        "subjectAltNames": listing(text(words.one_line_value), at_most=100),
        "sni": text(words.one_line_value, empty=True),
        "insecureSkipVerify": boolean,
    },
    also=_whole,
)
