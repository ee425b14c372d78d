"""All rules about who may talk to whom, as a snapshot has them, and what of them is for one workload. Pure."""

from __future__ import annotations

from msgspec import Struct

from agent.mesh.authentication import PeerAuthentication
from agent.mesh.authorization import AuthorizationPolicy
from agent.mesh.service import Labels, ServiceKey


class WorkloadRules(Struct, frozen=True):
    """What is for one workload, beside what its ports accept."""

    namespace: str = ""
    """The workload's."""
    authorizations: tuple[AuthorizationPolicy, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Tell whether nothing is for it."""
        return not self.authorizations


class SecurityRules(Struct, frozen=True):
    """Each kind in order of namespace and name."""

    peers: tuple[PeerAuthentication, ...] = ()
    authorizations: tuple[AuthorizationPolicy, ...] = ()

    def of_workload(self, service: ServiceKey, labels: Labels, root: str) -> WorkloadRules:
        """Return what is for a workload."""
        return WorkloadRules(
            service.namespace,
            tuple(each for each in self.authorizations if each.target.covers(service, labels, root)),
        )
