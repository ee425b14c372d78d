"""Says what is wrong with a rule document: its kind, its apiVersion, and its spec by the kind's schema.

Verdicts: valid (no problem), invalid (an INVALID problem), valid but not enforceable here (only UNSUPPORTED ones).
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import structs

from agent.api.checks.schema import Check, Report, normal_of
from agent.api.envelope import Document
from agent.api.kinds import KINDS_BY_NAME, kind_named, supported_kinds
from agent.api.known_kinds import KNOWN_SPECS, check_metadata
from agent.api.problem import Problem, Verdict, nearest, one_line
from agent.api.specs import destination_policy, destination_rule, route_rule, virtual_service

_SPECS: dict[str, Check] = {
    **KNOWN_SPECS,
    "RouteRule": route_rule.SPEC,
    "DestinationPolicy": destination_policy.SPEC,
    "VirtualService": virtual_service.SPEC,
    "DestinationRule": destination_rule.SPEC,
}


def in_usual_spelling(document: Document) -> Document:
    """Return the document with its spec's numbers as numbers: Istio's kinds are protobuf's, whose JSON takes quotes."""
    kind = KINDS_BY_NAME.get(document.kind)
    if document.kind not in _SPECS or kind is None or kind.verbatim:
        return document
    return structs.replace(document, spec=normal_of(_SPECS[document.kind])(document.spec))


def validate(document: Document) -> list[str]:
    """Return one `FILE:LINE: Kind/name: path: reason (what is allowed)` for each problem; none: it can be used."""
    return [describe(document, problem) for problem in find_problems(document)]


def spec_faults(document: Document) -> list[str]:
    """Return a line for each field of the spec that is invalid, of a document whose envelope is faulty."""
    problems = find_problems(document)
    return [describe(document, one) for one in problems if one.verdict is Verdict.INVALID and one.path[:4] == "spec"]


def find_problems(document: Document) -> list[Problem]:
    """Return each problem as a value, the invalid ones apart from what is not supported yet."""
    report = Report(document.namespace)
    if not _check_kind(report, document):
        return report.problems
    kind = KINDS_BY_NAME[document.kind]
    if kind.instead:
        report.unsupported("kind", f"{kind.name}: known, but not supported ({kind.instead})")
    elif not kind.supported:
        supported = ", ".join(kind.name for kind in supported_kinds())
        report.unsupported("kind", f"{kind.name}: known, but not supported yet (supported: {supported})")
    if document.kind in _SPECS:
        _SPECS[document.kind](report, "spec", document.spec)
    check_metadata(report, document)
    return report.problems


_ON_HOSTS = "applications run on hosts, which say so in services.d (take it out of the file)"
_ROUTES = "its Gateway API is not spoken here (write a VirtualService)"
_OF_KUBERNETES = {
    **dict.fromkeys(("Service", "Deployment", "StatefulSet", "DaemonSet", "Pod", "ReplicaSet"), _ON_HOSTS),
    "ServiceAccount": "an instance's account stands in services.d (take it out of the file)",
    "Namespace": "a namespace is there as soon as something is in it (take it out of the file)",
    "Secret": "a gateway's certificates are files on its host (hostmesh secret install)",
    **dict.fromkeys(("HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "ReferenceGrant", "GatewayClass"), _ROUTES),
}
"""What stands beside Istio's kinds in files from its documentation → what to do here."""


def is_invalid(problems: Iterable[Problem]) -> bool:
    """Tell whether a document with these problems is invalid, rather than valid but not enforceable here."""
    return any(problem.verdict is Verdict.INVALID for problem in problems)


def spec_check(kind: str) -> Check | None:
    """Return the check of a kind's spec, or None if only its envelope is known."""
    return _SPECS.get(kind)


def describe(document: Document, problem: Problem) -> str:
    """Return the problem as one line."""
    path = f"{problem.path}: " if problem.path else ""
    return f"{document.place(problem.path)}: {path}{problem.reason}"


def _check_kind(report: Report, document: Document) -> bool:
    """Check kind and apiVersion; tell whether it is a kind of ours, so that the spec is worth looking at."""
    kind = KINDS_BY_NAME.get(document.kind)
    if kind is None:
        report.invalid("kind", _unknown_kind(document.kind, document.api_version))
        return False
    if document.api_version in kind.api_versions:
        return True
    version, allowed = one_line(document.api_version, 60), ", ".join(kind.api_versions)
    report.invalid("apiVersion", f'"{version}" is not one of {kind.name}\'s ({allowed})')
    return not document.api_version or _group(document.api_version) in map(_group, kind.api_versions)


def _group(api_version: str) -> str:
    return api_version.rpartition("/")[0]


def _unknown_kind(name: str, api_version: str) -> str:
    if "istio.io" not in api_version and (instead := _OF_KUBERNETES.get(name)):
        return f"{name} is Kubernetes' own: {instead}"
    kind = kind_named(name)
    near = f" (did you mean {kind.name}?)" if kind else nearest(name, KINDS_BY_NAME)
    known = ", ".join(kind.name for kind in supported_kinds())
    return f'"{one_line(name, 60)}" is unknown{near or f" (known: {known})"}'
