"""Mixer's expressions: syntax, types with line and column, values, what is left when only something is known."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api.expressions import Fault, parse
from agent.mesh.expressions.evaluate import evaluate, fold
from agent.mesh.expressions.functions import duration
from agent.mesh.expressions.tree import Attribute, Call, Expression, Literal, Nothing, Type, attributes, text
from agent.mesh.expressions.vocabulary import VOCABULARY

REQUEST: dict[str, Any] = {
    "source.labels": {"app": "reviews", "version": "v3"},
    "source.ip": ip_address("10.1.2.3"),
    "destination.service": "ratings.default.svc.cluster.local",
    "destination.labels": {"app": "ratings"},
    "request.headers": {"x-user": "jason", "empty": ""},
    "request.path": "/ratings/7",
    "request.size": 300,
    "response.code": 503,
    "response.duration": timedelta(milliseconds=12.5),
    "request.time": datetime(2026, 11, 20, 12, 0, tzinfo=UTC),
    "connection.mtls": True,
}


@pytest.mark.parametrize(
    ("written", "worth"),
    [
        (
            'destination.labels["app"] == "ratings" && source.labels["app"]=="reviews"',
            True,
        ),
        ('source.labels["version"] == "v2"', False),
        ('source.labels["nothing"] == ""', True),
        ('source.labels["nothing"] | "unknown"', "unknown"),
        ('request.headers["empty"] | "unknown"', ""),
        ('source.user | "unknown"', "unknown"),
        ('source.user == "x"', None),
        ('source.user != "x"', None),
        ('false && source.user == "x"', False),
        ('source.user == "x" && false', None),
        ('true || source.user == "x"', True),
        ('source.user == "x" || true', None),
        ('(source.user == "x") | true', True),
        ('source.user | source.service | "none"', "none"),
        ('source.labels["app"] | source.service | "unknown"', "reviews"),
        ('origin.ip | source.ip | ip("0.0.0.0")', ip_address("10.1.2.3")),
        ('source.ip != ip("10.11.12.13")', True),
        ('match(destination.service, "ratings.*")', True),
        ('match(destination.service, "*.svc.cluster.local")', True),
        ('match(destination.service, "rat*cluster.local")', False),
        ('"^ratings\\\\.[a-z]+".matches(destination.service)', True),
        ('"svc$".matches(destination.service)', False),
        ('destination.service.startsWith("ratings")', True),
        ('request.headers["x-user"].endsWith("son")', True),
        ("response.code == 503 || response.code == 504", True),
        ("response.code >= 500", True),
        ("request.size + 5 - 0x10", 289),
        ('request.path + "?"', "/ratings/7?"),
        ('response.duration | "0ms"', timedelta(milliseconds=12.5)),
        ('connection.duration | "1h0.5s"', timedelta(hours=1, seconds=0.5)),
        ('response.duration > "12ms"', True),
        ('"2s" < "24h"', True),
        ('"10ms" < response.duration', True),
        ('response.duration == ("13ms" | "1s") || response.duration == conditional(true, "12.5ms", "1s")', True),
        ('request.time < timestamp("2027-01-02T15:04:35Z")', True),
        ("connection.mtls", True),
        ('conditional(connection.mtls, "yes", "no")', "yes"),
        ('conditional((source.user | "") == "", "plain", source.user)', "plain"),
        ('toLower("ABC")', "abc"),
        ("size(request.path)", 10),
        ('dnsName("Reviews.Default.") == dns.name("reviews.default")', True),
        ('email("a@B.example") == email("a@b.example")', True),
        ('(source.labels | emptyStringMap())["x"] == ""', True),
        ("`raw\\n`", "raw\\n"),
        ('"\\x41\\u00e9\\n\\""', 'Aé\n"'),
    ],
)
def test_what_an_expression_is_worth(written: str, worth: Any) -> None:
    assert evaluate(parse(written), REQUEST) == worth


@pytest.mark.parametrize(
    ("written", "line", "column", "words"),
    [
        ("", 1, 1, "ends too early"),
        ('source.labels["app"] == ', 1, 22, "ends too early"),
        ('a = "b"', 1, 3, "equal is =="),
        ("source.nam == 'x'", 1, 15, "double quotes"),
        ('source.nam == "x"', 1, 1, "did you mean source.name?"),
        ('destination.labels["app"] == "x" &&\n  source.labl["x"] == "y"', 2, 3, "source.labl"),
        ("!connection.mtls", 1, 1, "there is no other negation"),
        ('request.size == "10"', 1, 17, "INT64 and STRING"),
        ('response.duration == "soon"', 1, 22, "DURATION and STRING"),
        ("request.path && true", 1, 1, "&& wants BOOL here, and this is STRING"),
        ("request.path", 1, 1, "is STRING and must be BOOL"),
        ('request.path["x"] == "y"', 1, 1, "is for a STRING_MAP"),
        ("source.labels[1]", 1, 15, "[] wants STRING here"),
        ("source.labels == source.labels && source.ip < source.ip", 1, 35, "< is for"),
        ('ip("10.1.2")', 1, 4, "is not an IP address"),
        ('timestamp("yesterday")', 1, 11, "RFC 3339"),
        ('"(".matches(request.path)', 1, 1, "is not an RE2 expression"),
        ("-3 < 2.5", 1, 6, "INT64 and DOUBLE"),
        ("ip()", 1, 1, "takes 1 operand, 0 given"),
        ('match("a")', 1, 1, "takes 2 operands, 1 given"),
        ('request.path.beginsWith("x")', 1, 1, "no such function .beginsWith()"),
        ('startWith(request.path, "x")', 1, 1, "no such function startWith()"),
        ('matches("x", "y")', 1, 1, "no such function matches()"),
        ("9223372036854775808", 1, 1, "64 bits"),
        ('"\\q"', 1, 2, "is no escape"),
        ('"abc', 1, 1, "the string has no end"),
        ("(" * 3 + "true", 1, 4, "ends too early"),
        (" || ".join(["true"] * 200), 1, 1, "operands within each other"),
        ("true" + " " * 9000, 1, 1, "longer than"),
    ],
)
def test_a_fault_says_where_and_why(written: str, line: int, column: int, words: str) -> None:
    with pytest.raises(Fault) as caught:
        parse(written, Type.BOOL if written == "request.path" else None)
    assert words in caught.value.reason
    assert (caught.value.line, caught.value.column) == (line, column)


def test_the_type_that_is_wanted_makes_a_duration_of_text() -> None:
    assert parse('"1.5s"', Type.DURATION) == Literal(timedelta(seconds=1.5), Type.DURATION)
    assert parse('"1.5s"') == Literal("1.5s", Type.STRING)


_NAMES = [name for name in VOCABULARY if name.count(".") == 1]
_STRINGS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6).filter(lambda text: duration(text) is None)
_LITERALS: dict[Type, st.SearchStrategy[Any]] = {
    Type.STRING: _STRINGS,
    Type.INT64: st.integers(-(2**63), 2**63 - 1),
    Type.BOOL: st.booleans(),
    Type.DURATION: st.timedeltas(timedelta(0), timedelta(days=3)),
    Type.IP_ADDRESS: st.ip_addresses(),
    Type.TIMESTAMP: st.datetimes(datetime(1, 1, 2), datetime(9999, 1, 1), timezones=st.just(UTC)),
}


@st.composite
def expressions(draw: st.DrawFn, type_: Type = Type.BOOL, depth: int = 3) -> Expression:
    """Draw a tree of that type."""
    if depth == 0 or draw(st.integers(0, 3)) == 0:
        names = [name for name in _NAMES if VOCABULARY[name] is type_]
        if type_ is Type.STRING and draw(st.booleans()):
            of = Attribute(draw(st.sampled_from(("source.labels", "request.headers"))), Type.STRING_MAP)
            return Call("[]", (of, Literal(draw(st.sampled_from("ab")), Type.STRING)), Type.STRING)
        if draw(st.booleans()) and names:
            return Attribute(draw(st.sampled_from(names)), type_)
        return Literal(draw(_LITERALS[type_]), type_)

    def part(wanted: Type) -> Expression:
        return draw(expressions(wanted, depth - 1))

    if type_ is not Type.BOOL or draw(st.integers(0, 3)) == 0:
        return Call("|", (part(type_), part(type_)), type_)
    kind = draw(st.sampled_from(["&&", "||", "==", "!=", "<", "match", "startsWith"]))
    if kind in ("&&", "||"):
        return Call(kind, (part(Type.BOOL), part(Type.BOOL)), Type.BOOL)
    if kind in ("match", "startsWith"):
        return Call(kind, (part(Type.STRING), part(Type.STRING)), Type.BOOL)
    alike = draw(st.sampled_from([Type.STRING, Type.INT64, Type.DURATION, Type.TIMESTAMP]))
    if kind != "<" and draw(st.booleans()):
        alike = Type.IP_ADDRESS
    return Call(kind, (part(alike), part(alike)), Type.BOOL)


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the attributes of a request; each may be absent."""
    found: dict[str, Any] = {}
    for name in _NAMES:
        type_ = VOCABULARY[name]
        if type_ in _LITERALS and draw(st.integers(0, 2)) == 0:
            found[name] = draw(_LITERALS[type_])
    for name in ("source.labels", "request.headers"):
        if draw(st.booleans()):
            found[name] = draw(st.dictionaries(st.sampled_from("ab"), _STRINGS, max_size=2))
    return found


