"""Who gets traffic: what Consul's checks mean."""

from __future__ import annotations

import pytest
from msgspec import structs

from agent.mesh.names import ENDPOINT_TYPE
from agent.mesh.service import Health, Service
from agent.mesh.settings import MeshSettings, WarningInstances
from agent.mesh.snapshot import MeshSnapshot
from agent.translate.plan import Planner
from tests.unit.mesh_samples import OPTIONS, key, mesh, service, workload

WHOLE = "outbound|9080||reviews.service.consul"


def sample(health: Health, warning: WarningInstances) -> MeshSnapshot:
    """Return a mesh in which the first of three reviews is in that state."""
    reviews = service("reviews")
    first, *others = reviews.instances
    changed = Service.from_instances(key("reviews"), [structs.replace(first, health=health), *others])
    snapshot = mesh([changed, service("page")], workloads=(workload("page"),))
    return structs.replace(snapshot, settings=MeshSettings(warning_instances=warning))


@pytest.mark.parametrize(
    ("health", "warning", "served"),
    [
        (Health.PASSING, "drain", True),
        (Health.WARNING, "serve", True),
        (Health.WARNING, "drain", False),
        (Health.CRITICAL, "serve", False),
    ],
)
def test_which_instances_get_traffic(health: Health, warning: str, served: bool) -> None:
    snapshot = sample(health, WarningInstances(warning))
    endpoints = Planner().plan(snapshot, OPTIONS).resources.of(ENDPOINT_TYPE)[WHOLE].value
    assert (b"10.0.0.1" in endpoints) is served
    assert b"10.0.0.2" in endpoints
