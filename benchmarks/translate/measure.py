"""Runs the agent's own way from Consul's answers to bytes for Envoy on a mesh of some size, and takes the times."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from ipaddress import IPv4Network, IPv6Network

import msgspec
from envoy.service.discovery.v3 import discovery_pb2
from msgspec import Struct, structs

from agent.adapters.consul.catalog import CatalogSynced, ServiceEntries
from agent.adapters.consul.kv import ConfigUpdate, ValuesReader
from agent.adapters.xds.delta import WILDCARD_TYPES, DeltaStream
from agent.mesh.gateway import INGRESS_LABELS, stand_in
from agent.mesh.names import XDS_ORDER
from agent.mesh.service import Health, Port, Protocol, ServiceKey, Workload
from agent.mesh.snapshot import Certificate, Desired
from agent.runtime import garbage
from agent.runtime.events import CertificatesChanged, WorkloadsChanged
from agent.runtime.state import Event, MeshState
from agent.translate.netfilter import NetfilterOptions
from agent.translate.options import PlanOptions
from agent.translate.plan import Planner
from benchmarks.figures import quantile
from benchmarks.translate import mesh
from benchmarks.translate.mesh import Layout, Mesh, Value

V4, V6 = IPv4Network("240.240.0.0/16"), IPv6Network("fdf0:240:240::/112")
OPTIONS = PlanOptions(
    NetfilterOptions(proxy_uid=1337, service_cidr_v4=V4, service_cidr_v6=V6), dns_upstreams=("9.9.9.9",)
)
GATEWAY_OPTIONS = PlanOptions(intercepted=False, gateway=INGRESS_LABELS)
STAGES = ("read", "lower", "plan", "publish", "send")
"""Consul's answer to documents, documents to policies, snapshot to resources, difference for an Envoy's stream, bytes
for that stream."""
Times = Mapping[str, float]
"""Stage → milliseconds of CPU time: nothing here waits, and other programs' load must not count."""


class Change(Struct, frozen=True):
    """How long one kind of change takes, in milliseconds: all stages together, and the p50 of each."""

    kind: str
    count: int
    p50_ms: float
    p99_ms: float
    stages_ms: Times
    translating_ms: float
    """p50 of `lower` and `plan`: documents and services to resources."""


class Result(Struct, frozen=True):
    """All figures of one size."""

    services: int
    rules: int
    resources: int
    layout: Layout
    cold_ms: Times
    changes: tuple[Change, ...]

    @property
    def cold_plan_ms(self) -> float:
        """Return what the first plan takes with lowering: milliseconds from documents and services to resources."""
        return self.cold_ms["lower"] + self.cold_ms["plan"]


class Answer(Struct, frozen=True):
    """Consul's answer of all rules."""

    index: int
    body: bytes

    @classmethod
    def of(cls, index: int, rules: Mapping[str, tuple[int, bytes]]) -> Answer:
        """Return what Consul says when these are the rules: key → (ModifyIndex, value)."""
        fields = {"LockIndex": 0, "Key": "", "Flags": 0, "Value": b"", "CreateIndex": 1, "ModifyIndex": 0}
        pairs = [
            {**fields, "Key": key, "Value": value, "ModifyIndex": at} for key, (at, value) in sorted(rules.items())
        ]
        return cls(index, msgspec.json.encode(pairs))


class Agent:
    """What of an agent translates: state, planner, and the stream of one Envoy that takes everything."""

    def __init__(self, layout: Layout = Layout.ONE_PORT) -> None:
        self._options = GATEWAY_OPTIONS if layout is Layout.GATEWAY else OPTIONS
        self._reader = ValuesReader()
        self._state = MeshState("node-0", V4, V6, {})
        self._planner = Planner()
        self._stream = DeltaStream()
        self._revision = 0
        workload = Workload(ServiceKey(mesh.NAMESPACE, mesh.name(0)), "10.0.0.1", (Port(8080, "http", Protocol.HTTP),))
        workload = stand_in(INGRESS_LABELS, "10.0.0.1") if layout is Layout.GATEWAY else workload
        self._state.apply(
            [WorkloadsChanged((workload,), ()), CertificatesChanged({workload.identity: Certificate(b"", b"")}, b"ca")]
        )

    def take(self, events: list[Event | Answer]) -> tuple[Times, Desired]:
        """Fold events in and plan; return the time of each stage."""
        self._revision += 1
        clock = [time.thread_time()]
        self._state.apply([self._read(event) if isinstance(event, Answer) else event for event in events])
        clock.append(time.thread_time())
        snapshot = self._state.snapshot()
        clock.append(time.thread_time())
        desired = self._planner.plan(snapshot, self._options)
        clock.append(time.thread_time())
        self._stream.publish(desired.resources, self._revision, float(self._revision))
        clock.append(time.thread_time())
        if wrong := [*desired.dangling, *self._state.faults, *desired.faults]:
            raise RuntimeError(f"not the mesh that was meant: {wrong[0]}")
        if self._revision == 1:
            for type_url in XDS_ORDER:
                by_name = [] if type_url in WILDCARD_TYPES else list(desired.resources.of(type_url))
                self._ask(type_url, resource_names_subscribe=by_name)
        begun = time.thread_time()
        while responses := self._stream.responses(float(self._revision)):
            for response in responses:
                response.SerializeToString()
                self._ask(response.type_url, response_nonce=response.nonce)
        clock.append(clock[-1] + time.thread_time() - begun)
        pairs = zip(STAGES, clock, clock[1:], strict=False)
        return {stage: (after - before) * 1000 for stage, before, after in pairs}, desired

    def _read(self, answer: Answer) -> ConfigUpdate:
        return ConfigUpdate(answer.index, self._reader.read(answer.body))

    def _ask(self, type_url: str, **fields: object) -> None:
        request = discovery_pb2.DeltaDiscoveryRequest(type_url=type_url, **fields)
        self._stream.receive(request, float(self._revision))


