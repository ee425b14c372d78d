"""All rules about who may talk to whom, as a snapshot has them, and what of them is for one workload. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from msgspec import Struct, structs

from agent.mesh.authentication import PeerAuthentication
from agent.mesh.authorization import AuthorizationPolicy
from agent.mesh.mixer import Fetched, ListKind, PolicyRule, for_workload
from agent.mesh.mixer_logs import LogRule, logs_for_workload
from agent.mesh.mixer_metrics import MetricRule, metrics_for_workload
from agent.mesh.service import Labels, ServiceKey, Workload
from agent.mesh.tokens import RequestAuthentication, TokenRule


class WorkloadRules(Struct, frozen=True):
    """What is for one workload, beside what its ports accept."""

    authorizations: tuple[AuthorizationPolicy, ...] = ()
    tokens: tuple[RequestAuthentication, ...] = ()
    policies: tuple[PolicyRule, ...] = ()
    """Mixer's, folded: what is left open of them is the request's and its caller's."""
    logs: tuple[LogRule, ...] = ()
    """What Mixer's rules write, folded too."""
    metrics: tuple[MetricRule, ...] = ()
    """And what they measure."""

    @property
    def token_rules(self) -> tuple[TokenRule, ...]:
        """Return the rules about tokens, all together."""
        return tuple(rule for each in self.tokens for rule in each.rules)


class SecurityRules(Struct, frozen=True):
    """Each kind in order of namespace and name."""

    peers: tuple[PeerAuthentication, ...] = ()
    authorizations: tuple[AuthorizationPolicy, ...] = ()
    tokens: tuple[RequestAuthentication, ...] = ()
    policies: tuple[PolicyRule, ...] = ()
    logs: tuple[LogRule, ...] = ()
    metrics: tuple[MetricRule, ...] = ()

    def key_sets(self, workloads: Collection[Workload], root: str) -> dict[str, float]:
        """Return the addresses of the key sets that these want fetched, and how long that may take, in seconds."""
        covered = (
            each
            for each in self.tokens
            if any(each.target.covers(workload.service, workload.labels, root) for workload in workloads)
        )
        found: dict[str, float] = {}
        for rule in (rule for each in covered for rule in each.rules if rule.keys_uri and not rule.keys):
            found[rule.keys_uri] = max(rule.timeout, found.get(rule.keys_uri, 0.0))
        return found

    def lists(self, workloads: Collection[Workload], root: str) -> dict[str, tuple[float, frozenset[ListKind]]]:
        """Return by their addresses the lists that Mixer's rules want, how often (in seconds), and read as what."""
        found: dict[str, tuple[float, frozenset[ListKind]]] = {}
        for kind, source in (each for rule in self._near(workloads, root) for each in rule.fetching):
            seconds, kinds = found.get(source.uri, (source.refresh_seconds, frozenset()))
            found[source.uri] = min(seconds, source.refresh_seconds), kinds | {kind}
        return found

    def with_lists(self, fetched: Fetched) -> SecurityRules:
        """Return the same rules with the entries of lists that have been fetched."""
        if not any(True for rule in self.policies for _ in rule.fetching):
            return self
        return structs.replace(self, policies=tuple(rule.with_lists(fetched) for rule in self.policies))

    def _near(self, workloads: Collection[Workload], root: str) -> Iterator[PolicyRule]:
        namespaces = {root, *(workload.service.namespace for workload in workloads)}
        return (rule for rule in self.policies if workloads and rule.origin.namespace in namespaces)

    def of_workload(self, service: ServiceKey, labels: Labels, root: str) -> WorkloadRules:
        """Return what is for a workload."""
        return WorkloadRules(
            tuple(each for each in self.authorizations if each.target.covers(service, labels, root)),
            tuple(each for each in self.tokens if each.target.covers(service, labels, root)),
            for_workload(self.policies, service, labels, root) if self.policies else (),
            logs_for_workload(self.logs, service, labels, root) if self.logs else (),
            metrics_for_workload(self.metrics, service, labels, root) if self.metrics else (),
        )
