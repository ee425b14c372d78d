"""What two matches mean together. Pure.

A route has one comparison of each of path, method, scheme and authority. Where both matches have one and neither
contains the other, the second becomes a comparison of the pseudo header, which Envoy can look at too.
"""

from __future__ import annotations

import re

from msgspec import structs

from agent.mesh.routes import HttpMatch, MatchKind, NamedMatch, StringMatch

_PATH = ":path"
_QUERY = r"(\?.*)?"
_FIELDS = (("uri", _PATH), ("method", ":method"), ("scheme", ":scheme"), ("authority", ":authority"))


def conjunction(one: HttpMatch, other: HttpMatch) -> HttpMatch | None:
    """Return the match of the requests that both match; None: there are none. Only one of them may name a source."""
    if (None not in (one.port, other.port) and one.port != other.port) or one.is_layer4 or other.is_layer4:
        return None
    fields: dict[str, StringMatch | None] = {}
    headers: list[NamedMatch] = []
    for name, header in _FIELDS:
        first, second = getattr(one, name), getattr(other, name)
        if first is None or second is None:
            fields[name] = first or second
        elif _is_wider(first, second):
            fields[name] = second
        elif _is_wider(second, first):
            fields[name] = first
        elif MatchKind.REGEX not in (first.kind, second.kind) and not (first.ignore_case or second.ignore_case):
            return None
        else:
            # Of a regex and something else the regex stays: it cannot be compared with a path that has a query.
            kept, moved = (second, first) if second.kind is MatchKind.REGEX else (first, second)
            fields[name] = kept
            headers.append(_as_header(header, moved))
    return structs.replace(
        one,
        **fields,
        headers=(*one.headers, *other.headers, *headers),
        query=(*one.query, *other.query),
        port=one.port if one.port is not None else other.port,
        source=one.source or other.source,
    )


def _is_wider(wide: StringMatch, narrow: StringMatch) -> bool:
    """Tell whether everything that `narrow` matches is seen to be matched by `wide`."""
    if wide.kind is MatchKind.PRESENT or wide == narrow:
        return True
    if narrow.kind not in (MatchKind.EXACT, MatchKind.PREFIX) or (narrow.ignore_case and not wide.ignore_case):
        return False
    fold = str.lower if wide.ignore_case else str
    if wide.kind is MatchKind.PREFIX:
        return fold(narrow.value).startswith(fold(wide.value))
    return wide.kind is MatchKind.EXACT and narrow.kind is MatchKind.EXACT and fold(narrow.value) == fold(wide.value)


def _as_header(name: str, match: StringMatch) -> NamedMatch:
    """Return the comparison as one of a pseudo header; a path there has its query."""
    if name != _PATH or match.kind is MatchKind.PREFIX:
        return NamedMatch(name, match)
    if match.kind is MatchKind.EXACT:
        return NamedMatch(name, StringMatch(MatchKind.REGEX, re.escape(match.value) + _QUERY, match.ignore_case))
    return NamedMatch(name, StringMatch(MatchKind.REGEX, f"(?:{match.value}){_QUERY}", match.ignore_case))
