"""What a DestinationPolicy and a DestinationRule's trafficPolicy may hold, by Istio's own rules."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.api.problem import Verdict
from agent.api.validate import find_problems
from tests.unit.api_samples import one


def verdicts(kind: str, version: str, spec: dict[str, Any]) -> list[str]:
    document = {"apiVersion": version, "kind": kind, "metadata": {"name": "x"}, "spec": spec}
    return [f"{problem.verdict}: {problem.path}" for problem in find_problems(one(json.dumps(document)))]


def rule(policy: dict[str, Any], **spec: Any) -> list[str]:
    return verdicts("DestinationRule", "networking.istio.io/v1", {"host": "a", "trafficPolicy": policy, **spec})


def balancer(value: dict[str, Any]) -> list[str]:
    return rule({"loadBalancer": value})


def locality(**value: Any) -> list[str]:
    return balancer({"localityLbSetting": value})


def policy(**spec: Any) -> list[str]:
    return verdicts("DestinationPolicy", "config.istio.io/v1alpha2", {"destination": {"name": "a"}, **spec})


GOOD_RULES: list[dict[str, Any]] = [
    {"loadBalancer": {"simple": "LEAST_REQUEST", "warmup": {"duration": "1m", "aggression": 1.5}}},
    {"loadBalancer": {"consistentHash": {"maglev": {"tableSize": 65537}, "httpHeaderName": "x"}}},
    {"loadBalancer": {"consistentHash": {"httpCookie": {"name": "c", "ttl": "0s"}, "minimumRingSize": 10}}},
    {"loadBalancer": {"localityLbSetting": {"distribute": [{"from": "a/b/c", "to": {"a/*": 100}}]}}},
    {"loadBalancer": {"localityLbSetting": {"failover": [{"from": "a", "to": "b"}], "failoverPriority": ["x=y"]}}},
    {"connectionPool": {"tcp": {"idleTimeout": "0s", "connectTimeout": "1h30m"}}},
    {"outlierDetection": {}},
    {"tls": {"mode": "ISTIO_MUTUAL", "sni": "x"}},
    {"tls": {"mode": "MUTUAL", "clientCertificate": "/c", "privateKey": "/k", "caCrl": "/l"}},
    {"proxyProtocol": {}},
    {"tunnel": {"targetHost": "10.0.0.1", "targetPort": 443}},
    {"tunnel": {"protocol": "POST", "targetHost": "a.example.com", "targetPort": 443}},
    {"tls": {"mode": "SIMPLE", "credentialName": "x"}},
    {"retryBudget": {"percent": 0.5, "minRetryConcurrency": 0, "budgetInterval": "0s"}},
    {"portLevelSettings": [{"port": {"number": 80}, "tls": {"mode": "DISABLE"}}]},
]

BAD = "spec.trafficPolicy"
BAD_RULES: list[tuple[dict[str, Any], str]] = [
    ({"loadBalancer": {"simple": "FASTEST"}}, f"{BAD}.loadBalancer.simple"),
    ({"loadBalancer": {"simple": "RANDOM", "consistentHash": {}}}, f"{BAD}.loadBalancer"),
    ({"loadBalancer": {"warmup": {}}}, f"{BAD}.loadBalancer.warmup.duration"),
    ({"loadBalancer": {"warmup": {"duration": "1s", "aggression": 0.5}}}, f"{BAD}.loadBalancer.warmup.aggression"),
    ({"connectionPool": {}}, f"{BAD}.connectionPool"),
    ({"connectionPool": {"http": {"idleTimeout": "0.5ms"}}}, f"{BAD}.connectionPool.http.idleTimeout"),
    ({"connectionPool": {"http": {"h2UpgradePolicy": "MAYBE"}}}, f"{BAD}.connectionPool.http.h2UpgradePolicy"),
    ({"outlierDetection": {"interval": "-1s"}}, f"{BAD}.outlierDetection.interval"),
    ({"tls": {"mode": "MUTUAL", "privateKey": "/k"}}, f"{BAD}.tls.clientCertificate"),
    ({"tls": {"mode": "SIMPLE", "credentialName": "x", "caCertificates": "/c"}}, f"{BAD}.tls.caCertificates"),
    ({"portLevelSettings": [{"port": {"number": 80}}]}, f"{BAD}.portLevelSettings[0]"),
    ({"tunnel": {"targetHost": "a.b", "targetPort": 1}, "proxyProtocol": {}}, f"{BAD}.proxyProtocol"),
    ({"tunnel": {"targetHost": "*.b", "targetPort": 1}}, f"{BAD}.tunnel.targetHost"),
]


@pytest.mark.parametrize("value", GOOD_RULES)
def test_good_rules(value: dict[str, Any]) -> None:
    assert rule(value) == []
    assert rule({"tls": {}}, subsets=[{"name": "s", "trafficPolicy": value}]) == []


@pytest.mark.parametrize(("value", "path"), BAD_RULES)
def test_bad_rules(value: dict[str, Any], path: str) -> None:
    assert f"invalid: {path}" in rule(value)


@pytest.mark.parametrize(
    "value",
    [
        {"httpCookie": {"ttl": "1s"}},
        {"httpCookie": {"name": "c", "attributes": [{"name": "Secure"}, {"name": "secure"}]}},
        {"httpHeaderName": "x", "useSourceIp": True},
        {"maglev": {"tableSize": 500}},
        {"maglev": {"tableSize": 5000011}},
        {"maglev": {}},
        {"ringHash": {}, "maglev": {"tableSize": 503}},
        {"minimumRingSize": 3, "ringHash": {}},
    ],
)
def test_bad_hashes(value: dict[str, Any]) -> None:
    assert any(problem.startswith(Verdict.INVALID) for problem in balancer({"consistentHash": value}))


@pytest.mark.parametrize(
    "value",
    [
        {"distribute": [{"from": "a", "to": {"b": 99}}]},
        {"distribute": [{"from": "a", "to": {"b": 0, "c": 100}}]},
        {"distribute": [{"from": "a", "to": {"b/*": 50, "b/c": 50}}]},
        {"distribute": [{"from": "a/*", "to": {"b": 100}}, {"from": "a/b", "to": {"b": 100}}]},
        {"distribute": [{"from": "a/*/c", "to": {"b": 100}}]},
        {"distribute": [{"from": "a//c", "to": {"b": 100}}]},
        {"distribute": [{"from": "a", "to": {"b": 100}}], "failover": [{"from": "a", "to": "b"}]},
        {"failover": [{"from": "a", "to": "a"}]},
        {"failover": [{"from": "a/b", "to": "c"}]},
        {"failover": [{"from": "a", "to": "*"}]},
        {"failover": [{"from": "a", "to": "b"}], "failoverPriority": ["topology.kubernetes.io/region"]},
    ],
)
def test_bad_localities(value: dict[str, Any]) -> None:
    assert any(problem.startswith(Verdict.INVALID) for problem in locality(**value))


def test_a_narrow_from_may_come_before_a_wide_one() -> None:
    to = {"b": 100}
    assert locality(distribute=[{"from": "a/b/c", "to": to}, {"from": "a/*", "to": to}, {"from": "*", "to": to}]) == []


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"loadBalancer": {"simple": "PASSTHROUGH"}}, "loadBalancer.simple"),
        ({"retryBudget": {"budgetInterval": "1s"}}, "retryBudget.budgetInterval"),
        ({"loadBalancer": {"simple": "RANDOM", "warmupDurationSecs": "1s"}}, "loadBalancer.warmupDurationSecs"),
        ({"loadBalancer": {"consistentHash": {}, "warmup": {"duration": "1s"}}}, "loadBalancer.warmup"),
        (
            {"loadBalancer": {"warmup": {"duration": "1s"}, "warmupDurationSecs": "2s"}},
            "loadBalancer.warmupDurationSecs",
        ),
        ({"tls": {"mode": "SIMPLE", "clientCertificate": "/a"}}, "tls.clientCertificate"),
        ({"tls": {"mode": "SIMPLE", "caCertificates": "ca.pem"}}, "tls.caCertificates"),
        ({"tls": {"mode": "ISTIO_MUTUAL", "caCertificates": "/a"}}, "tls.caCertificates"),
        ({"tls": {"sni": "a"}}, "tls.sni"),
    ],
)
def test_what_cannot_be_enforced_here(value: dict[str, Any], path: str) -> None:
    assert rule(value) == [f"unsupported: spec.trafficPolicy.{path}"]


@pytest.mark.parametrize("host", ["a", "a.svc.cluster.local", "A.service.consul.", "a.b.svc", "*.svc.cluster.local"])
def test_services_of_the_mesh_have_no_passthrough(host: str) -> None:
    chosen = {"loadBalancer": {"simple": "PASSTHROUGH"}}
    spec = {
        "host": host,
        "trafficPolicy": {"portLevelSettings": [{"port": {"number": 80}, **chosen}]},
        "subsets": [{"name": "v1", "trafficPolicy": chosen}],
    }
    assert verdicts("DestinationRule", "networking.istio.io/v1", spec) == [
        "unsupported: spec.subsets[0].trafficPolicy.loadBalancer.simple",
        "unsupported: spec.trafficPolicy.portLevelSettings[0].loadBalancer.simple",
    ]


@pytest.mark.parametrize("host", ["*.foo.com", "www.foo.com", "*.com"])
def test_hosts_outside_may_have_it(host: str) -> None:
    assert rule({"loadBalancer": {"simple": "PASSTHROUGH"}}, host=host) == []


def test_exported_to_its_own_namespace_alone_with_a_selector() -> None:
    selector = {"matchLabels": {"a": "b"}}
    for exported, good in ((["."], True), (["default"], True), (["*"], False), (["other"], False)):
        problems = rule({"tls": {}}, workloadSelector=selector, exportTo=exported)
        assert problems == ([] if good else ["invalid: spec.exportTo"])


def test_destination_policies() -> None:
    breaker = {"maxConnections": 1, "sleepWindow": "3m", "httpMaxEjectionPercent": 100, "httpMaxRetries": 0}
    assert policy(circuitBreaker={"simpleCb": breaker}, loadBalancing={"name": "LEAST_CONN"}) == []
    assert policy(circuit_breaker={"simple_cb": {"max_connections": 1}}) == []
    for name, value in (("maxConnections", -1), ("httpMaxEjectionPercent", 101), ("sleepWindow", "0s")):
        assert policy(circuitBreaker={"simpleCb": {name: value}}) == [f"invalid: spec.circuitBreaker.simpleCb.{name}"]
    assert policy(loadBalancing={"name": "FASTEST"}) == ["invalid: spec.loadBalancing.name"]
    assert policy(loadBalancing={"custom": {"x": 1}}) == ["unsupported: spec.loadBalancing.custom"]
    assert policy(destination=None) == ["invalid: spec.destination"]
