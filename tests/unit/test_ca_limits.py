"""Token buckets, and who a peer counts as."""

from __future__ import annotations

import pytest

from node_ca.errors import Refusal, RefusalKind
from node_ca.limits import Limits, Rate, caller_of


class _Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def admitted(limits: Limits, caller: str, calls: int) -> int:
    done = 0
    for _ in range(calls):
        try:
            limits.admit(caller)
            done += 1
        except Refusal:
            continue
    return done


def test_a_burst_then_the_rate() -> None:
    clock = _Clock()
    limits = Limits(Rate(2, 10), Rate(1000, 1000), clock)
    assert admitted(limits, "a", 50) == 10
    clock.now += 3
    assert admitted(limits, "a", 50) == 6
    clock.now += 1000
    assert admitted(limits, "a", 50) == 10, "never more than the burst"


def test_the_refusal_is_a_status_after_which_callers_try_again() -> None:
    limits = Limits(Rate(1, 1), Rate(10, 10), _Clock())
    limits.admit("a")
    with pytest.raises(Refusal, match="too many calls from a") as caught:
        limits.admit("a")
    assert caught.value.kind is RefusalKind.RESOURCE_EXHAUSTED


def test_one_caller_cannot_use_up_what_is_for_all() -> None:
    limits = Limits(Rate(1, 10), Rate(1, 15), _Clock())
    assert admitted(limits, "a", 1000) == 10
    assert admitted(limits, "b", 1000) == 5
    assert admitted(limits, "c", 1) == 0


def test_a_clock_that_goes_back_gives_nothing() -> None:
    clock = _Clock()
    limits = Limits(Rate(1, 2), Rate(100, 100), clock)
    assert admitted(limits, "a", 5) == 2
    clock.now -= 50
    assert admitted(limits, "a", 5) == 0


@pytest.mark.parametrize(
    ("peer", "caller"),
    [
        ("ipv4:10.0.0.1:4711", "10.0.0.1"),
        ("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:4711", "2001:db8:1:2::/64"),
        ("ipv6:[::1]:4711", "::/64"),
        ("ipv6:%5B::ffff:10.0.0.1%5D:4711", "10.0.0.1"),
        ("ipv6:%5Bfe80::1%25eth0%5D:1", "fe80::/64"),
        ("unix:", "unix"),
        ("nonsense", "nonsense"),
    ],
)
def test_callers(peer: str, caller: str) -> None:
    assert caller_of(peer) == caller
