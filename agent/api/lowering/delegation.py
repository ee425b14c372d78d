"""Delegates: the http routes of a VirtualService with those that it delegates to in their place. Pure.

The root says which requests; a delegate's routes are narrowed to these, and take what they don't say themselves from
the root's route. One that contradicts the root never holds and is left out, as is a route whose delegate is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from agent.api.envelope import Document
from agent.api.lowering.exported import exported_to
from agent.api.lowering.gateway import matches_through
from agent.mesh.routes import ObjectRef

Delegates = Mapping[ObjectRef, Document]
"""The VirtualServices without hosts, by name."""
_Match = Mapping[str, Any]


class Problem(Struct, frozen=True):
    """Why a delegate's route, or all of them, are left out."""

    path: str
    """In the root."""
    reason: str
    contradicts: bool = False
    """The delegate is there, but not for what the root gives it."""


class OwnedRoute(Struct, frozen=True):
    """An http route as it applies, and whose words its destinations are."""

    name: str
    route: Mapping[str, Any]
    """Its matches hold through the gateway that was asked for, and name none."""
    namespace: str
    """In which short names are looked up."""


def is_delegate(document: Document) -> bool:
    """Tell whether a VirtualService is for roots to name: it has no hosts."""
    return not document.spec.get("hosts")


def named_delegates(document: Document) -> tuple[ObjectRef, ...]:
    """Return the delegates that a root names."""
    routes = document.spec.get("http") or ()
    return tuple(dict.fromkeys(_named(document, route["delegate"]) for route in routes if route.get("delegate")))


def owned_routes(
    document: Document, delegates: Delegates, gateway: ObjectRef | None, problems: list[Problem]
) -> Iterator[OwnedRoute]:
    """Yield the http routes of requests through a gateway (None: within the mesh), adding what is left out, and why."""
    for index, route in enumerate(document.spec.get("http") or ()):
        matches = matches_through(route.get("match") or (), document.namespace, gateway)
        if route.get("match") and not matches:
            continue
        name, narrowed = route.get("name") or str(index), {**route, "match": matches}
        if not route.get("delegate"):
            yield OwnedRoute(name, narrowed, document.namespace)
            continue
        reference = _named(document, route["delegate"])
        delegate = delegates.get(reference)
        if delegate is None or not _sees(document, delegate):
            reason = "it is not there, has hosts of its own, or is not exported to this namespace"
            text = f"{reference} cannot be had, so the route is left out: {reason}"
            problems.append(Problem(f"spec.http[{index}].delegate", text))
            continue
        yield from _delegated(index, narrowed, delegate, gateway, problems)


def _named(document: Document, delegate: Mapping[str, Any]) -> ObjectRef:
    return ObjectRef("VirtualService", delegate.get("namespace") or document.namespace, delegate["name"])


def _sees(root: Document, delegate: Document) -> bool:
    exported = exported_to(delegate)
    return not exported or root.namespace in exported


def _delegated(
    index: int, root: Mapping[str, Any], delegate: Document, gateway: ObjectRef | None, problems: list[Problem]
) -> Iterator[OwnedRoute]:
    for number, route in enumerate(delegate.spec.get("http") or ()):
        leaves = matches_through(route.get("match") or (), delegate.namespace, gateway)
        if route.get("match") and not leaves:
            continue
        matches = merged_matches(root["match"], leaves)
        if matches is None:
            reason = f"it is for requests that spec.http[{index}].match is not for"
            text = f"spec.http[{number}] of {delegate.ref} is left out: {reason}"
            problems.append(Problem(f"spec.http[{index}].delegate", text, contradicts=True))
            continue
        names = [name for name in (root.get("name"), route.get("name")) if name]
        name = "-".join(names) or f"{index}-{number}"
        yield OwnedRoute(name, {**_inherited(root, route), "match": matches}, delegate.namespace)


_ANSWERS = ("redirect", "directResponse")
_OF_ANSWERS = ("corsPolicy", "headers")
_OF_ROUTES = ("rewrite", "timeout", "retries", "fault", *_OF_ANSWERS)


