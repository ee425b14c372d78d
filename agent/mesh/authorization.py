"""Who may call what: AuthorizationPolicy, as rules say it. Pure.

A rule holds if one of its sources, one of its operations and all its conditions hold. All of these are terms about one
attribute, in the vocabulary of `when`; what a source or an operation says has the name that a condition would use.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from agent.mesh.gateway import selects_gateway
from agent.mesh.routes import ObjectRef
from agent.mesh.service import Labels, ServiceKey
from agent.mesh.settings import ROOT_NAMESPACE

HOST, METHOD, PATH = "request.host", "request.method", "request.path"
"""What operations say and conditions cannot."""


class Action(StrEnum):
    """What becomes of requests and connections that a policy is about."""

    CUSTOM = "CUSTOM"
    """An authorizer is asked."""
    AUDIT = "AUDIT"
    """They are logged."""
    DENY = "DENY"
    ALLOW = "ALLOW"


class Target(Struct, frozen=True):
    """The workloads that a policy is for."""

    namespace: str
    """The policy's own; the root namespace's policies are for all."""
    selector: Labels = ()
    services: tuple[str, ...] = ()
    """Names of services of this namespace (targetRefs); (): the selector says it."""

    def covers(self, service: ServiceKey, labels: Labels, root: str = ROOT_NAMESPACE) -> bool:
        """Tell whether it is for a workload of that service with these labels."""
        if self.services:
            return self.namespace == service.namespace and service.name in self.services
        return self.namespace in (service.namespace, root) and selects_gateway(self.selector, labels)


class Term(Struct, frozen=True):
    """A condition on one attribute: one of the values, and none of the excluded ones. (): any."""

    attribute: str
    values: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()


class AuthorizationRule(Struct, frozen=True):
    """One rule of a policy. (): any source, any operation."""

    sources: tuple[tuple[Term, ...], ...] = ()
    operations: tuple[tuple[Term, ...], ...] = ()
    conditions: tuple[Term, ...] = ()


class AuthorizationPolicy(Struct, frozen=True):
    """One AuthorizationPolicy object. Without rules it is about nothing: an ALLOW policy then allows nothing."""

    origin: ObjectRef
    action: Action
    target: Target
    rules: tuple[AuthorizationRule, ...] = ()
    provider: str = ""
    """Of CUSTOM: which of the mesh's `extensionProviders`."""
    dry_run: bool = False
    """Nothing is refused; what would be is counted and logged."""
