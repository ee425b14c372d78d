"""Mixer's rules with expressions drawn at random (tests/drawn_expressions), as far as they are enforceable."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from agent.api.envelope import Document
from agent.api.lowering.mixer import lower_rule
from agent.api.validate import find_problems
from agent.mesh.expressions.tree import Type
from agent.mesh.mixer import PolicyRule, for_workload
from agent.mesh.service import Identity, Labels, ServiceKey
from agent.translate.mixer_notes import Callers
from agent.translate.mixer_peers import alike
from tests.drawn_expressions import Drawer
from tests.unit.api_samples import one

SERVER, LABELS = ServiceKey("default", "ratings"), (("app", "ratings"), ("version", "v1"))
CALLER = Identity("default", "reviews")
CALLER_SERVICE = ServiceKey("default", "reviews")
CALLER_LABELS: Labels = (("app", "reviews"), ("version", "v3"))
DOMAIN = "mesh.test"
CALLERS = Callers(
    alike(
        [
            ("127.0.0.1", CALLER, CALLER_SERVICE, CALLER_LABELS),
            ("127.0.0.2", Identity("default", "other"), ServiceKey("default", "other"), (("app", "reviews"),)),
        ]
    ),
    (DOMAIN,),
)
_TYPES = (Type.STRING, Type.BOOL, Type.STRING, Type.INT64, Type.IP_ADDRESS, Type.TIMESTAMP)
_LISTS: tuple[dict[str, Any], ...] = (
    {"overrides": ["a", "v3", f"{DOMAIN}/{CALLER.path}", ""]},
    {"overrides": ["A", "ä", "a.b", f"{DOMAIN}/{CALLER.path}".upper()], "entryType": "CASE_INSENSITIVE_STRINGS"},
    {"overrides": ["^a", "v[23]", f"^{DOMAIN}/ns/[^/]+/sa/(reviews|x)$"], "entryType": "REGEX"},
    {"overrides": [], "blacklist": True},
    {"overrides": ["10.0.0.0/8", "::1", "127.0.0.1"], "entryType": "IP_ADDRESSES", "blacklist": True},
)


class Drawn(Struct, frozen=True):
    """A rule of one check."""

    written: tuple[str, ...]
    """Its expressions."""
    lowered: PolicyRule

    @property
    def here(self) -> tuple[PolicyRule, ...]:
        """Return it as it is for the server."""
        return for_workload((self.lowered,), SERVER, LABELS, "istio-system")


def drawn_rules(seed: int, count: int) -> Iterator[Drawn]:
    """Yield so many rules that are enforced as they stand: a third each denies, looks up on a list, counts."""
    drawer, number, found = Drawer(seed), 0, 0
    while found < count:
        number += 1
        written, documents, action = _PARTS[number % 3](drawer, number // 3)
        match = {} if number % 3 == 1 else {"match": written[0]}
        rule = _document("rule", f"r{number}", {**match, "actions": [action]})
        if any(find_problems(document) for document in (rule, *documents)):
            continue
        lowered = lower_rule(rule, {document.ref: document for document in documents}.get)
        assert lowered.rule is not None
        found += 1
        yield Drawn(written, lowered.rule)


_Parts = tuple[tuple[str, ...], list[Document], dict[str, Any]]


def _denial(drawer: Drawer, _number: int) -> _Parts:
    documents = [_document("denier", "x", {"status": {"code": 7}}), _document("checknothing", "x", {})]
    return (drawer.draw(),), documents, {"handler": "x.denier", "instances": ["x.checknothing"]}


def _look_up(drawer: Drawer, number: int) -> _Parts:
    value = drawer.draw(_TYPES[number % len(_TYPES)], 3)
    listed = _document("listchecker", "x", _LISTS[number % len(_LISTS)])
    documents = [listed, _document("listentry", "x", {"value": value})]
    return (value,), documents, {"handler": "x.listchecker", "instances": ["x.listentry"]}


def _quota(drawer: Drawer, number: int) -> _Parts:
    match, first, second = drawer.draw(), drawer.draw(_TYPES[number % len(_TYPES)], 3), drawer.draw(Type.STRING, 3)
    limits = [{"dimensions": {"a": value}, "maxAmount": 0, "validDuration": "1s"} for value in ("a", f"{DOMAIN}/x")]
    limits[1]["dimensions"] = {"a": f"{DOMAIN}/{CALLER.path}"}
    quotas = [{"name": "x.quota", "maxAmount": 5, "validDuration": "1s", "overrides": limits}]
    documents = [
        _document("quota", "x", {"dimensions": {"a": first, "b": second}}),
        _document("memquota", "x", {"quotas": quotas}),
    ]
    return (match, first, second), documents, {"handler": "x.memquota", "instances": ["x.quota"]}


_PARTS = (_denial, _look_up, _quota)


def _document(kind: str, name: str, spec: dict[str, Any]) -> Document:
    whole = {
        "apiVersion": "config.istio.io/v1alpha2",
        "kind": kind,
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }
    return one(json.dumps(whole))
