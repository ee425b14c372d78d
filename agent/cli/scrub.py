"""Takes secrets out of text that leaves the host: those that are known by value, and whatever looks like one. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

REMOVED = "[removed]"
MIN_LENGTH = 6
"""Of a secret known by value: a shorter one would take ordinary words with it."""

_UUID = r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"
_PATTERNS = (
    # A key's block, also where a JSON text has it in one line.
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), REMOVED),
    (re.compile(r"\bhmt1\.[0-9a-f]{12}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)?"), REMOVED),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"), REMOVED),
    (re.compile(r"(?i)\b(authorization\W{1,4}(?:bearer |basic |hostmesh-ticket )?)[^\s\"',]+"), rf"\1{REMOVED}"),
    (re.compile(r"(://[^\s/:@]+:)[^\s/@]+(?=@)"), rf"\1{REMOVED}"),
    (re.compile(rf"(?i)(token[A-Za-z_-]*\W{{1,6}}){_UUID}"), rf"\1{REMOVED}"),
    (
        re.compile(
            r"(?i)((?:\b|_)(?:password|passwd|passphrase|secret|secret_?id|api_?key|private_?key|client_?secret|"
            r"encrypt|http_token|[a-z]+_token)[\"']?\s*[:=]\s*[\"']?)(?![{\[]|true\b|false\b|null\b)[^\s\"',}]+"
        ),
        rf"\1{REMOVED}",
    ),
)


def scrub(text: str, known: Iterable[str] = ()) -> str:
    """Return the text without secrets; `known` are the values of those that this host has."""
    for secret in sorted({word for word in known if len(word) >= MIN_LENGTH}, key=len, reverse=True):
        text = text.replace(secret, REMOVED)
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    return text
