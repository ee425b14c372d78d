"""What is left of a document whose fields cannot all be enforced: never more than the operator meant."""

from __future__ import annotations

from typing import Any

import pytest

from agent.api.document import to_json
from agent.api.enforce import enforceable
from agent.api.lowering.lower import lower
from agent.api.validate import find_problems, is_invalid
from agent.mesh.names import config_key
from agent.mesh.service import ServiceKey
from agent.runtime.rulebook import RuleBook
from tests.unit.api_samples import one

HEAD = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: x}\nspec:\n  hosts: [reviews]\n"
OLD = "apiVersion: config.istio.io/v1alpha2\nkind: RouteRule\nmetadata: {name: x}\nspec:\n"
TO_V1 = "route: [{destination: {host: reviews, port: {number: 1}}}]"
TO_V2 = "route: [{destination: {host: reviews, port: {number: 2}}}]"
UNCHECKED = "{headers: {uri: {exact: a}}}"
REVIEWS = ServiceKey("default", "reviews")


def ports(spec: Any) -> list[int]:
    return [route["route"][0]["destination"]["port"]["number"] for route in spec["http"]]


@pytest.mark.parametrize(
    ("http", "left"),
    [
        (f"[{{redirect: {{uri: /y, redirectCode: 305}}}}, {{{TO_V2}}}]", [2]),
        (f"[{{match: [{UNCHECKED}], {TO_V1}}}, {{{TO_V2}}}]", [2]),
        (
            f"[{{match: [{UNCHECKED}, {{port: 1, headers: {{uri: {{exact: a}}}}}}], {TO_V1}}}, {{{TO_V2}}}]",
            [2],
        ),
        (f"[{{match: [{UNCHECKED}, {{uri: {{prefix: /a}}}}], {TO_V1}}}, {{{TO_V2}}}]", [1, 2]),
    ],
)
def test_a_condition_that_cannot_be_checked_never_holds(http: str, left: list[int]) -> None:
    enforced = enforceable(one(f"{HEAD}  http: {http}\n"))
    assert enforced.document is not None
    assert ports(enforced.document.spec) == left
    assert find_problems(enforced.document) == []
    assert all("the rest of it is in force" in reason for reason in enforced.reasons)


def test_of_several_matches_the_checkable_ones_stay() -> None:
    match = f"[{UNCHECKED}, {{uri: {{prefix: /a}}}}]"
    enforced = enforceable(one(f"{HEAD}  http: [{{match: {match}, {TO_V1}}}]\n"))
    assert enforced.document is not None
    assert enforced.document.spec["http"][0]["match"] == [{"uri": {"prefix": "/a"}}]


@pytest.mark.parametrize(
    "text",
    [
        f"{HEAD}  http: [{{match: [{UNCHECKED}], {TO_V1}}}]\n",
        f"{OLD}  destination: {{service: 10.0.0.0/8}}\n",
        f"{OLD}  destination: {{service: '*'}}\n",
        "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: x}\nspec: {network: n}\n",
    ],
)
def test_a_document_about_something_else_has_no_effect(text: str) -> None:
    document = one(text)
    assert not is_invalid(find_problems(document))
    enforced = enforceable(document)
    assert enforced.document is None
    assert enforced.reasons
    assert all("it has no effect" in reason for reason in enforced.reasons)


def test_an_agent_enforces_the_rest_and_says_what_it_left_out() -> None:
    document = one(f"{HEAD}  http: [{{redirect: {{uri: /y, redirectCode: 305}}}}, {{{TO_V2}}}]\n")
    key = config_key("default", "VirtualService", "x")
    book = RuleBook()
    book.update({key: (1, to_json(document))})
    assert book.faults == ()
    lowered = lower(book.documents.values(), [REVIEWS])
    assert len(lowered.policies[REVIEWS].routes) == 1
    (fault,) = lowered.faults
    assert fault.subject == "VirtualService/x.default"
    assert "spec.http[0].redirect: redirectCode 305 cannot be honoured" in fault.reason
    assert "the rest of it is in force" in fault.reason


def test_an_invalid_document_keeps_its_last_good_form() -> None:
    key = config_key("default", "VirtualService", "x")
    book = RuleBook()
    book.update({key: (1, to_json(one(f"{HEAD}  http: [{{{TO_V1}}}]\n")))})
    book.update({key: (2, to_json(one(f"{HEAD}  http: [{{route: []}}]\n")))})
    assert ports(next(iter(book.documents.values())).spec) == [1]
    assert "its last good form serves on" in book.faults[0].reason
