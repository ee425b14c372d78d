"""HttpMatch → RouteMatch: each kind of comparison, and what Envoy would refuse."""

from __future__ import annotations

import pytest
from google.protobuf.json_format import MessageToDict

from agent.mesh.routes import HttpMatch, MatchKind, NamedMatch, StringMatch
from agent.translate.matches import UnusableMatch, route_match

EXACT, PREFIX, REGEX, PRESENT = MatchKind.EXACT, MatchKind.PREFIX, MatchKind.REGEX, MatchKind.PRESENT


def fields(match: HttpMatch) -> object:
    return MessageToDict(route_match(match), preserving_proto_field_name=True)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        (None, {"prefix": "/"}),
        (StringMatch(EXACT, "/a"), {"path": "/a"}),
        (StringMatch(PREFIX, "/a"), {"prefix": "/a"}),
        (StringMatch(PREFIX, ""), {"prefix": "/"}),
        (StringMatch(PREFIX, "/A", True), {"prefix": "/A", "case_sensitive": False}),
        (StringMatch(REGEX, "/a.*"), {"safe_regex": {"regex": "/a.*"}}),
        (StringMatch(REGEX, "/a.*", True), {"safe_regex": {"regex": "(?i)/a.*"}}),
        (StringMatch(PRESENT), {"prefix": "/"}),
    ],
)
def test_uri(uri: StringMatch | None, expected: object) -> None:
    assert fields(HttpMatch(uri=uri)) == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (NamedMatch("X-A", StringMatch(EXACT, "b")), {"name": "x-a", "string_match": {"exact": "b"}}),
        (NamedMatch("x", StringMatch(EXACT, "")), {"name": "x", "string_match": {"exact": ""}}),
        (NamedMatch("x", StringMatch(PREFIX, "")), {"name": "x", "present_match": True}),
        (NamedMatch("x", StringMatch(REGEX, "")), {"name": "x", "string_match": {"exact": ""}}),
        (NamedMatch("x", StringMatch(PRESENT), True), {"name": "x", "present_match": True, "invert_match": True}),
        (
            NamedMatch("x", StringMatch(EXACT, "b"), True),
            {
                "name": "x",
                "string_match": {"exact": "b"},
                "invert_match": True,
                "treat_missing_header_as_empty": True,
            },
        ),
    ],
)
def test_header(header: NamedMatch, expected: object) -> None:
    assert fields(HttpMatch(headers=(header,))) == {"prefix": "/", "headers": [expected]}


def test_pseudo_headers_and_query() -> None:
    match = HttpMatch(
        method=StringMatch(EXACT, "GET"),
        authority=StringMatch(PREFIX, "a", True),
        query=(NamedMatch("Q", StringMatch(REGEX, "x+")),),
    )
    assert fields(match) == {
        "prefix": "/",
        "headers": [
            {"name": ":method", "string_match": {"exact": "GET"}},
            {"name": ":authority", "string_match": {"prefix": "a", "ignore_case": True}},
        ],
        "query_parameters": [{"name": "Q", "string_match": {"safe_regex": {"regex": "x+"}}}],
    }


@pytest.mark.parametrize(
    "match",
    [
        HttpMatch(headers=(NamedMatch("a b", StringMatch(EXACT, "x")),)),
        HttpMatch(headers=(NamedMatch("", StringMatch(PRESENT)),)),
        HttpMatch(headers=(NamedMatch("a", StringMatch(EXACT, "x\ny")),)),
        HttpMatch(query=(NamedMatch("q", StringMatch(EXACT, "x"), True),)),
        HttpMatch(query=(NamedMatch("", StringMatch(EXACT, "x")),)),
        HttpMatch(uri=StringMatch(REGEX, "")),
        HttpMatch(uri=StringMatch(EXACT, "/a\r")),
    ],
)
def test_what_envoy_would_refuse_is_refused_here(match: HttpMatch) -> None:
    with pytest.raises(UnusableMatch):
        route_match(match)
