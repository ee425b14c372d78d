"""What Telemetry objects say: traces, metrics and access logs, and what of it is for one workload. Pure.

The mesh's namespace says it first, then the workload's own, then one object for the workload: each may change single
fields of what came before. Who collects what is not looked at here: providers are names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum

from msgspec import Struct, structs

from agent.mesh.authorization import Target
from agent.mesh.collector import SpanTag
from agent.mesh.routes import Fault, ObjectRef
from agent.mesh.service import Labels, ServiceKey

ALL_METRICS = "ALL_METRICS"


class Side(StrEnum):
    """Which end of a request reports it."""

    CLIENT = "CLIENT"
    """The caller's; a gateway too."""
    SERVER = "SERVER"


BOTH = (Side.CLIENT, Side.SERVER)


class TracingRule(Struct, frozen=True):
    """One entry of `tracing`. None: not said."""

    sides: tuple[Side, ...] = BOTH
    provider: str = ""
    """Empty: not said. Of several the first counts, as with Istio."""
    sampling: float | None = None
    """Percent of the requests that nobody has decided about."""
    disabled: bool | None = None
    tags: tuple[tuple[str, SpanTag], ...] | None = None
    by_request_id: bool | None = None
    """Whether x-request-id says if a request is sampled, and is told it."""
    istio_tags: bool | None = None


class Tracing(Struct, frozen=True):
    """How the requests that a workload sends, or gets, are traced."""

    provider: str = ""
    """Empty: the mesh's own collector."""
    sampling: float | None = None
    """None: as the mesh's settings say."""
    disabled: bool = False
    tags: tuple[tuple[str, SpanTag], ...] | None = None
    """None: as the mesh's settings say."""
    by_request_id: bool = True
    istio_tags: bool = True

    def after(self, rule: TracingRule) -> Tracing:
        """Return the same with what a narrower rule says."""
        return Tracing(
            rule.provider or self.provider,
            self.sampling if rule.sampling is None else rule.sampling,
            self.disabled if rule.disabled is None else rule.disabled,
            self.tags if rule.tags is None else rule.tags,
            self.by_request_id if rule.by_request_id is None else rule.by_request_id,
            self.istio_tags if rule.istio_tags is None else rule.istio_tags,
        )


class MetricOverride(Struct, frozen=True):
    """A change to one metric, or to all."""

    metric: str = ALL_METRICS
    """One of Istio's words (`REQUEST_COUNT`), or a metric's own name."""
    sides: tuple[Side, ...] = BOTH
    disabled: bool | None = None
    tags: tuple[tuple[str, str | None], ...] = ()
    """A label and the expression of its value; None: the label is left out."""


class MetricsRule(Struct, frozen=True):
    """One entry of `metrics`."""

    providers: tuple[str, ...] = ()
    """(): those of the entry before."""
    overrides: tuple[MetricOverride, ...] = ()
    interval: float | None = None
    """Seconds."""


class LoggingRule(Struct, frozen=True):
    """One entry of `accessLogging`."""

    sides: tuple[Side, ...] = BOTH
    providers: tuple[str, ...] = ()
    """(): those of the entry before."""
    disabled: bool = False
    expression: str = ""
    """CEL: which requests and connections are logged; empty: all."""


class Telemetry(Struct, frozen=True):
    """One Telemetry object."""

    origin: ObjectRef
    target: Target
    tracing: tuple[TracingRule, ...] = ()
    metrics: tuple[MetricsRule, ...] = ()
    logging: tuple[LoggingRule, ...] = ()

    @property
    def is_narrow(self) -> bool:
        """Tell whether it is for some workloads of its namespace only."""
        return bool(self.target.selector or self.target.services)


class WorkloadTelemetry(Struct, frozen=True):
    """What is for one workload, the widest first."""

    objects: tuple[Telemetry, ...] = ()

    def tracing(self, side: Side) -> Tracing:
        """Return how requests are traced."""
        result = Tracing()
        for rule in (rule for each in self.objects for rule in each.tracing if side in rule.sides):
            result = result.after(rule)
        return result

    def metrics(self, side: Side, default: Iterable[str]) -> dict[str, tuple[MetricOverride, ...]]:
        """Return the changes to metrics by provider, in order; `default`: the providers where no object names any."""
        rules = [rule for each in self.objects for rule in each.metrics]
        named = [rule.providers for rule in rules if rule.providers]
        wanted: dict[str, tuple[MetricOverride, ...]] = dict.fromkeys(named[-1] if named else default, ())
        providers = tuple(default)
        for rule in rules:
            providers = rule.providers or providers
            found = tuple(each for each in rule.overrides if side in each.sides)
            for provider in providers:
                if provider in wanted:
                    wanted[provider] += found
        return wanted

    def logging(self, side: Side, default: Iterable[str]) -> dict[str, str]:
        """Return where is logged, and the expression that says what; `default`: where, if no object names it."""
        if not any(each.logging for each in self.objects):
            return dict.fromkeys(default, "")
        wanted, providers, result = self._log_providers(side, default), tuple(default), dict[str, str]()
        for rule in (rule for each in self.objects for rule in each.logging):
            providers = rule.providers or providers
            for provider in providers:
                if provider not in wanted or side not in rule.sides:
                    continue
                result.pop(provider, None)
                if not rule.disabled:
                    result[provider] = rule.expression
        return result

    def _log_providers(self, side: Side, default: Iterable[str]) -> set[str]:
        """Return the providers of the narrowest object that names any."""
        wanted = set(default)
        for each in self.objects:
            rules = (rule for rule in each.logging if side in rule.sides)
            wanted = {name for rule in rules for name in rule.providers} or wanted
        return wanted


class TelemetryRules(Struct, frozen=True):
    """All Telemetry objects, in order of namespace and name."""

    objects: tuple[Telemetry, ...] = ()

    def of_workload(self, service: ServiceKey, labels: Labels, root: str) -> WorkloadTelemetry:
        """Return what is for a workload: of the objects that say it equally widely the first counts.

        One with a selector in the root namespace is for all namespaces' workloads (gateways), after those of their own.
        """
        own = service.namespace
        wide = (self._wide(namespace) for namespace in dict.fromkeys((root, own)))
        narrow = (each for each in self.objects if each.is_narrow and each.target.covers(service, labels, root))
        found = min(narrow, key=lambda each: each.origin.namespace != own, default=None)
        return WorkloadTelemetry(tuple(each for each in (*wide, found) if each is not None))

    def faults(self) -> Iterator[Fault]:
        """Yield what has no effect wherever it is looked at."""
        first: dict[object, ObjectRef] = {}
        for each in self.objects:
            other = first.setdefault(structs.astuple(each.target), each.origin)
            if other is not each.origin:
                yield Fault(str(each.origin), f"has no effect: {other} is for the same workloads")

    def _wide(self, namespace: str) -> Telemetry | None:
        every = (each for each in self.objects if not each.is_narrow and each.origin.namespace == namespace)
        return next(every, None)
