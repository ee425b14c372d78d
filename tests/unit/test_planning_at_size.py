"""One change runs as many functions in a large mesh as in a small one, whatever a clock says on a busy machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from agent.adapters.consul.catalog import CatalogSynced, ServiceEntries
from agent.adapters.consul.kv import ConfigUpdate
from agent.flow.stage import Flow
from benchmarks.translate import mesh
from benchmarks.translate.measure import CHANGES, Agent
from benchmarks.translate.mesh import Mesh

SMALL, LARGE = 40, 400


@pytest.fixture(scope="module")
def counts() -> Mapping[int, Mapping[str, int]]:
    """Return size → kind of change → functions that ran for one."""
    return {services: _counts(services) for services in (SMALL, LARGE)}


def _counts(services: int) -> dict[str, int]:
    size, agent, ran = Mesh(services, instances=2), Agent(), 0
    rules = {key: (1, value) for key, value in size.rules()}
    entries = (ServiceEntries(mesh.name(number), size.members(number)) for number in range(services))
    run = Flow.run

    def counted(flow: Flow, reader: Any, build: Callable[[Any], Any]) -> Any:
        nonlocal ran
        ran += 1
        return run(flow, reader, build)

    agent.take([*entries, CatalogSynced(), ConfigUpdate(1, dict(rules))])
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
