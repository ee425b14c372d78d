"""The soak's verdict: what grows is told from what only goes up and down, or up once."""

from __future__ import annotations

import random
from statistics import median

import pytest

from benchmarks.soak.growth import Bound, Growth, growth
from benchmarks.soak.rules import changes

SECONDS = 1200
BOUND = Bound(2.0, 0.02)


def judged(*values: float) -> Growth:
    return growth([(float(second), value) for second, value in enumerate(values)], BOUND)


def test_a_steady_leak_is_told() -> None:
    leak = judged(*(90 + second / 200 for second in range(SECONDS)))
    assert leak.per_hour == pytest.approx(18, rel=0.01)
    assert leak.grown == pytest.approx(4.5, rel=0.01)
    assert not leak.is_flat


def test_a_leak_between_collections_is_told() -> None:
    assert not judged(*(90 + second % 30 + second / 200 for second in range(SECONDS))).is_flat


def test_garbage_between_collections_is_no_growth() -> None:
    draw = random.Random(1)
    waves = judged(*(90 + second % 37 + draw.random() for second in range(SECONDS)))
    assert waves.is_flat, waves
    assert abs(waves.grown) < 0.5


def test_a_warm_up_and_a_step_are_no_growth() -> None:
    assert judged(*(min(100.0, 50 + second) for second in range(SECONDS))).is_flat
    assert judged(*(90.0 + (second > SECONDS * 0.9) * 5 for second in range(SECONDS))).is_flat


def test_where_the_median_counts_a_dip_is_none() -> None:
    dips = [(float(second), 70.0 if second % 240 < 20 and second < 800 else 144.0) for second in range(SECONDS)]
    assert growth(dips, BOUND, median).grown == 0


def test_a_bound_is_a_share_of_what_is_large() -> None:
    assert judged(*(1000 + second / 100 for second in range(SECONDS))).is_flat


def test_too_few_samples_are_no_verdict() -> None:
    for values in ((), (1.0,)):
        with pytest.raises(ValueError, match="samples"):
            judged(*values)


def test_rules_come_change_and_go() -> None:
    made = changes(5)
    seen = [next(made) for _ in range(300)]
    assert len({key for key, _ in seen}) == 25, "each kind for each service"
    assert any(value is None for _, value in seen)
    assert len({value for _, value in seen}) > 100
