"""What Mixer's rules decide about requests and connections: denials, lists, quotas. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum

from msgspec import Struct, structs

from agent.mesh.expressions.evaluate import fold
from agent.mesh.expressions.tree import Attribute, Expression, Literal, Nothing, Type, Value
from agent.mesh.mixer_vocabulary import UNKNOWN
from agent.mesh.names import qualified_hosts
from agent.mesh.routes import ObjectRef
from agent.mesh.service import Identity, Labels, ServiceKey

TRUE = Literal(True, Type.BOOL)

PERMISSION_DENIED, NOT_FOUND, RESOURCE_EXHAUSTED, FAILED_PRECONDITION, INTERNAL = 7, 5, 8, 9, 13
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


class ListSource(Struct, frozen=True):
    """Where a list is fetched from."""

    uri: str
    refresh_seconds: float


class ListCheck(Struct, frozen=True):
    """A request is refused whose value is on the list, or (no blacklist) is not."""

    handler: str
    value: Expression
    kind: ListKind
    entries: tuple[str, ...]
    blacklist: bool
    source: ListSource | None = None
    """Where more entries are."""
    is_missing: bool = False
    """What the source has is not known: what is not among the other entries is refused."""


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
Fetched = Callable[[str, ListKind], tuple[str, ...] | None]
"""Gives the entries that are at an address; None: nothing usable has been had."""


class PolicyRule(Struct, frozen=True):
    """One rule: when it holds, its checks are made."""

    origin: ObjectRef
    match: Expression
    checks: tuple[Check, ...]
    """In the rule's order."""

    def within(self, known: Mapping[str, Value | None]) -> PolicyRule | None:
        """Return what is left of it where this much is known (None: absent); None if it never holds."""
        match = folded(self.match, known)
        if isinstance(match, Nothing) or match == Literal(False, Type.BOOL):
            return None
        return PolicyRule(self.origin, match, tuple(_check_within(check, known) for check in self.checks))

    def with_lists(self, fetched: Fetched) -> PolicyRule:
        """Return it with the entries that its lists' sources have."""
        return PolicyRule(self.origin, self.match, tuple(_with_list(check, fetched) for check in self.checks))

    @property
    def fetching(self) -> Iterator[tuple[ListKind, ListSource]]:
        """Yield the lists that are to be fetched, and what their entries are."""
        for check in self.checks:
            if isinstance(check, ListCheck) and check.source:
                yield check.kind, check.source


def _with_list(check: Check, fetched: Fetched) -> Check:
    if not isinstance(check, ListCheck) or check.source is None:
        return check
    more = fetched(check.source.uri, check.kind)
    return check if more is None else structs.replace(check, entries=(*check.entries, *more), is_missing=False)


def _check_within(check: Check, known: Mapping[str, Value | None]) -> Check:
    match check:
        case ListCheck():
            return structs.replace(check, value=folded(check.value, known))
        case Quota():
            dimensions = tuple((name, folded(value, known)) for name, value in check.dimensions)
            return structs.replace(check, dimensions=dimensions)
        case Denial():
            return check


def folded(expression: Expression, known: Mapping[str, Value | None]) -> Expression:
    """Return what is left of an expression where this much is known (None: absent)."""

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
    known = dict.fromkeys(UNKNOWN) | workload_attributes("destination", service, labels)
    near = (rule for rule in rules if rule.origin.namespace in (service.namespace, root))
    return tuple(left for rule in near if (left := rule.within(known)) is not None)
