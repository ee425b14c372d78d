"""All rules about who may talk to whom, as a snapshot has them, and what of them is for one workload. Pure."""

from __future__ import annotations

from msgspec import Struct

from agent.mesh.authentication import PeerAuthentication
from agent.mesh.authorization import AuthorizationPolicy
from agent.mesh.service import Labels, ServiceKey
from agent.mesh.tokens import RequestAuthentication, TokenRule


class WorkloadRules(Struct, frozen=True):
    """What is for one workload, beside what its ports accept."""

    authorizations: tuple[AuthorizationPolicy, ...] = ()
    tokens: tuple[RequestAuthentication, ...] = ()

    @property
    def token_rules(self) -> tuple[TokenRule, ...]:
        """Return the rules about tokens, all together."""
        return tuple(rule for each in self.tokens for rule in each.rules)


class SecurityRules(Struct, frozen=True):
    """Each kind in order of namespace and name."""

    peers: tuple[PeerAuthentication, ...] = ()
    authorizations: tuple[AuthorizationPolicy, ...] = ()
    tokens: tuple[RequestAuthentication, ...] = ()

    def of_workload(self, service: ServiceKey, labels: Labels, root: str) -> WorkloadRules:
        """Return what is for a workload."""
        return WorkloadRules(
            tuple(each for each in self.authorizations if each.target.covers(service, labels, root)),
            tuple(each for each in self.tokens if each.target.covers(service, labels, root)),
        )
