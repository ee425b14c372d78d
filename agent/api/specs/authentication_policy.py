"""Policy and MeshPolicy (authentication.istio.io): what their specs may hold, as Istio 0.8 checked it."""

from __future__ import annotations

from typing import Any

from agent.api.checks import addresses
from agent.api.checks.schema import Check, Report, boolean, integer, listing, message, one_of, text
from agent.api.envelope import Document
from agent.api.problem import one_line
from agent.api.specs.request_authentication import key_set_uri

_DEFAULT = "default"
_NAMES = listing(text())
_JWT = message(
    {
        "issuer": text(),
        "audiences": _NAMES,
        "jwksUri": text(key_set_uri, empty=True),
        "jwks": text(empty=True),
        "jwtHeaders": _NAMES,
        "jwtParams": _NAMES,
    },
    required=("issuer",),
)
_PORT = message({"number": integer(1, 65535), "name": text(addresses.port_name)})
_TARGET = message({"name": text(addresses.label), "ports": listing(_PORT)}, required=("name",))
_MTLS = message({"allowTls": boolean, "mode": one_of("STRICT", "PERMISSIVE")})


def _issuers(report: Report, path: str, spec: dict[str, Any]) -> None:
    seen: set[str] = set()
    for field in ("peers", "origins"):
        for index, method in enumerate(spec.get(field) or ()):
            issuer = (method.get("jwt") or {}).get("issuer")
            if issuer in seen:
                reason = f'"{one_line(issuer, 70)}" is given twice (each issuer once)'
                report.invalid(f"{path}.{field}[{index}].jwt.issuer", reason)
            elif issuer:
                seen.add(issuer)


SPEC: Check = message(
    {
        "targets": listing(_TARGET),
        "peers": listing(message({"mtls": _MTLS, "jwt": _JWT})),
        "peerIsOptional": boolean,
        "origins": listing(message({"jwt": _JWT}, required=("jwt",))),
        "originIsOptional": boolean,
        "principalBinding": one_of("USE_PEER", "USE_ORIGIN"),
    },
    also=_issuers,
)


def check_name(report: Report, document: Document) -> None:
    """A policy without targets is its namespace's (or the mesh's) one, and is named so."""
    targets = document.spec.get("targets")
    if document.kind == "MeshPolicy" and targets:
        report.invalid("spec.targets", "do not go with a MeshPolicy, which is for every service")
    if not targets and document.name != _DEFAULT:
        report.invalid("metadata.name", f'must be "{_DEFAULT}" for a policy without targets')
    if targets and document.name == _DEFAULT and document.kind == "Policy":
        report.invalid("metadata.name", f'"{_DEFAULT}" is the name of a policy without targets')
