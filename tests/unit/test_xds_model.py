"""Random publishes, deliveries and reconnects against a model Envoy: it always ends up with the newest Resources."""

from __future__ import annotations

import hypothesis.strategies as st
from envoy.service.discovery.v3 import discovery_pb2
from hypothesis import given, settings

from agent.adapters.xds.delta import DeltaStream, Limits
from agent.mesh.names import CLUSTER_TYPE, ENDPOINT_TYPE, LISTENER_TYPE, ROUTE_TYPE, SECRET_TYPE, XDS_ORDER
from agent.mesh.snapshot import Resource, Resources
from tests.unit.xds_model import BAD, GARBLED, GOOD, ModelEnvoy, make, state

CLUSTERS = tuple(f"c{number}" for number in range(3))
QUALITIES = st.sampled_from([GOOD] * 10 + [BAD, GARBLED])
NUMBERS = st.integers(0, 1)


@st.composite
def desired(draw: st.DrawFn) -> Resources:
    """Draw a consistent desired state: no dangling reference."""
    made: list[Resource] = []
    names = draw(st.sets(st.sampled_from(CLUSTERS)))
    for name in sorted(names):
        made.append(make(CLUSTER_TYPE, name, draw(NUMBERS), (ENDPOINT_TYPE, name), quality=draw(QUALITIES)))
        made.append(make(ENDPOINT_TYPE, name, draw(NUMBERS), quality=draw(QUALITIES)))
    for number in sorted(draw(st.sets(st.integers(0, 1)))):
        users = sorted(draw(st.sets(st.sampled_from(sorted(names)))) if names else ())
        references = [(CLUSTER_TYPE, name) for name in users]
        made.append(make(ROUTE_TYPE, f"r{number}", draw(NUMBERS), *references, quality=draw(QUALITIES)))
        made.append(make(SECRET_TYPE, f"s{number}", draw(NUMBERS), quality=draw(QUALITIES)))
        wanted = ((ROUTE_TYPE, f"r{number}"), (SECRET_TYPE, f"s{number}"))
        made.append(make(LISTENER_TYPE, f"l{number}", draw(NUMBERS), *wanted, quality=draw(QUALITIES)))
    return state(made)


STEPS = st.lists(
    st.one_of(
        desired(),
        st.sampled_from(
            ["rest", "rest", "rest", "request", "respond", "receive", "round", "round", "reconnect", "wait"]
        ),
    ),
    max_size=30,
)


class Wire:
    """A model Envoy, the code under test, and what is on the way between them."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.envoy = ModelEnvoy()
        self.newest = Resources()
        self.revision = 0
        self.now = 0.0
        self.reconnect()

    def reconnect(self) -> None:
        self.stream = DeltaStream(self.limits)
        self.in_flight: list[discovery_pb2.DeltaDiscoveryResponse] = []
        self.envoy.connect()
        self.envoy.checks_order = self.revision == 0
        if self.revision:
            self.stream.publish(self.newest, self.revision, self.now)

    def publish(self, resources: Resources) -> None:
        self.revision += 1
        self.newest = resources
        self.stream.publish(resources, self.revision, self.now)
        self.envoy.forget_refused(resources)

    def step(self, step: str) -> None:
        if step == "request" and self.envoy.requests:
            self.stream.receive(self.envoy.requests.pop(0), self.now)
        elif step == "respond":
            self.in_flight += self.stream.responses(self.now)
        elif step == "receive" and self.in_flight:
            self.envoy.receive(self.in_flight.pop(0))
        elif step == "round":
            for part in ("request", "respond", "receive"):
                self.step(part)
        elif step == "rest":
            self.settle()
        elif step == "reconnect":
            self.reconnect()
        elif step == "wait":
            self.now += 100
            self.envoy.stop_warming()
            self.envoy.checks_order = False

    def settle(self) -> None:
        for _ in range(1000):
            self.step("respond")
            if not self.in_flight and not self.envoy.requests:
                return
            while self.in_flight:
                self.step("receive")
            while self.envoy.requests:
                self.step("request")
        raise AssertionError("the two sides never come to rest")


@settings(max_examples=250, deadline=None)
@given(STEPS, desired(), st.sampled_from([1, 2, 2000]))
def test_envoy_ends_with_the_newest_resources(steps: list[Resources | str], last: Resources, size: int) -> None:
    wire = Wire(Limits(response_resources=size))
    for step in steps:
        if isinstance(step, Resources):
            wire.publish(step)
        else:
            wire.step(step)
    wire.publish(last)
    wire.settle()
    if all(each.version.startswith(GOOD) for by_name in last.by_type.values() for each in by_name.values()):
        if wire.envoy.warming.keys() - last.of(CLUSTER_TYPE).keys():
            # Nothing makes it warm now, so it is not acked; its removal waits for that, but no longer than this.
            wire.now += wire.limits.stage_wait
            wire.settle()
        assert not wire.envoy.warming
        assert wire.stream.settled
    wire.step("wait")  # a listener may have been refused: what it refers to is never asked for
    wire.settle()
    check_holds_newest(wire)
    assert wire.stream.acked_revision == wire.revision
    assert wire.stream.settled


def check_holds_newest(wire: Wire) -> None:
    refused = set()
    for type_url in XDS_ORDER:
        target = wire.newest.of(type_url)
        names = wire.envoy.subscribed.get(type_url)
        held = wire.envoy.held[type_url]
        for name, resource in target.items():
            if names is not None and name not in names:
                assert name not in held
            elif resource.version.startswith(GOOD):
                assert held[name].version == resource.version
            else:
                refused.add(name)
                assert name not in held or held[name].version != resource.version
        retained = {name for referred, name in used_by_last_good(wire) if referred == type_url}
        assert held.keys() - target.keys() <= retained
    assert {fault.subject for fault in wire.stream.faults} == refused
    assert not wire.envoy.warming


def used_by_last_good(wire: Wire) -> set[tuple[str, str]]:
    used: set[tuple[str, str]] = set()
    for type_url, held in wire.envoy.held.items():
        for name, resource in held.items():
            wanted = wire.newest.of(type_url).get(name)
            if wanted and wanted.version != resource.version:
                used.update(resource.references)
    return used


@settings(max_examples=100, deadline=None)
@given(desired(), desired())
def test_reconnect_sends_only_what_changed(before: Resources, after: Resources) -> None:
    wire = Wire(Limits())
    wire.publish(before)
    wire.settle()
    wire.newest = after
    wire.envoy.received.clear()
    held = {type_url: dict(resources) for type_url, resources in wire.envoy.held.items()}
    wire.reconnect()
    wire.settle()
    for type_url in (CLUSTER_TYPE, LISTENER_TYPE):
        changed = [
            name
            for name, resource in after.of(type_url).items()
            if name not in held[type_url] or held[type_url][name].version != resource.version
        ]
        suspects = len(changed) if any(not after.of(type_url)[name].version.startswith(GOOD) for name in changed) else 0
        assert wire.envoy.received.get(type_url, 0) <= len(changed) + suspects
