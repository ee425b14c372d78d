"""Tells whether one match takes every request of another one, so that a later rule cannot be reached. Pure.

Errs on the safe side: what is not seen to be covered is taken to be reachable.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network

from agent.api.checks.l4_routes import is_within
from agent.mesh.routes import ConnectionMatch, HttpMatch, MatchKind, NamedMatch, Route, SourceMatch, StringMatch


def route_covers(earlier: Route, match: HttpMatch | None) -> bool:
    """Tell whether an earlier route takes every request of a match (None: every request at all)."""
    if not earlier.matches:
        return True
    return match is not None and any(covers(one, match) for one in earlier.matches)


def covers(one: HttpMatch, other: HttpMatch) -> bool:
    """Tell whether every request that `other` matches is matched by `one`."""
    return (
        (_is_every_path(one.uri) or _text(one.uri, other.uri))
        and all(_text(getattr(one, name), getattr(other, name)) for name in ("method", "scheme", "authority"))
        and _named(one.headers, other.headers)
        and _named(one.query, other.query)
        and one.port in (None, other.port)
        and _source(one.source, other.source)
        and _connection(one.connection, other.connection)
    )


def _is_every_path(uri: StringMatch | None) -> bool:
    return uri is not None and uri.kind is MatchKind.PREFIX and uri.value in ("", "/")


def _text(one: StringMatch | None, other: StringMatch | None) -> bool:
    if one is None or one == other:
        return True
    if other is None:
        return False
    if one.kind is MatchKind.PRESENT:
        return True
    if one.ignore_case is not other.ignore_case and not one.ignore_case:
        return False
    fold = str.lower if one.ignore_case else str
    if one.kind is MatchKind.PREFIX and other.kind in (MatchKind.PREFIX, MatchKind.EXACT):
        return bool(fold(other.value).startswith(fold(one.value)))
    return one.kind is other.kind is MatchKind.EXACT and bool(fold(one.value) == fold(other.value))


def _named(one: tuple[NamedMatch, ...], other: tuple[NamedMatch, ...]) -> bool:
    """Each condition of the first must follow from one of the second."""
    return all(any(_follows(condition, given) for given in other) for condition in one)


def _follows(condition: NamedMatch, given: NamedMatch) -> bool:
    if condition == given:
        return True
    same = condition.name == given.name and not condition.invert and not given.invert
    return same and _text(condition.match, given.match)


def _source(one: SourceMatch | None, other: SourceMatch | None) -> bool:
    if one is None or one == other:
        return True
    if other is None:
        return False
    return (
        one.service in (None, other.service)
        and one.namespace in (None, other.namespace)
        and set(one.labels) <= set(other.labels)
    )


def _connection(one: ConnectionMatch, other: ConnectionMatch) -> bool:
    return (
        _each(one.server_names, other.server_names, is_within)
        and _each(one.destinations, other.destinations, _is_part)
        and _each(one.sources, other.sources, _is_part)
    )


def _each(one: tuple[str, ...], other: tuple[str, ...], is_part: Callable[[str, str], bool]) -> bool:
    """Whatever the second allows must be part of something that the first does; () allows everything."""
    return not one or (bool(other) and all(any(is_part(narrow, wide) for wide in one) for narrow in other))


def _is_part(narrow: str, wide: str) -> bool:
    inner, outer = ip_network(narrow, strict=False), ip_network(wide, strict=False)
    same = inner.version == outer.version
    return same and inner.prefixlen >= outer.prefixlen and inner.network_address in outer
