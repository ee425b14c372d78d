"""Resources of many nodes come together as tables, and what refers to nothing is known, whatever has changed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.flow.stage import Flow, Source
from agent.mesh.names import CLUSTER_TYPE, ROUTE_TYPE
from agent.mesh.snapshot import GroupedReferences, Resource, Resources
from agent.translate.resource_tables import ResourceTables

NAMES = st.tuples(st.sampled_from((CLUSTER_TYPE, ROUTE_TYPE)), st.sampled_from("abc"))
REFERENCES = st.frozensets(NAMES, max_size=3)
MADE = st.builds(
    lambda name, version, references: Resource(name[0], name[1], f"{version}", b"", references),
    NAMES,
    st.integers(0, 1),
    REFERENCES | st.lists(REFERENCES, max_size=3).map(GroupedReferences),
)
ROUND = st.tuples(*[st.dictionaries(st.integers(0, 2), st.lists(MADE, max_size=3).map(tuple), max_size=3)] * 2)


@given(st.lists(ROUND, max_size=5))
def test_tables_are_what_is_made_now(rounds: list[tuple[dict[int, tuple[Resource, ...]], ...]]) -> None:
    flow, tables = Flow(), ResourceTables()
    nodes: list[Source[int, tuple[Resource, ...]]] = [Source(flow), Source(flow)]
    for node in nodes:
        tables.collect(node, lambda made: made)
    before = Resources({})
    for round_ in rounds:
        for node, values in zip(nodes, round_, strict=True):
            node.set(values)
        now = tables.resources()
        made = [one for values in round_ for _, each in sorted(values.items()) for one in each]
        expected = {(one.type_url, one.name): one for one in made}
        assert {(r.type_url, r.name): r for of in now.by_type.values() for r in of.values()} == expected
        assert tables.dangling() == tuple(sorted(now.dangling()))
        for type_url, of in now.by_type.items():
            for name, resource in of.items():
                known = before.of(type_url).get(name)
                assert known != resource or known is resource
        before = now


@given(st.lists(REFERENCES, max_size=4), st.lists(REFERENCES, max_size=4))
def test_groups_are_as_good_as_one_set(
    groups: list[frozenset[tuple[str, str]]], others: list[frozenset[tuple[str, str]]]
) -> None:
    one, other = GroupedReferences(groups), GroupedReferences(others)
    whole = frozenset[tuple[str, str]]().union(*groups)
    assert (frozenset(one), len(one)) == (whole, len(whole))
    assert all((name in one) == (name in whole) for name in {*whole, *other})
    assert (one == other) == (set(one) == set(other))
    assert one != other or hash(one) == hash(other)