@given(expressions())
def test_its_text_parsed_again_is_the_same_folded(expression: Expression) -> None:
    folded = fold(expression, lambda attribute: attribute)
    assert parse(text(expression)) == folded
    assert isinstance(folded, Nothing) or parse(text(folded)) == folded


@given(expressions(), requests(), st.sets(st.sampled_from(_NAMES)))
def test_what_is_left_is_worth_what_the_whole_is(
    expression: Expression, request: dict[str, Any], early: set[str]
) -> None:
    rest = fold(expression, lambda attribute: request.get(attribute.name) if attribute.name in early else attribute)
    assert evaluate(rest, request) == evaluate(expression, request)
    assert rest.type is expression.type
    assert not {attribute.name for attribute in attributes(rest)} & early


@given(st.text(max_size=60))
def test_any_text_is_an_expression_or_a_fault(written: str) -> None:
    faults = []
    try:
        parse(written)
    except Fault as fault:
        faults.append(fault)
    assert all(fault.line >= 1 and fault.column >= 1 and fault.reason for fault in faults)


def test_nothing_is_what_is_left_of_something_absent() -> None:
    rest = fold(parse('request.path == "x" && source.user == "y"'), lambda a: None if a.name == "source.user" else a)
    assert isinstance(rest, Call)
    assert rest.operands[1] == Nothing(Type.BOOL)
