"""When certificates are renewed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.translate.rotation import Expired, Renew, Wait, decide, renewal_time, retry_delay

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("jitter", "expected"), [(0.0, NOW + 5), (-1.0, NOW + 4.5), (1.0, NOW + 5.5)], ids=["middle", "earliest", "latest"]
)
def test_ten_seconds_are_renewed_about_the_fifth(jitter: float, expected: float) -> None:
    assert renewal_time(NOW, NOW + 10, jitter) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("now", "decision"),
    [
        (NOW, Wait(NOW + 5)),
        (NOW + 4.999, Wait(NOW + 5)),
        (NOW + 5, Renew()),
        (NOW + 9.999, Renew()),
        (NOW + 10, Expired()),
        (NOW - 0.5, Wait(NOW + 5)),
        (NOW - 120, Renew()),
    ],
    ids=["fresh", "just before", "half-life", "late", "end", "clock stepped by NTP", "clock set back"],
)
def test_decisions(now: float, decision: object) -> None:
    assert decide(now, renew_at=NOW + 5, not_after=NOW + 10, obtained_at=NOW) == decision


@given(lifetime=st.floats(1, 1e7), jitter=st.floats(-1, 1))
def test_renewal_always_leaves_two_fifths_of_the_life_for_retries(lifetime: float, jitter: float) -> None:
    renew_at = renewal_time(NOW, NOW + lifetime, jitter)
    assert 0.44 * lifetime < renew_at - NOW < 0.56 * lifetime


@given(failures=st.integers(1, 10_000), remaining=st.floats(-1e9, 1e9), jitter=st.floats(-1, 1))
def test_retries_are_never_too_hasty_nor_too_slow(failures: int, remaining: float, jitter: float) -> None:
    assert 0.19 <= retry_delay(failures, remaining, jitter) <= 36.1


def test_retries_grow_more_eager_as_the_end_comes_near() -> None:
    assert retry_delay(10, remaining=43_200, jitter=0) == 30
    assert retry_delay(10, remaining=80, jitter=0) == 10
    assert retry_delay(10, remaining=4, jitter=0) == 0.5
    assert retry_delay(10, remaining=0.1, jitter=0) == 0.25
    assert retry_delay(10, remaining=0, jitter=0) == 30, "nothing is left to hurry for"
    assert [retry_delay(n, remaining=0, jitter=0) for n in (1, 2, 3)] == [0.5, 1, 2]
