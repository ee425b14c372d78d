"""RequestAuthentication (security.istio.io): what its spec may hold, as Istio checks it."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import urlsplit

from agent.api.checks.durations import duration
from agent.api.checks.schema import Check, Report, boolean, listing, message, one_of, text
from agent.api.checks.scope import TARGETS, one_target
from agent.api.checks.words import header_name, one_line_value
from agent.api.problem import one_line
from agent.api.yaml_text import child

_ASKABLE = re.compile(r"(?i:https?)://([!-.0-?A-~]*@)?([A-Za-z0-9.-]+|\[[0-9a-fA-F:.]+\])(:\d+)?([/?#][!-~]*)?")
_STRICT_HEADER = re.compile(r"[-_A-Za-z0-9]+")


def key_set_uri(value: str) -> str | None:
    """Want where a key set can be fetched from."""
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        port, parts = None, urlsplit("")
    if parts.scheme in ("http", "https") and parts.hostname and port != 0 and value.isascii() and value.isprintable():
        return None
    return f'"{one_line(value, 70)}" is no address of a key set (http:// or https://)'


def _key_set(value: str) -> str | None:
    try:
        plain = json.loads(value)
    except (ValueError, RecursionError):
        plain = None
    keys = plain.get("keys", [plain]) if isinstance(plain, dict) else None
    if isinstance(keys, list) and all(isinstance(key, dict) and isinstance(key.get("kty"), str) for key in keys):
        return None
    return 'is no JSON Web Key Set ({"keys": [{"kty": …}, …]})'


def _strict_header(name: str) -> str | None:
    if _STRICT_HEADER.fullmatch(name):
        return None
    return f'"{one_line(name, 70)}" is not a header name (letters, digits, "-" and "_")'


def _rule(report: Report, path: str, rule: dict[str, Any]) -> None:
    if not rule.get("issuer") and not rule.get("jwksUri"):
        report.invalid(child(path, "issuer"), "is missing (issuer, or jwksUri)")
    elif not rule.get("jwks") and not rule.get("jwksUri"):
        reason = "no key set is looked for at the issuer: say jwksUri (its OpenID configuration names it), or jwks"
        report.unsupported(child(path, "issuer"), reason)
    if rule.get("jwksUri") and not rule.get("jwks") and not _ASKABLE.fullmatch(rule["jwksUri"]):
        reason = "Envoy cannot ask such a host or path (letters, digits, dots and dashes; no spaces)"
        report.unsupported(child(path, "jwksUri"), reason)


_NAMES = listing(text())
_CLAIM_TO_HEADER = message({"header": text(_strict_header), "claim": text()}, required=("header", "claim"))
_TOKEN_HEADER = message(
    {"name": text(header_name), "prefix": text(one_line_value, empty=True)},
    required=("name",),
)
_JWT_RULE = message(
    {
        "issuer": text(empty=True),
        "audiences": _NAMES,
        "jwksUri": text(key_set_uri, empty=True),
        "jwks": text(_key_set, empty=True),
        "fromHeaders": listing(
            message({"name": text(header_name), "prefix": text(one_line_value, empty=True)}, required=("name",))
        ),
        "fromParams": _NAMES,
        "fromCookies": _NAMES,
        "outputPayloadToHeader": text(header_name, empty=True),
        "outputClaimToHeaders": listing(_CLAIM_TO_HEADER),
        "forwardOriginalToken": boolean,
        "timeout": text(duration),
        "spaceDelimitedClaims": _NAMES,
        "presence": one_of("OPTIONAL", "REQUIRED"),
    },
    also=_rule,
)

SPEC: Check = message({**TARGETS, "jwtRules": listing(_JWT_RULE)}, also=one_target)
