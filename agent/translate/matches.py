"""HttpMatch → RouteMatch. Pure. Refuses what Envoy would: one bad match would take a whole route table with it."""

from __future__ import annotations

import re
from typing import Any

from envoy.config.route.v3 import route_components_pb2
from envoy.type.matcher.v3 import regex_pb2, string_pb2
from google.protobuf import wrappers_pb2

from agent.mesh.routes import CLAIMS, HttpMatch, MatchKind, NamedMatch, StringMatch
from agent.translate.claims import claim_path, text_matcher

_HEADER_NAME = re.compile(r":?[0-9A-Za-z!#$%&'*+\-.^_|~`]+", re.ASCII)
_FORBIDDEN = re.compile(r"[\x00\r\n]")


class UnusableMatch(ValueError):
    """A condition that Envoy can't express; its text says which and why."""


def route_match(match: HttpMatch) -> Any:
    """Return the message (envoy.config.route.v3.RouteMatch). Raises UnusableMatch."""
    message = route_components_pb2.RouteMatch()
    _set_path(message, match.uri)
    for name, wanted in ((":method", match.method), (":scheme", match.scheme), (":authority", match.authority)):
        if wanted is not None:
            message.headers.append(_header(NamedMatch(name, wanted)))
    for header in match.headers:
        if header.name.startswith(CLAIMS):
            message.dynamic_metadata.append(_claim(header))
        else:
            message.headers.append(_header(header))
    message.query_parameters.extend(_query(parameter) for parameter in match.query)
    return message


def _set_path(message: Any, uri: StringMatch | None) -> None:
    """Compare the path without its query, as Istio does."""
    if uri is None or uri.kind is MatchKind.PRESENT or (uri.kind is MatchKind.PREFIX and not uri.value):
        message.prefix = "/"
        return
    _refuse_control(uri)
    if uri.kind is MatchKind.REGEX:
        message.safe_regex.CopyFrom(_regex(uri))
        return
    if uri.kind is MatchKind.EXACT:
        message.path = uri.value
    else:
        message.prefix = uri.value
    if uri.ignore_case:
        message.case_sensitive.CopyFrom(wrappers_pb2.BoolValue(value=False))


def _header(wanted: NamedMatch) -> Any:
    if not _HEADER_NAME.fullmatch(wanted.name):
        raise UnusableMatch(f"{wanted.name!r} is not a header's name")
    header = route_components_pb2.HeaderMatcher(name=wanted.name.lower(), invert_match=wanted.invert)
    if _always_holds(wanted.match):
        header.present_match = True
    else:
        header.string_match.CopyFrom(_string(wanted.match))
        # "Must not be x" holds for a request without the header; Envoy alone takes an absent one for a mismatch.
        header.treat_missing_header_as_empty = wanted.invert
    return header


def _claim(wanted: NamedMatch) -> Any:
    path = claim_path(wanted.name)
    if not path:
        raise UnusableMatch(f"{wanted.name!r} names no claim")
    anything = string_pb2.StringMatcher(safe_regex=regex_pb2.RegexMatcher(regex=".*"))
    matcher = text_matcher(path, anything if _always_holds(wanted.match) else _string(wanted.match))
    matcher.invert = wanted.invert
    return matcher


def _query(wanted: NamedMatch) -> Any:
    if wanted.invert:
        raise UnusableMatch(f"query parameter {wanted.name!r}: Envoy has no inverted match of query parameters")
    if not wanted.name:
        raise UnusableMatch("a query parameter without a name")
    parameter = route_components_pb2.QueryParameterMatcher(name=wanted.name)
    if _always_holds(wanted.match):
        parameter.present_match = True
    else:
        parameter.string_match.CopyFrom(_string(wanted.match))
    return parameter


def _always_holds(match: StringMatch) -> bool:
    return match.kind is MatchKind.PRESENT or (match.kind is MatchKind.PREFIX and not match.value)


def _string(match: StringMatch) -> Any:
    _refuse_control(match)
    if match.kind is MatchKind.REGEX:
        # Envoy forbids an empty regex and ignore_case beside a regex.
        return string_pb2.StringMatcher(safe_regex=_regex(match)) if match.value else string_pb2.StringMatcher(exact="")
    if match.kind is MatchKind.PREFIX:
        return string_pb2.StringMatcher(prefix=match.value, ignore_case=match.ignore_case)
    return string_pb2.StringMatcher(exact=match.value, ignore_case=match.ignore_case)


def _regex(match: StringMatch) -> Any:
    if not match.value:
        raise UnusableMatch("an empty regular expression")
    return regex_pb2.RegexMatcher(regex=f"(?i){match.value}" if match.ignore_case else match.value)


def _refuse_control(match: StringMatch) -> None:
    if _FORBIDDEN.search(match.value):
        raise UnusableMatch(f"{match.value!r} has a line break or a null character in it")
