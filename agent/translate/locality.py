"""Which instances are preferred for being near: failover by priority, distribution by weight. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec import Struct

from agent.mesh.service import NOWHERE, Instance, Labels, Locality
from agent.mesh.snapshot import MeshSnapshot
from agent.mesh.traffic_policy import LocalityPolicy, TrafficPolicy, locality_matches

REGION_LABEL = "topology.kubernetes.io/region"
ZONE_LABEL = "topology.kubernetes.io/zone"
SUBZONE_LABEL = "topology.istio.io/subzone"
_FAR_REGION = 4
_WEIGHT_UNIT = 1000
"""Shares are percents split by numbers of instances: a unit keeps the rounding small."""


class Group(Struct, frozen=True):
    """Instances that Envoy treats alike."""

    locality: Locality
    priority: int
    weight: int | None
    instances: tuple[Instance, ...]


class Place(Struct, frozen=True):
    """Where a caller is, and its labels."""

    locality: Locality = NOWHERE
    labels: Labels = ()

    @classmethod
    def of_node(cls, snapshot: MeshSnapshot) -> Place:
        """Return where a host and its default workload are, as the workload's own entry in the catalog says."""
        workload = snapshot.default_workload
        service = snapshot.services.get(workload.service) if workload else None
        if workload is None or service is None:
            return cls()
        found = (instance.locality for instance in service.instances if instance.node == snapshot.node)
        return cls(next(found, NOWHERE), workload.labels)


SOMEWHERE = Place()


def distribution(policy: TrafficPolicy, caller: Locality) -> tuple[tuple[str, int], ...]:
    """Return the (localities, percent) that this caller's traffic is distributed to; () if it is not."""
    setting = policy.load_balancer.locality if policy.load_balancer else None
    if setting is None or not setting.enabled or not caller.region:
        return ()
    return next((to for callers, to in setting.distribute if locality_matches(caller, callers)), ())


def groups(instances: Iterable[Instance], policy: TrafficPolicy, caller: Place) -> tuple[Group, ...]:
    """Return the instances in groups, near ones first; one group without a locality where nothing is preferred."""
    instances = tuple(instances)
    setting = policy.load_balancer.locality if policy.load_balancer else None
    if shares := distribution(policy, caller.locality):
        return _distributed(instances, shares)
    if setting is None or not setting.enabled or not (caller.locality.region or setting.priority_labels):
        return (Group(NOWHERE, 0, None, instances),) if instances else ()
    return _ranked(instances, lambda instance: _rank(instance, setting, caller))


def _distributed(instances: tuple[Instance, ...], shares: tuple[tuple[str, int], ...]) -> tuple[Group, ...]:
    """Give each locality its share; of localities that one pattern means, each by its instances' weights."""
    by_share: dict[int, dict[Locality, list[Instance]]] = {}
    # The longer pattern first: `region/zone/*` before `region/*`.
    ordered = sorted(shares, key=lambda share: (-len(share[0].rstrip("*")), share[0]))
    for instance in instances:
        for index, (pattern, _) in enumerate(ordered):
            if locality_matches(instance.locality, pattern):
                by_share.setdefault(index, {}).setdefault(instance.locality, []).append(instance)
                break
    found = []
    for index, members in sorted(by_share.items()):
        total = sum(_weight(chosen) for chosen in members.values())
        for locality, chosen in sorted(members.items()):
            weight = max(1, ordered[index][1] * _WEIGHT_UNIT * _weight(chosen) // total)
            found.append(Group(locality, 0, weight, tuple(chosen)))
    return tuple(found)


def _weight(instances: Iterable[Instance]) -> int:
    return sum(instance.weight for instance in instances)


def _ranked(instances: tuple[Instance, ...], rank: Callable[[Instance], tuple[int, int]]) -> tuple[Group, ...]:
    """Make priorities 0, 1, 2, … of the ranks that occur (Envoy wants them without gaps)."""
    by_rank: dict[tuple[int, int], dict[Locality, list[Instance]]] = {}
    for instance in instances:
        by_rank.setdefault(rank(instance), {}).setdefault(instance.locality, []).append(instance)
    return tuple(
        Group(locality, priority, None, tuple(chosen))
        for priority, (_, localities) in enumerate(sorted(by_rank.items()))
        for locality, chosen in sorted(localities.items())
    )


def _rank(instance: Instance, setting: LocalityPolicy, caller: Place) -> tuple[int, int]:
    """Return how far an instance is, first by labels, then by locality (which alone counts if no labels are named)."""
    if setting.priority_labels and not setting.failover:
        return _label_rank(instance, setting, caller), 0
    return _label_rank(instance, setting, caller), _distance(instance.locality, setting, caller.locality)


def _distance(locality: Locality, setting: LocalityPolicy, caller: Locality) -> int:
    """Return 0 for the same subzone, 1 for the zone, 2 for the region, 3 for the region to turn to, else 4."""
    if locality.region != caller.region:
        wanted = [to for origin, to in setting.failover if origin == caller.region]
        return _FAR_REGION if wanted and locality.region not in wanted else _FAR_REGION - 1
    if locality.zone != caller.zone:
        return 2
    return 0 if locality.subzone == caller.subzone else 1


def _label_rank(instance: Instance, setting: LocalityPolicy, caller: Place) -> int:
    """Return how many of the labels are left after the first that the instance has not got."""
    own, theirs = _labels(caller.labels, caller.locality), _labels(instance.labels, instance.locality)
    for position, label in enumerate(setting.priority_labels):
        key, given, wanted = label.partition("=")
        if theirs.get(key) != (wanted if given else own.get(key)):
            return len(setting.priority_labels) - position
    return 0


def _labels(labels: Labels, locality: Locality) -> dict[str, str]:
    own = {REGION_LABEL: locality.region, ZONE_LABEL: locality.zone, SUBZONE_LABEL: locality.subzone}
    return {**{key: value for key, value in own.items() if value}, **dict(labels)}
