"""One change runs as many functions in a large mesh as in a small one, whatever a clock says on a busy machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from agent.adapters.consul.catalog import CatalogSynced, ServiceEntries
from agent.flow.stage import Flow
from benchmarks.translate import mesh
from benchmarks.translate.measure import CHANGES, Agent, Answer
from benchmarks.translate.mesh import Layout, Mesh

SMALL, LARGE = 40, 200


@pytest.fixture(scope="module", params=Layout)
def counts(request: pytest.FixtureRequest) -> Mapping[int, Mapping[str, int]]:
    """Return size → kind of change → functions that ran for one."""
    return {services: _counts(services, request.param) for services in (SMALL, LARGE)}


def _counts(services: int, layout: Layout) -> dict[str, int]:
    size, agent, ran = Mesh(services, 2, layout), Agent(layout), 0
    rules = {key: (1, value) for key, value in size.rules()}
    entries = (ServiceEntries(mesh.name(number), size.members(number)) for number in range(services))
    run = Flow.run

    def counted(flow: Flow, reader: Any, build: Callable[[Any], Any]) -> Any:
        nonlocal ran
        ran += 1
        return run(flow, reader, build)

    agent.take([*entries, CatalogSynced(), Answer.of(1, rules)])
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Flow, "run", counted)
        for kind, change in CHANGES.items():
            for number in range(3):  # the first one may meet what the start has left
                ran = 0
                agent.take([change(size, rules, number)])
            found[kind] = ran
    return found


@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_costs_what_it_changes(kind: str, counts: Mapping[int, Mapping[str, int]]) -> None:
    assert 0 < counts[LARGE][kind] <= counts[SMALL][kind]
    assert counts[LARGE][kind] < 80
