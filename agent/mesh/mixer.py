"""What Mixer's rules decide about requests and connections: denials, lists, quotas. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

from msgspec import Struct, structs

from agent.mesh.expressions.evaluate import fold
from agent.mesh.expressions.tree import Attribute, Expression, Literal, Nothing, Type, Value
from agent.mesh.names import qualified_hosts
from agent.mesh.routes import ObjectRef
from agent.mesh.service import Identity, Labels, ServiceKey

TRUE = Literal(True, Type.BOOL)

PERMISSION_DENIED, NOT_FOUND, RESOURCE_EXHAUSTED, FAILED_PRECONDITION = 7, 5, 8, 9
"""Codes of google.rpc.Code."""


class Status(Struct, frozen=True):
    """Why a request is refused."""

    code: int
    """google.rpc.Code."""
    message: str


class Denial(Struct, frozen=True):
    """Every request that the rule is for is refused."""

    handler: str
    """`NAME.KIND.NAMESPACE`."""
    status: Status


class ListKind(StrEnum):
    """What the entries of a list are."""

    STRINGS = "STRINGS"
    CASE_INSENSITIVE_STRINGS = "CASE_INSENSITIVE_STRINGS"
    IP_ADDRESSES = "IP_ADDRESSES"
    """Addresses and ranges."""
    REGEX = "REGEX"


class ListCheck(Struct, frozen=True):
    """A request is refused whose value is on the list, or (no blacklist) is not."""

    handler: str
    value: Expression
    kind: ListKind
    entries: tuple[str, ...]
    blacklist: bool


class Limit(Struct, frozen=True):
    """So many requests in a time, for each tuple of the dimensions' values."""

    amount: int
    seconds: float
    dimensions: tuple[tuple[str, str], ...] = ()
    """For requests with these values alone."""


class Quota(Struct, frozen=True):
    """A request is refused that is one too many."""

    handler: str
    name: str
    """`NAME.quota.NAMESPACE`."""
    dimensions: tuple[tuple[str, Expression], ...]
    limits: tuple[Limit, ...]
    """The first one that a request's dimensions fit counts; the last one is for all."""


Check = Denial | ListCheck | Quota


class PolicyRule(Struct, frozen=True):
    """One rule: when it holds, its checks are made."""

    origin: ObjectRef
    match: Expression
    checks: tuple[Check, ...]
    """In the rule's order."""

    def within(self, known: Mapping[str, Value | None]) -> PolicyRule | None:
        """Return what is left of it where this much is known (None: absent); None if it never holds."""
        match = _folded(self.match, known)
        if isinstance(match, Nothing) or match == Literal(False, Type.BOOL):
            return None
        return PolicyRule(self.origin, match, tuple(_check_within(check, known) for check in self.checks))


def _check_within(check: Check, known: Mapping[str, Value | None]) -> Check:
    match check:
        case ListCheck():
            return structs.replace(check, value=_folded(check.value, known))
        case Quota():
            dimensions = tuple((name, _folded(value, known)) for name, value in check.dimensions)
            return structs.replace(check, dimensions=dimensions)
        case Denial():
            return check


def _folded(expression: Expression, known: Mapping[str, Value | None]) -> Expression:
    def ask(attribute: Attribute) -> Value | Expression | None:
        return known.get(attribute.name, attribute)

    return fold(expression, ask)


def workload_attributes(
    side: str, service: ServiceKey, labels: Labels, identity: Identity | None = None, trust_domain: str = ""
) -> dict[str, Value | None]:
    """Return the attributes of one side (`source`, `destination`) that its registration says."""
    host = qualified_hosts(service)[-1]
    found: dict[str, Value | None] = {
        "labels": dict(labels),
        "service": host,
        "service.host": host,
        "service.name": service.name,
        "service.namespace": service.namespace,
        "name": service.name,
        "namespace": service.namespace,
        "workload.name": service.name,
        "workload.namespace": service.namespace,
    }
    if identity is not None:
        user = f"{trust_domain}/{identity.path}"
        found |= {"user": user, "principal": user, "serviceAccount": identity.service_account}
    return {f"{side}.{name}": value for name, value in found.items()}


def for_workload(rules: Iterable[PolicyRule], service: ServiceKey, labels: Labels, root: str) -> tuple[PolicyRule, ...]:
    """Return what rules say of requests to a workload: those of its own and of the root namespace."""
    known = workload_attributes("destination", service, labels)
    near = (rule for rule in rules if rule.origin.namespace in (service.namespace, root))
    return tuple(left for rule in near if (left := rule.within(known)) is not None)