def measure(sizes: list[Mesh], count: int) -> list[Result]:
    """Return the figures of meshes: the first plan, then `count` changes of each kind.

    A change is made in each of the meshes in turn, so that other programs' load is the same for all.
    """
    meshes = [_Measured(size) for size in sizes]
    changes: list[list[Change]] = [[] for _ in meshes]
    for kind, events in CHANGES.items():
        taken: list[list[Times]] = [[] for _ in meshes]
        for number in range(count):
            for measured, times in zip(meshes, taken, strict=True):
                times.append(measured.change(events, number))
        for of_mesh, times in zip(changes, taken, strict=True):
            of_mesh.append(_summary(kind, times))
    return [
        Result(one.size.services, one.rules_at_first, one.resources, one.size.layout, one.cold, tuple(found))
        for one, found in zip(meshes, changes, strict=True)
    ]


class _Measured:
    """A mesh, and an agent that knows it."""

    def __init__(self, size: Mesh) -> None:
        self.size = size
        self._agent = Agent(size.layout)
        catalog: list[Event | Answer] = [
            *(ServiceEntries(mesh.name(number), size.members(number)) for number in range(size.services)),
            CatalogSynced(),
        ]
        self._rules = {key: (1, value) for key, value in size.rules()}
        gc.collect()
        garbage.begin()  # as the agent does
        self.cold, desired = self._agent.take([*catalog, Answer.of(1, self._rules)])
        gc.freeze()
        self.rules_at_first = len(self._rules)
        self.resources = sum(len(of_type) for of_type in desired.resources.by_type.values())

    def change(self, events: _Events, number: int) -> Times:
        """Make a change; return what it takes."""
        times, _ = self._agent.take([events(self.size, self._rules, number)])
        return times


def _summary(kind: str, taken: list[Times]) -> Change:
    sums = [sum(times.values()) for times in taken]
    stages = {stage: quantile([times[stage] for times in taken], 0.5) for stage in STAGES}
    translating = [times["lower"] + times["plan"] for times in taken]
    return Change(kind, len(taken), quantile(sums, 0.5), quantile(sums, 0.99), stages, quantile(translating, 0.5))


_Rules = dict[str, tuple[int, bytes]]
_Events = Callable[[Mesh, _Rules, int], Event | Answer]


def _rule(make: Callable[[Mesh, int, int], Value]) -> _Events:
    """Change another rule each time."""

    def event(size: Mesh, rules: _Rules, number: int) -> Answer:
        key, value = make(size, _spread(size, number), number)
        return _update(rules, {key: value})

    return event


def _update(rules: _Rules, values: Mapping[str, bytes | None]) -> Answer:
    index = max(index for index, _ in rules.values()) + 1
    for key, value in values.items():
        if value is None:
            rules.pop(key, None)
        else:
            rules[key] = (index, value)
    return Answer.of(index, rules)


def _spread(size: Mesh, number: int) -> int:
    """Return a service that has a rule of its own generation: an odd one."""
    return (number * 37) % (size.services // 2) * 2 + 1


def _even(size: Mesh, number: int) -> int:
    return _spread(size, number) - 1


def _entry_comes_and_goes(size: Mesh, rules: _Rules, number: int) -> Answer:
    key, value = mesh.service_entry(size.services + 1 + number // 2)
    return _update(rules, {key: None if number % 2 else value})


def _peers_come_and_go(size: Mesh, rules: _Rules, number: int) -> Answer:
    key, value = mesh.peer_authentication(_spread(size, number // 2))
    return _update(rules, {key: None if number % 2 else value})


def _flip(size: Mesh, _rules: _Rules, number: int) -> Event:
    first, *others = size.members(number % size.services)
    health = Health.PASSING if number // size.services % 2 else Health.CRITICAL
    return ServiceEntries(mesh.name(number % size.services), (structs.replace(first, health=health), *others))


def _service_comes_and_goes(size: Mesh, _rules: _Rules, number: int) -> Event:
    other = size.services + number // 2
    return ServiceEntries(mesh.name(other), () if number % 2 else size.members(other))


CHANGES: Mapping[str, _Events] = {  # what is changed → the event of its n-th change
    "RouteRule changed": lambda size, rules, number: _update(
        rules, dict([mesh.route_rule(_even(size, number), 40 + number % 20)])
    ),
    "VirtualService changed": _rule(lambda size, service, number: size.virtual_service(service, 40 + number % 20)),
    "DestinationRule changed": _rule(lambda _, service, number: mesh.destination_rule(service, 200 + number)),
    "ServiceEntry changed": _rule(lambda _, service, number: mesh.service_entry(service, 8443 + number % 50)),
    "ServiceEntry comes, goes": _entry_comes_and_goes,
    "PeerAuthentication comes, goes": _peers_come_and_go,
    "instance's health": _flip,
    "service comes, goes": _service_comes_and_goes,
}