def _inherited(root: Mapping[str, Any], route: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a delegate's route with what it leaves to the root; an answer takes nothing that is about a way on."""
    is_answer = any(route.get(answer) for answer in _ANSWERS)
    taken = {key: root[key] for key in (_OF_ANSWERS if is_answer else _OF_ROUTES) if key in root}
    if not is_answer:
        for group in (("mirror", "mirrors"), ("mirrorPercent", "mirrorPercentage")):
            if not any(key in route for key in group):
                taken.update({key: root[key] for key in group if key in root})
    return {**taken, **route}


def merged_matches(roots: Sequence[_Match], leaves: Sequence[_Match]) -> list[_Match] | None:
    """Return the matches that hold where one of each list does; None: one of the delegate's is not within the root's.

    (Istio's pilot, mergeHTTPMatchRequests.)
    """
    if not roots or not leaves:
        return [*roots, *leaves]
    merged: list[_Match] = []
    for leaf in leaves:
        found = [both for root in roots if (both := _merged(root, leaf)) is not None]
        if not found:
            return None
        merged += found
    return merged


_ALONE = ("uri", "scheme", "method", "authority")
_BY_NAME: tuple[tuple[str, Callable[[str], str]], ...] = (("headers", str.lower), ("queryParams", str))


def _merged(root: _Match, leaf: _Match) -> _Match | None:
    """Return the match that holds where both do; None: they contradict each other, or the delegate's is wider."""
    if root.get("uri") and leaf.get("uri") and _ignores_case(root) != _ignores_case(leaf):
        return None
    merged: dict[str, Any] = {**root, **leaf, "ignoreUriCase": _ignores_case(leaf if leaf.get("uri") else root)}
    try:
        for field in _ALONE:
            merged[field] = _narrower(root.get(field), leaf.get(field), field == "uri" and _ignores_case(leaf))
        for field, same in _BY_NAME:
            merged[field] = _all_narrower(root.get(field) or {}, leaf.get(field) or {}, same)
        for field in ("withoutHeaders", "sourceLabels"):
            merged[field] = _both(root.get(field) or {}, leaf.get(field) or {})
        for field in ("port", "sourceNamespace"):
            merged[field] = _same(root.get(field) or None, leaf.get(field) or None)
    except _Contradiction:
        return None
    return merged


class _Contradiction(Exception):
    """Nothing can satisfy both, or it can't be told."""


def _ignores_case(match: _Match) -> bool:
    return bool(match.get("ignoreUriCase"))


def _narrower(root: Any, leaf: Any, ignore_case: bool = False) -> Any:
    """Return the comparison of the delegate, if it lies within the root's; raises _Contradiction."""
    if not root or not leaf or root == leaf:
        return leaf or root
    if "exact" in leaf or "prefix" in leaf:
        value, wanted = leaf.get("exact", leaf.get("prefix")), root.get("prefix")
        if wanted is not None and _begins(value, wanted, ignore_case):
            return leaf
    raise _Contradiction


def _begins(value: str, wanted: str, ignore_case: bool) -> bool:
    return value.lower().startswith(wanted.lower()) if ignore_case else value.startswith(wanted)


def _all_narrower(root: Mapping[str, Any], leaf: Mapping[str, Any], same: Callable[[str], str]) -> dict[str, Any]:
    """Return the conditions of both; `same` is what names are compared by."""
    named = {same(name) for name in leaf}
    merged = {name: match for name, match in root.items() if same(name) not in named}
    for name, match in leaf.items():
        for other in (root[key] for key in root if same(key) == same(name)):
            match = _narrower(other, match)
        merged[name] = match
    return merged


def _both(root: Mapping[str, Any], leaf: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**root, **{key: _same(root.get(key), value) for key, value in leaf.items()}}


def _same(root: Any, leaf: Any) -> Any:
    if root is not None and leaf is not None and root != leaf:
        raise _Contradiction
    return root if leaf is None else leaf
