"""What a plan makes of traces: who traces what, and the clusters of collectors. Pure; one node (agent/flow)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct, structs

from agent.flow.stage import Flow, Source, Stage
from agent.mesh.collector import Collector, OpenTelemetry, Zipkin
from agent.mesh.names import CLUSTER_DOMAIN, CONSUL_DOMAIN, outbound_cluster
from agent.mesh.routes import Fault
from agent.mesh.service import Labels, ServiceKey
from agent.mesh.settings import MeshSettings
from agent.mesh.snapshot import Resource
from agent.mesh.telemetry_settings import Side, Tracing
from agent.translate.asked import own_cluster, service_port
from agent.translate.plan_services import Destinations, Inputs, Made, Services
from agent.translate.tracing import Tracer, collector_cluster, with_tracing, workload_tags

_HOST = ""
_OF_THE_MESH = (CLUSTER_DOMAIN, CONSUL_DOMAIN, ".svc")


class Traced(Struct, frozen=True):
    """Who of this host traces how."""

    outgoing: Tracer | None = None
    """What its applications, or a gateway's clients, ask for."""
    incoming: Mapping[int, Tracer] = {}
    """What its workloads are asked for, by port."""
    faults: tuple[Fault, ...] = ()

    @property
    def collectors(self) -> tuple[Zipkin | OpenTelemetry, ...]:
        """Return the collectors, by their clusters' names."""
        every = [*self.incoming.values(), *((self.outgoing,) if self.outgoing else ())]
        found = {tracer.cluster: tracer.collector for tracer in every}
        return tuple(found[name] for name in sorted(found))


class Traces:
    """The tracers of this host's listeners."""

    def __init__(
        self, flow: Flow, inputs: Inputs, services: Services, destinations: Destinations, once: Source[str, bool]
    ) -> None:
        self._inputs, self._services, self._destinations = inputs, services, destinations
        self._traced = Stage(flow, once, lambda _: _traced(inputs))
        self.made = Stage(flow, once, lambda _: self._collectors())

    @property
    def names_spans(self) -> bool:
        """Tell whether routes need names for spans."""
        return self._traced[_HOST].outgoing is not None

    def outgoing(self, made: tuple[Resource, ...]) -> tuple[Resource, ...]:
        """Return resources whose listeners trace what goes out of this host, or through this gateway."""
        tracer = self._traced[_HOST].outgoing
        return with_tracing(made, lambda _: tracer) if tracer is not None else made

    def incoming(self, made: tuple[Resource, ...]) -> tuple[Resource, ...]:
        """Return resources whose listeners trace what comes to this host's workloads."""
        tracers = self._traced[_HOST].incoming
        return with_tracing(made, lambda prefix: tracers.get(_port(prefix))) if tracers else made

    def _collectors(self) -> Made:
        traced = self._traced[_HOST]
        made, faults = list[Resource](), [*traced.faults, *self._inputs.telemetry.get().faults()]
        for collector in traced.collectors:
            there, why = self._way(collector)
            made.append(collector_cluster(collector, there))
            if why:
                faults.append(Fault(f"collector of traces {collector.host}:{collector.port}", why))
        return Made(tuple(made), tuple(faults))

    def _way(self, collector: Collector) -> tuple[Resource | None, str]:
        """Return the cluster that leads to a collector, or why there is none."""
        served = service_port(collector.host, collector.port, self._services.facts.get)
        if served is not None:
            key, port = served
            name = outbound_cluster(key, port.number)
            return next(one for one in self._destinations.clusters[key].resources if one.name == name), ""
        if _is_of_the_mesh(collector.host):
            return None, "is no service that this host can call: its spans are lost until it is"
        return own_cluster(collector.host, collector.port, False, self._inputs.options.dns_upstreams), ""


def _is_of_the_mesh(host: str) -> bool:
    """Tell whether a name can only be that of a service here."""
    return not set(host) & set(".:") or host.lower().rstrip(".").endswith(_OF_THE_MESH)


def _port(stat_prefix: str) -> int:
    number = stat_prefix.rpartition("_")[2]
    return int(number) if number.isdecimal() else 0


def _traced(inputs: Inputs) -> Traced:
    settings, rules = inputs.settings.get(), inputs.telemetry.get()
    if settings.tracing.collector is None and not any(one.tracing for one in rules.objects):
        return Traced()
    is_gateway, caller = inputs.options.gateway is not None, inputs.caller.get()
    faults: dict[Fault, None] = {}

    def tracer(service: ServiceKey, labels: Labels, side: Side) -> Tracer | None:
        said = rules.of_workload(service, labels, settings.root_namespace)
        found = _tracer(said.tracing(side), settings, service, labels)
        if isinstance(found, str):
            faults[Fault(str(said.objects[-1].origin), found)] = None
            return None
        return found

    own = caller.service or ServiceKey(caller.namespace, "")
    outgoing = tracer(own, caller.labels, Side.CLIENT)
    if is_gateway and outgoing is not None:
        outgoing = structs.replace(outgoing, upstream_span=True)
    incoming: dict[int, Tracer] = {}
    for workload in () if is_gateway else inputs.workloads.get():
        found = tracer(workload.service, workload.labels, Side.SERVER)
        if found is not None:
            incoming |= {port.number: found for port in workload.ports if port.number not in incoming}
    return Traced(outgoing, incoming, tuple(faults))


def _tracer(tracing: Tracing, settings: MeshSettings, service: ServiceKey, labels: Labels) -> Tracer | str | None:
    """Return how to trace; None: not at all; text: why that cannot be had."""
    if tracing.disabled:
        return None
    mesh = settings.tracing
    collector = _named(tracing.provider, settings) if tracing.provider else mesh.collector
    if collector is None:
        return f"the mesh has no collector {tracing.provider!r} (extensionProviders)" if tracing.provider else None
    tags = dict(mesh.span_tags if tracing.tags is None else tracing.tags)
    if tracing.istio_tags:
        tags = dict(workload_tags(service, labels, settings.trust_domain)) | tags
    longest = mesh.max_path_tag_length if collector.max_tag_length is None else collector.max_tag_length
    sampling = mesh.sampling if tracing.sampling is None else tracing.sampling
    return Tracer(collector, sampling, tuple(sorted(tags.items())), longest, service, tracing.by_request_id)


def _named(name: str, settings: MeshSettings) -> Zipkin | OpenTelemetry | None:
    """Return the collector of that name: a provider's, or the mesh's own by its kind."""
    declared = {one.name: one.collector for one in settings.extension_providers}
    own: Iterable[tuple[str, Zipkin | OpenTelemetry | None]] = (
        ("zipkin", settings.tracing.zipkin),
        ("opentelemetry", settings.tracing.opentelemetry),
    )
    return declared[name] if name in declared else dict(own).get(name)
