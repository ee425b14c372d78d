"""What the operator port is made of, without any I/O: redaction of a stream, tickets, allowances, where it listens."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.adapters.https_door import Allowance
from agent.adapters.proxy.redaction import MAX_VALUE, REDACTED, SECRET_FIELDS, Redactor
from agent.cli.envoy_view import redact
from agent.mesh.tickets import CLOCK_TOLERANCE_SECONDS, LIFE_SECONDS, Proof, new_ticket, read_proof, read_ticket

NOW = 1_800_000_000.0
KEYS = st.one_of(st.sampled_from(SECRET_FIELDS), st.sampled_from(["a", 'x"private_key', "b\\"]), st.text(max_size=4))
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=20))
TEXTS = st.sampled_from(['"private_key": "x"', "\\", '}{"', "],[", '\\"password\\":', "private_key"])
JSON = st.recursive(
    st.one_of(SCALARS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=30,
)


def streamed(text: bytes, cuts: list[int]) -> bytes:
    redactor, pieces, begin = Redactor(), [], 0
    for end in [*sorted(cut % (len(text) + 1) for cut in cuts), len(text)]:
        pieces.append(redactor.feed(text[begin:end]))
        begin = end
    return b"".join([*pieces, redactor.end()])


@given(JSON, st.lists(st.integers(0, 10_000), max_size=8), st.sampled_from([None, 1]), st.booleans())
def test_a_stream_is_redacted_as_the_whole_would_be(
    value: Any, cuts: list[int], indent: int | None, ascii_only: bool
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    assert json.loads(streamed(text, cuts)) == redact(value)


def test_byte_by_byte() -> None:
    text = b'{"a": [{"private_key": {"inline_bytes": "c2VjcmV0"}}], "password" : 17, "b": "private_key"}'
    assert json.loads(streamed(text, list(range(len(text))))) == {
        "a": [{"private_key": REDACTED}],
        "password": REDACTED,
        "b": "private_key",
    }


@pytest.mark.parametrize("size", [MAX_VALUE, 10 * MAX_VALUE])
def test_a_secret_without_an_end_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="does not end"):
        streamed(b'{"private_key": "' + b"x" * size, list(range(0, size, 65_536)))


def test_a_ticket_and_its_proof() -> None:
    proof, ticket = new_ticket("routes", NOW)
    assert read_proof(proof.authorization) == proof
    assert read_ticket(msgspec.json.encode(ticket)) == ticket
    assert proof.secret not in msgspec.json.encode(ticket).decode()
    assert proof.opens(ticket)
    other, _ = new_ticket("routes", NOW)
    assert not other.opens(ticket)
    assert not Proof(proof.id, proof.secret.upper()).opens(ticket)
    assert ticket.fault("routes", NOW) is None
    assert ticket.fault("secret", NOW) == "the ticket is for another question"


@given(st.floats(-1000, 1000))
def test_a_ticket_holds_as_long_as_the_clocks_may_differ(apart: float) -> None:
    _, ticket = new_ticket("routes", NOW)
    allowed = -CLOCK_TOLERANCE_SECONDS <= apart <= LIFE_SECONDS
    assert (ticket.fault("routes", NOW + apart) is None) == ticket.is_current(NOW + apart)
    if abs(apart + CLOCK_TOLERANCE_SECONDS) > 0.01 and abs(apart - LIFE_SECONDS) > 0.01:
        assert ticket.is_current(NOW + apart) == allowed


@pytest.mark.parametrize("value", [b"", b"1", b"{}", b'{"secretSha256": 1}', b"\xff", b"[" * 100])
def test_what_is_no_ticket(value: bytes) -> None:
    assert read_ticket(value) is None


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 3), st.floats(0.1, 6)), max_size=40))
def test_an_allowance_is_never_exceeded(steps: list[tuple[bool, float, float]]) -> None:
    allowance, now, spent = Allowance(10.0, 2.0), 0.0, 0.0
    for charged, passed, amount in steps:
        now += passed
        if charged:
            allowance.charge(amount, now)
        elif allowance.spend(amount, now):
            spent += amount
        assert spent <= 10.0 + 2.0 * now + 1e-6


def test_who_is_charged_too_much_waits() -> None:
    allowance = Allowance(10.0, 2.0)
    for _ in range(100):
        allowance.charge(5.0, 0.0)
    assert not allowance.spend(1.0, 5.0)
    assert allowance.spend(1.0, 5.6)


@given(st.integers(0, 60), st.integers(0, 60))
def test_a_quoted_key_inside_a_string_is_left_alone_wherever_the_cut_is(before: int, cut: int) -> None:
    value = {"a": "x" * before + '"password": "', "password": "p"}
    text = json.dumps(value).encode()
    assert json.loads(streamed(text, [cut + before, cut + before + 1])) == redact(value)
