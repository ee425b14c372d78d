"""The analysis of routes of connections and of delegates: what leads nowhere, never holds, is for another protocol."""

from __future__ import annotations

import pytest

from agent.api.analysis.analyze import analyze
from agent.api.document import read_documents
from tests.unit.test_api_analysis import CATALOG, RR, TO_REVIEWS, VS, found

DELEGATE = (
    "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: team}\n"
    "spec: {http: [{match: [{uri: {prefix: /b}}], route: [{destination: {host: reviews}}]}]}\n"
)
DELEGATING = "{match: [{uri: {prefix: /a}}], delegate: {name: team}}"
ROOT = f"{VS}  hosts: [reviews]\n  http: [{DELEGATING}, {{{TO_REVIEWS}}}]\n"
HTTP = f"{VS}  hosts: [reviews]\n  http: [{{{TO_REVIEWS}}}]\n"
SNI = "match: [{sniHosts: [reviews]}]"


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([f"{VS}  hosts: [reviews]\n  tcp: [{{{TO_REVIEWS}}}]\n"], ["HM0109 spec"]),
        ([f"{VS}  hosts: [reviews]\n  tls: [{{{SNI}, {TO_REVIEWS}}}]\n"], ["HM0109 spec"]),
        ([f"{HTTP}  tcp: [{{{TO_REVIEWS}}}]\n"], []),
        (
            [f"{RR}  destination: {{name: reviews}}\n  match: {{tcp: {{sourceSubnet: [10.0.0.0/8]}}}}\n"],
            ["HM0109 spec"],
        ),
        (
            [f"{HTTP}  tcp: [{{route: [{{destination: {{host: gone}}}}]}}]\n"],
            ["IST0101 spec.tcp[0].route[0].destination"],
        ),
        (
            [f"{HTTP}  tls: [{{{SNI}, route: [{{destination: {{host: reviews, subset: gone}}}}]}}]\n"],
            ["IST0101 spec.tls[0].route[0].destination"],
        ),
        (
            [f"{HTTP}  tcp: [{{{TO_REVIEWS}}}, {{{TO_REVIEWS}}}]\n"],
            ["IST0130 spec.tcp[1]"],
        ),
        ([ROOT], ["IST0101 spec.http[0].delegate"]),
        ([ROOT, DELEGATE], ["IST0131 spec.http[0].delegate"]),
        ([ROOT, DELEGATE.replace("/b", "/a/b")], []),
    ],
)
def test_routes(texts: list[str], expected: list[str]) -> None:
    assert found(*texts) == expected


def test_deprecated_fields_are_named_with_what_to_write() -> None:
    rules = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: v}
spec:
  hosts: [reviews]
  http:
  - fault: {delay: {percent: 5, fixedDelay: 1s}}
    mirror: {host: reviews}
    mirrorPercent: 5
    corsPolicy: {allowOrigin: ["*"]}
    route: [{destination: {host: reviews}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: d}
spec:
  host: reviews
  trafficPolicy:
    outlierDetection: {consecutiveErrors: 3, interval: 1s}
    loadBalancer: {simple: ROUND_ROBIN, warmupDurationSecs: 10s}
"""
    documents, problems = read_documents(rules, "rules.yaml", "default")
    assert problems == []
    deprecated = {one.path.rsplit(".", 1)[-1]: one for one in analyze(documents)}
    assert set(deprecated) == {"percent", "mirrorPercent", "allowOrigin", "consecutiveErrors", "warmupDurationSecs"}
    assert {one.kind.code for one in deprecated.values()} == {"IST0002"}
    assert deprecated["percent"].place == "rules.yaml:8"
    assert "write percentage.value" in deprecated["percent"].message


@pytest.mark.parametrize(
    ("route", "consequence"),
    [
        ("{route: [{destination: {host: reviews, subset: v9}}]}", "if there are none, requests get 503"),
        ("{route: [{destination: {host: gone}}]}", "if there are none, requests get 503"),
        (f"{{{TO_REVIEWS}, mirror: {{host: gone}}}}", "nothing is sent there"),
    ],
)
def test_what_becomes_of_traffic_to_what_is_not_there_is_told(route: str, consequence: str) -> None:
    documents, _ = read_documents(f"{VS}  hosts: [reviews]\n  http: [{route}]\n".replace("NAME", "a"), "f", "default")
    assert [consequence in one.message for one in analyze(documents, CATALOG)] == [True]
