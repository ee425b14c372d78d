"""Conditions of both generations' matches to mesh types; pure, takes validated specs only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.mesh.routes import CLAIMS, MatchKind, NamedMatch, StringMatch

_AUTHORITY = ":authority"
"""The only name under which Envoy knows the Host header."""


def string_match(match: Mapping[str, Any] | str | None, ignore_case: bool = False) -> StringMatch | None:
    """Return the comparison that a StringMatch, or the plain text of an exact one, means; None for none at all."""
    if match is None:
        return None
    if isinstance(match, str):
        return StringMatch(MatchKind.EXACT, match, ignore_case)
    if match.get("regex") == "*":  # in withoutHeaders: any value
        return StringMatch(MatchKind.PRESENT)
    for kind in (MatchKind.EXACT, MatchKind.PREFIX, MatchKind.REGEX):
        value = match.get(kind.value)
        if value is not None:
            return StringMatch(kind, value, ignore_case and kind is not MatchKind.REGEX)
    return StringMatch(MatchKind.PRESENT)


def header_matches(matches: Mapping[str, Any] | None, invert: bool = False) -> Iterator[NamedMatch]:
    """Yield the comparison of each header, in order of name (so that equal rules lower to equal routes)."""
    for name, match in sorted((matches or {}).items(), key=lambda item: (item[0].lower(), item[0])):
        lowered = name if name.startswith(CLAIMS) else name.lower()
        yield NamedMatch(_AUTHORITY if lowered == "host" else lowered, _comparison(match), invert)


def query_matches(matches: Mapping[str, Any] | None) -> Iterator[NamedMatch]:
    """Yield the comparison of each query parameter, in order of name."""
    for name, match in sorted((matches or {}).items()):
        yield NamedMatch(name, _comparison(match))


def _comparison(match: Mapping[str, Any] | str) -> StringMatch:
    return string_match(match) or StringMatch(MatchKind.PRESENT)
