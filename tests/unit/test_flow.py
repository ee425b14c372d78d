"""Flows compute again what read something that changed, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.flow.ordered import Ordered
from agent.flow.stage import Asked, Flow, Gathered, Shared, Source, Stage
from agent.flow.table import Table, changed_keys
from agent.flow.views import Parts, Tabled, Tally

KEYS = st.sampled_from("abcd")
VALUES = st.dictionaries(KEYS, st.integers(0, 2))


@given(VALUES, st.lists(st.dictionaries(KEYS, st.none() | st.integers(0, 2)), max_size=4))
def test_a_table_knows_by_which_keys_it_differs(values: dict[str, int], steps: list[dict[str, int | None]]) -> None:
    table = Table(values)
    for changes in steps:
        after = table.with_changes(changes)
        values = {key: value for key, value in {**values, **changes}.items() if value is not None}
        assert after == values
        differing = {key for key in {*table, *after} if table.get(key) is not after.get(key)}
        assert set(changed_keys(table, after)) == differing
        assert set(changed_keys(dict(table), after)) == differing
        assert (after is table) == (not differing)
        table = after


@given(st.lists(st.tuples(st.integers(0, 600), st.integers(0, 300), st.none() | st.integers(0, 2)), max_size=8))
def test_an_ordered_mapping_is_a_sorted_dict(steps: list[tuple[int, int, int | None]]) -> None:
    ordered, values = Ordered[int, int](), dict[int, int]()
    for first, count, value in steps:
        before, known = ordered, dict(values)
        changes = dict.fromkeys(range(first, first + count, 2), value)
        ordered = before.with_changes(changes)
        values = {key: one for key, one in {**values, **changes}.items() if one is not None}
        assert ordered.items() == tuple(sorted(values.items()))
        assert (tuple(ordered), ordered.values(), len(ordered)) == tuple(zip(*sorted(values.items()), strict=True)) + (
            (len(values),) if values else ((), (), 0)
        )
        assert all(
            ordered.get(key) == values.get(key) and (key in ordered) == (key in values) for key in range(0, 901, 9)
        )
        assert before == known
        assert all(0 < len(block.keys) <= 128 for block in ordered.blocks)
        total = sum(block.made(sum) for block in ordered.blocks)
        assert total == sum(block.made(sum) for block in ordered.blocks) == sum(values.values())


def test_a_change_leaves_the_other_blocks_as_they_are() -> None:
    before = Ordered[int, int]().with_changes(dict.fromkeys(range(10_000), 1))
    after = before.with_changes({77: 2, 5000: None, 10_000: 1})
    assert len({id(block) for block in after.blocks} - {id(block) for block in before.blocks}) <= 4


def test_only_what_read_a_change_runs_again() -> None:
    flow, ran = Flow(), list[str]()
    numbers: Source[str, int] = Source(flow)
    scale = Shared(flow, 1)

    def scaled(key: str) -> int:
        ran.append(f"scaled {key}")
        return numbers[key] // 10 * scale.get()

    def beside(key: str) -> int:
        ran.append(f"beside {key}")
        return (tens.get("a") or 0) + (tens.get(key) or 0)

    tens = Stage(flow, numbers, scaled)
    sums = Stage(flow, tens, beside)

    def ran_after(values: dict[str, int]) -> list[str]:
        ran.clear()
        numbers.set(values)
        flow.refresh()
        return sorted(ran)

    values = {"a": 1000, "b": 2000}
    assert len(ran_after(values)) == 4
    assert ran_after(values) == []
    assert ran_after({**values, "b": 2001}) == ["scaled b"]  # equal in tens: no further
    assert ran_after({**values, "b": 3000}) == ["beside b", "scaled b"]
    assert ran_after({"a": 4000, "b": 3000})[:2] == ["beside a", "beside b"]
    assert dict(sums.values()) == {"a": 800, "b": 700}
    scale.set(2)
    assert len(ran_after({"a": 4000})) >= 2
    assert dict(sums.values()) == {"a": 1600}


def test_a_key_comes_and_goes_with_what_it_is_made_of() -> None:
    flow = Flow()
    numbers: Source[str, int] = Source(flow)
    even = Stage(flow, numbers, lambda key: numbers[key] if numbers[key] % 2 == 0 else None)
    by_size: Gathered[str, str, int] = Gathered(flow, even, lambda _, n: {"big" if n > 10 else "small": n})
    seen = Stage(flow, by_size, lambda size: tuple(by_size[size].items()))
    table, tally = Tabled(seen), Tally[int]()
    tally.count(even, lambda number: [number, number])
    for values, expected in (
        ({"b": 20, "a": 12, "c": 1}, {"big": (("a", 12), ("b", 20))}),
        ({"b": 2, "a": 12, "c": 4}, {"big": (("a", 12),), "small": (("b", 2), ("c", 4))}),
        ({"b": 2}, {"small": (("b", 2),)}),
        ({}, {}),
    ):
        numbers.set(values)
        flow.refresh()
        assert table.table() == expected
        assert tally.elements() == tuple(sorted({n for n in values.values() if n % 2 == 0}))
    assert table.table() is table.table()


def test_what_nobody_asks_for_any_more_is_forgotten() -> None:
    flow = Flow()
    numbers: Source[str, int] = Source(flow)
    wanted: Source[str, str] = Source(flow)
    doubled: Asked[str, int] = Asked(flow, lambda key: 2 * (numbers.get(key) or 0))
    answers = Stage(flow, wanted, lambda key: doubled.get(wanted[key]))
    for named, value in (("x", 3), ("y", 5), ("x", 7)):
        numbers.set({named: value})
        wanted.set({"k": named})
        flow.refresh()
        assert answers["k"] == 2 * value
    numbers.set({"x": 8})
    flow.refresh()
    assert answers["k"] == 16
    wanted.set({})
    flow.refresh()
    flow.refresh()
    assert dict(doubled.values()) == {}


def test_a_function_may_not_read_what_is_computed_later() -> None:
    flow = Flow()
    numbers: Source[str, int] = Source(flow)
    stages: list[Stage[str, int]] = []
    stages.append(Stage(flow, numbers, lambda key: stages[1].get(key)))
    stages.append(Stage(flow, numbers, lambda key: numbers[key]))
    numbers.set({"a": 1})
    with pytest.raises(RuntimeError, match="computed after its own"):
        flow.refresh()


def test_parts_are_apart_by_a_property() -> None:
    flow = Flow()
    words: Source[str, str] = Source(flow)
    parts: Parts[str, str] = Parts(flow, words, len)
    lengths = Stage(flow, (parts[1], parts[2]), lambda key: len(words[key]))
    for value, expected in (("a", {"k": 1}), ("ab", {"k": 2}), ("abc", {})):
        words.set({"k": value})
        flow.refresh()
        assert dict(lengths.values()) == expected
