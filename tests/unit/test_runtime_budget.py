"""How long the reconciler rests: short after one costly round, in proportion while they go on."""

from __future__ import annotations

import pytest

from agent.runtime.reconciler import CPU_BURST_SECONDS, CPU_SHARE, MAX_GAP_SECONDS, MIN_GAP_SECONDS, Budget


def test_a_costly_round_after_quiet_is_no_reason_to_wait() -> None:
    assert Budget().rest(CPU_BURST_SECONDS, 1000.0) == MIN_GAP_SECONDS


@pytest.mark.parametrize("cost", [0.002, 0.03, 0.15])
def test_a_storm_takes_no_more_than_its_share(cost: float) -> None:
    budget, now, spent = Budget(), 1000.0, 0.0
    while now < 1060.0:
        now += cost
        spent += cost
        now += budget.rest(cost, now)
    assert spent <= 60.0 * CPU_SHARE + CPU_BURST_SECONDS + cost


def test_no_rest_is_longer_than_the_longest() -> None:
    assert Budget().rest(60.0, 1000.0) == MAX_GAP_SECONDS


def test_what_was_spent_is_forgiven_in_time() -> None:
    budget = Budget()
    budget.rest(1.0, 1000.0)
    assert budget.rest(0.01, 1010.0) == MIN_GAP_SECONDS
