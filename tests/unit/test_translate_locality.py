"""Which instances are near: priorities without gaps, shares, and when nothing is preferred."""

from __future__ import annotations

from typing import Any

from msgspec import structs

from agent.mesh.service import Instance, Locality, labels_of
from agent.mesh.traffic_policy import LoadBalancer, LocalityPolicy, TrafficPolicy, locality_matches
from agent.translate.locality import Group, Place, distribution, groups
from tests.unit.mesh_samples import instance, key

HERE = Place(Locality("eu", "a", "1"), labels_of({"version": "v1"}))
PLACES = ("eu/a/1", "eu/a/2", "eu/b/1", "us/a/1", "asia/a/1", "")


def site(*places: str) -> tuple[Instance, ...]:
    made = (instance(key("web"), number, version=f"v{number}") for number in range(len(places)))
    return tuple(structs.replace(one, locality=Locality.from_text(p)) for one, p in zip(made, places, strict=True))


def policy(**setting: Any) -> TrafficPolicy:
    return TrafficPolicy(load_balancer=LoadBalancer(locality=LocalityPolicy(**setting)))


def ranks(found: tuple[Group, ...]) -> dict[str, int]:
    return {str(group.locality): group.priority for group in found}


def test_nothing_is_preferred_without_a_rule_or_a_known_place() -> None:
    for rule, place in (
        (TrafficPolicy.empty(), HERE),
        (policy(enabled=False), HERE),
        (policy(), Place(Locality(), ())),
    ):
        (group,) = groups(site(*PLACES), rule, place)
        assert (group.priority, group.weight, len(group.instances)) == (0, None, len(PLACES))
    assert groups((), policy(), HERE) == ()


def test_the_nearer_comes_first() -> None:
    found = groups(site(*PLACES), policy(), HERE)
    assert ranks(found) == {"eu/a/1": 0, "eu/a/2": 1, "eu/b/1": 2, "us/a/1": 3, "asia/a/1": 3, "": 3}


def test_priorities_have_no_gaps() -> None:
    assert ranks(groups(site("eu/b/1", "us/a/1"), policy(), HERE)) == {"eu/b/1": 0, "us/a/1": 1}


def test_failover_names_the_region_to_turn_to() -> None:
    found = groups(site(*PLACES), policy(failover=(("eu", "us"),)), HERE)
    assert ranks(found) == {"eu/a/1": 0, "eu/a/2": 1, "eu/b/1": 2, "us/a/1": 3, "asia/a/1": 4, "": 4}


def test_priority_labels_are_counted_in_a_row() -> None:
    labels = ("topology.kubernetes.io/region", "version=v1")
    found = groups(site("eu/a/1", "eu/b/1", "us/b/1"), policy(priority_labels=labels), HERE)
    assert ranks(found) == {"eu/a/1": 1, "eu/b/1": 0, "us/b/1": 2}


def test_distribution_shares_by_weight_and_drops_the_rest() -> None:
    to = (("eu/a/*", 70), ("eu/b/*", 30))
    rule = policy(distribute=(("us", (("us", 100),)), ("eu/a/*", to)))
    assert distribution(rule, HERE.locality) == to
    found = groups(site("eu/a/1", "eu/a/2", "eu/a/2", "eu/b/1", "us/a/1"), rule, HERE)
    assert {str(group.locality): group.weight for group in found} == {
        "eu/a/1": 23333,
        "eu/a/2": 46666,
        "eu/b/1": 30000,
    }
    assert {group.priority for group in found} == {0}


def test_patterns() -> None:
    place = Locality("eu", "a", "1")
    assert all(locality_matches(place, pattern) for pattern in ("*", "eu", "eu/*", "eu/a", "eu/a/*", "eu/a/1"))
    assert not any(locality_matches(place, pattern) for pattern in ("us", "eu/b", "eu/a/2", "e"))
