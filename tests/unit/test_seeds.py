"""Every Istio YAML of the seed documents, where the folder with them exists: its verdict, and what its rules mean.

Their quirks (a scalar header value, a route with a weight only, `config.istio.io/v1beta1`, what YAML refuses …) are
also tested with rules of our own, here and in test_api_lower.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.api.document import Document, merge_documents, read_documents
from agent.api.lowering.lower import lower
from agent.api.validate import find_problems, is_invalid, validate
from agent.mesh.routes import HttpMatch, Route, StringMatch
from agent.mesh.service import ServiceKey, labels_text

SEEDS = Path(__file__).parents[3] / "shared" / "seeds"
HERE = pytest.mark.skipif(not SEEDS.is_dir(), reason="the folder with the seed documents is not here")
SERVICES = [ServiceKey("default", name) for name in ("productpage", "details", "reviews", "ratings", "httpbin")]
_BEGIN = re.compile(r"^( *)apiVersion: *(?:[a-z.]*istio\.io|extensions)/")
_END = ("EOF", "```", "~~~", "")
JASON = "cookie~^(.*?;)?(user=jason)(;.*)?$"


def blocks() -> Iterator[str]:
    """Yield each stretch of lines that begins as an Istio document does, up to an empty line or the end of its box."""
    for file in sorted(SEEDS.glob("*.txt")):
        block: list[str] | None = None
        indent = ""
        for line in [*file.read_text().split("\n"), ""]:
            if block is None and (begins := _BEGIN.match(line)):
                block, indent = [], begins[1]
            if block is None:
                continue
            if line.strip() in _END or not line.startswith(indent):
                yield "\n".join(block) + "\n"
                block = None
            else:
                block.append(line.rstrip()[len(indent) :])


def mended(text: str) -> str:
    """Return a block without the dots that stand for something left out, with `*` quoted and the kind written."""
    text = re.sub(r"^ *\.\.\.\n", "", text, flags=re.MULTILINE)
    text = re.sub(r": (\*\S+)", r': "\1"', text)
    if "kind:" not in text:
        text = text.replace("metadata:", "kind: DestinationPolicy\nmetadata:", 1)
    return text


def traffic_documents() -> list[Document]:
    """Return the mended documents about traffic (Mixer's and Kubernetes' are another matter)."""
    found = []
    for block in blocks():
        documents, problems = read_documents(mended(block), "seed", "default")
        about = [document for document in documents if document.kind in TRAFFIC]
        assert not about or not problems, problems
        found += about
    return found


TRAFFIC = ("RouteRule", "DestinationPolicy", "EgressRule", "Ingress")


def meaning(route: Route) -> str:
    """Return what a route does in one line."""
    parts = ["|".join(_condition(match) for match in route.matches) or "any"]
    parts += [
        f"{one.destination.service.name}[{labels_text(one.destination.subset.labels)}]*{one.weight}"
        if one.destination.subset
        else f"{one.destination.service.name}*{one.weight}"
        for one in route.destinations
    ]
    does = route.actions
    parts.append(f"within {does.timeout_seconds:g}")
    if does.retries:
        parts.append(f"retries {does.retries.attempts}")
    if does.delay:
        parts.append(f"delay {does.delay.seconds:g} of {does.delay.percent:g}%")
    if does.abort:
        parts.append(f"abort {does.abort.http_status} of {does.abort.percent:g}%")
    for mirror in route.mirrors:
        assert mirror.destination.subset
        parts.append(f"mirror {labels_text(mirror.destination.subset.labels)} of {mirror.percent:g}%")
    return " ".join(parts)


def _condition(match: HttpMatch) -> str:
    conditions = []
    if match.source:
        assert match.source.service
        conditions.append(f"{match.source.service.name}[{labels_text(match.source.labels)}]")
    conditions += [_comparison("uri", match.uri)] if match.uri else []
    conditions += [_comparison(header.name, header.match) for header in match.headers]
    return "&".join(conditions)


def _comparison(name: str, wanted: StringMatch) -> str:
    return name + {"exact": "=", "prefix": "^", "regex": "~"}[wanted.kind.value] + wanted.value


V1 = "any {0}[version=v1]*100 within 15"
MEANINGS = {
    "reviews-default": {
        V1.format("reviews"),
        "any reviews[version=v1]*50 reviews[version=v3]*50 within 15",
        "any reviews[version=v2]*100 within 15",
        "any reviews[version=v2]*100 within 1",
    },
    "reviews-to-ratings": {"reviews[] ratings*100 within 15"},
    "reviews-v2-to-ratings": {"reviews[version=v2] ratings*100 within 15"},
    "ratings-jason": {f"{JASON} reviews*100 within 15"},
    "ratings-reviews-jason": {f"reviews[version=v2]&{JASON} ratings*100 within 15"},
    "reviews-v2-rollout": {"any reviews[version=v2]*25 reviews[version=v1]*75 within 15"},
    "ratings-timeout": {"any ratings[version=v1]*100 within 10"},
    "ratings-retry": {V1.format("ratings") + " retries 3"},
    "ratings-delay": {V1.format("reviews") + " delay 5 of 10%"},
    "ratings-abort": {V1.format("ratings") + " abort 400 of 10%"},
    "ratings-delay-abort": {"reviews[version=v2] ratings[version=v1]*100 within 15 delay 5 of 100% abort 400 of 10%"},
    "reviews-foo-bar": {"foo=bar reviews[version=v2]*100 within 15"},
    "details-default": {V1.format("details")},
    "productpage-default": {V1.format("productpage")},
    "ratings-default": {V1.format("ratings"), V1.format("ratings") + " delay 2 of 100%"},
    "reviews-test-v2": {f"{JASON} reviews[version=v2]*100 within 15"},
    "ratings-test-delay": {f"{JASON} ratings[version=v1]*100 within 15 delay 7 of 100%"},
    "status-route": {"istio-ingress[istio=ingress]&uri^/delay/ httpbin*100 within 4"},
    "httpbin-default-v1": {V1.format("httpbin")},
    "mirror-traffic-to-httbin-v2": {
        "any httpbin[version=v1]*100 httpbin[version=v2]*0 within 15 mirror version=v2 of 100%"
    },
    "foo-timeout-rule": {"any *.foo.com*100 within 10"},
    "httpbin-timeout-rule": {"any httpbin.org*100 within 3"},
}


@HERE
def test_the_seeds_rules_are_valid_and_mean_what_their_text_says() -> None:
    documents = traffic_documents()
    assert len(documents) > 30
    assert [line for document in documents for line in validate(document)] == []
    hosts = [document for document in documents if document.kind == "EgressRule"]
    found: dict[str, set[str]] = {}
    for document in documents:
        if document.kind == "RouteRule":
            lowered = lower([*hosts, document], SERVICES)
            assert lowered.faults == ()
            (route,) = [route for policy in lowered.policies.values() for route in policy.routes]
            found.setdefault(document.name, set()).add(meaning(route))
    assert found == MEANINGS


@HERE
def test_all_the_seeds_policies_and_ingresses_are_in_force_together() -> None:
    """Of equal documents one is enough; where the tasks change an object, the last one is taken."""
    documents = {document.key: document for document in traffic_documents()}
    lowered = lower(documents.values(), SERVICES)
    assert {fault.subject: fault.reason for fault in lowered.faults} == {}
    assert {key.name for key in lowered.outside} == {"*.foo.com", "httpbin.org", "www.google.com"}
    assert [gateway.origin.name for gateway in lowered.ingress.gateways] == ["secure-ingress", "simple-ingress"]
    limited = [rule.origin.name for policy in lowered.policies.values() for rule in policy.connections]
    assert sorted(limited) == ["httpbin-circuit-breaker", "ratings-lb-policy", "reviews-v1-cb"]


@HERE
def test_what_the_seeds_leave_out_or_write_wrongly_gets_a_line_that_helps() -> None:
    reasons: dict[str, int] = {}
    for block in blocks():
        _, problems = read_documents(block, "seed.yaml", "default")
        if mended(block) != block and re.search(rf"^kind: ({'|'.join(TRAFFIC)})$", mended(block), re.MULTILINE):
            (line,) = problems
            reason = line.split(": ", 2)[-1]
            reasons[reason] = reasons.get(reason, 0) + 1
    dots = [reason for reason in reasons if "stands for lines left out of an example: remove it" in reason]
    stars = [reason for reason in reasons if "put the value in quotes" in reason]
    kinds = [reason for reason in reasons if "kind: is missing" in reason or reason.startswith("is missing")]
    assert (len(dots), len(stars), len(kinds)) == (1, 1, 1)
    assert len(reasons) == 3, reasons
    assert (reasons[stars[0]], reasons[kinds[0]]) == (2, 3)


@pytest.mark.parametrize(
    ("fields", "means"),
    [
        ("match: {request: {headers: {x-kind: gold}}}", "x-kind=gold reviews*100 within 15"),
        ("route: [{weight: 100}], httpReqTimeout: {simpleTimeout: {timeout: 4s}}", "any reviews*100 within 4"),
        ("httpFault: {delay: {fixedDelay: 3.500s}}", "any reviews*100 within 15 delay 3.5 of 100%"),
        ("http_fault: {abort: {http_status: 418}}", "any reviews*100 within 15 abort 418 of 100%"),
        (
            "route: [{labels: {a: x}, weight: 100}, {labels: {a: y}, weight: 0}],"
            " mirror: {name: reviews, labels: {a: y}}",
            "any reviews[a=x]*100 reviews[a=y]*0 within 15 mirror a=y of 100%",
        ),
        (
            "match: {source: {name: page, labels: {a: x}}, request: {headers: {uri: {prefix: /p}}}}",
            "page[a=x]&uri^/p reviews*100 within 15",
        ),
    ],
)
def test_what_is_special_in_the_seeds_rules(fields: str, means: str) -> None:
    text = (
        "apiVersion: config.istio.io/v1beta1\nkind: RouteRule\nmetadata: {name: a}\n"
        f"spec: {{destination: {{name: reviews}}, {fields}}}\n"
    )
    documents, problems = read_documents(text, "x.yaml", "default")
    assert problems == [line for document in documents for line in validate(document)] == []
    (policy,) = lower(documents, SERVICES).policies.values()
    assert [meaning(route) for route in policy.routes] == [means]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("metadata:\n  name: x\n  ...\nspec: {}\n", "x.yaml:3: not YAML: could not find expected ':' (neither \"key:"),
        (
            "spec:\n  service: *.foo.com\n",
            "x.yaml:2: not YAML: did not find expected alphabetic or numeric character (an",
        ),
        ("metadata:\n\tname: x\n", "x.yaml:2: not YAML: found character that cannot start any token (a value that"),
    ],
    ids=["dots", "star", "tab"],
)
def test_what_yaml_refuses_is_said_at_its_line(text: str, line: str) -> None:
    head = "" if text.startswith("apiVersion") else "apiVersion: config.istio.io/v1alpha2\n"
    number = int(line.split(":")[1])
    _, problems = read_documents(text, "x.yaml", "default")
    assert [problem[: len(line)] for problem in problems] == [line]
    _, problems = read_documents(head + text, "x.yaml", "default")
    assert problems[0].startswith(f"x.yaml:{number + 1}: ")


def test_a_document_that_is_pasted_twice_is_one() -> None:
    text = (
        "{apiVersion: config.istio.io/v1beta1, kind: RouteRule, metadata: {name: a}, spec: {destination: {name: b}}}\n"
    )
    documents, problems = read_documents(f"{text}---\n{text}", "x.yaml", "default")
    assert (len(documents), problems) == (1, [])
    assert not is_invalid(find_problems(documents[0]))
    assert len(merge_documents([*documents, *documents])[0]) == 1
