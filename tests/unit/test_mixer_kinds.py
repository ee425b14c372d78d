"""Mixer's kinds: what their specs may hold, in both spellings, and the line that says what is wrong."""

from __future__ import annotations

import pytest
import yaml

from agent.api.problem import Verdict
from agent.api.validate import find_problems
from tests.unit.api_samples import one

HEAD = {"apiVersion": "config.istio.io/v1alpha2", "metadata": {"name": "x", "namespace": "istio-system"}}

VALID = {
    "rule": """
      match: destination.labels["app"] == "ratings" && source.labels["version"] == "v3"
      actions: [{handler: deny.denier.istio-system, instances: [nothing.checknothing]}]
    """,
    "denier": "{status: {code: 7, message: Not allowed}, validDuration: 5s, validUseCount: 10}",
    "checknothing": "",
    "listchecker": """
      {refreshInterval: 1s, ttl: 10s, entryType: STRINGS,
       overrides: [v1, v2], blacklist: false, caching_interval: 0s}
    """,
    "listentry": 'value: source.labels["version"]',
    "memquota": """
      quotas:
      - name: requestcount.quota.istio-system
        max_amount: 5000
        valid_duration: 1s
        overrides:
        - {dimensions: {destination: ratings, source_version: v2}, maxAmount: 1, validDuration: 1s}
    """,
    "quota": 'dimensions:\n  source_app: source.labels["app"] | source.service | "unknown"',
    "metric": """
      value: response.duration | "0ms"
      dimensions: {response_code: response.code | 200, source_service: source.service | "unknown"}
      monitored_resource_type: '"UNSPECIFIED"'
    """,
    "logentry": """
      severity: '"warning"'
      timestamp: request.time
      variables: {latency: response.duration | "0ms", source_ip: source.ip | ip("0.0.0.0")}
      monitoredResourceType: '"UNSPECIFIED"'
    """,
    "prometheus": """
      metrics:
      - {name: request_count, instance_name: requestcount.metric.istio-system, kind: COUNTER, label_names: [a, b]}
      - name: request_duration
        instanceName: requestduration.metric
        kind: DISTRIBUTION
        buckets: {explicit_buckets: {bounds: [0.005, 0.01, 1, 10]}}
    """,
    "stdio": "{severity_levels: {warning: WARNING}, outputAsJson: true}",
    "fluentd": '{address: "localhost:24224"}',
    "statsd": '{address: "statsd:8125", prefix: mesh., metrics: {requestcount.metric: {type: COUNTER}}}',
    "attributemanifest": "attributes: {source.ip: {valueType: IP_ADDRESS}, my_own.name: {value_type: STRING}}",
}


def problems(kind: str, spec: str) -> list[str]:
    """Return what is said of a spec, each with its verdict and path."""
    document = one(yaml.safe_dump({**HEAD, "kind": kind, "spec": yaml.safe_load(spec)}))
    found = find_problems(document)
    return [f"{one.verdict} {one.path}: {one.reason}" for one in found if "known, but not supported" not in one.reason]


@pytest.mark.parametrize("kind", VALID)
def test_what_mixer_takes_is_valid(kind: str) -> None:
    assert problems(kind, VALID[kind]) == []


@pytest.mark.parametrize(
    ("kind", "spec", "words"),
    [
        (
            "rule",
            "match: source.labels == 1\nactions: [{handler: a.denier, instances: [b.quota]}]",
            "STRING_MAP and INT64",
        ),
        ("rule", "match: request.size\nactions: [{handler: a.denier, instances: [b.quota]}]", "must be BOOL"),
        (
            "rule",
            "match: foo.bar == 1\nactions: [{handler: a.denier, instances: [b.quota]}]",
            "unknown attribute foo.bar",
        ),
        ("rule", 'match: "true"', "spec.actions: is missing"),
        ("rule", "actions: [{handler: a, instances: [b.quota]}]", '"a" is not a name as rules write it'),
        ("rule", "actions: [{handler: a.denier, instances: [b.metric]}]", "takes checknothing or listentry or quota"),
        ("rule", "actions: [{handler: a.memquota, instances: [b.checknothing]}]", "a memquota takes quota"),
        ("rule", "actions: [{handler: a.denier}]", "spec.actions[0].instances: is missing"),
        ("denier", "status: {code: 17}", "17 is out of range (0 to 16)"),
        ("denier", "stats: {code: 7}", "did you mean status?"),
        ("listchecker", "providerUrl: ftp://x", "not an address that a list can be fetched from"),
        ("listchecker", "{entryType: IP_ADDRESSES, overrides: [10.1.2]}", "is no IP address or range"),
        ("listchecker", '{entryType: REGEX, overrides: ["(?=x)"]}', "(?=x)"),
        ("listchecker", "entryType: NUMBERS", "one of STRINGS"),
        ("listentry", "{}", "spec.value: is missing"),
        ("listentry", 'value: source.labels["version"', "ends too early"),
        ("memquota", "quotas: [{name: a.quota, maxAmount: 5}]", "validDuration: is missing"),
        ("memquota", "quotas: [{name: a.quota, maxAmount: -5, validDuration: 1s}]", "out of range"),
        (
            "memquota",
            "quotas: [{name: a.quota, validDuration: 1s, overrides: [{maxAmount: 1}]}]",
            "dimensions: is missing",
        ),
        ("quota", "dimensions: {a: source.nothing}", "unknown attribute source.nothing"),
        ("metric", "dimensions: {}", "spec.value: is missing"),
        ("logentry", 'timestamp: "1"', "must be TIMESTAMP"),
        ("logentry", "severity: Default", "unknown attribute Default"),
        ("prometheus", "metrics: [{instanceName: a.metric, kind: SUM}]", "one of UNSPECIFIED"),
        ("prometheus", "metrics: [{instanceName: a.metric, labelNames: [a, a]}]", "names a label twice"),
        ("prometheus", "metrics: [{instanceName: a.metric, labelNames: [a-b]}]", "not a name that Prometheus takes"),
        (
            "prometheus",
            "metrics: [{instanceName: a.metric, kind: DISTRIBUTION, buckets: {explicit_buckets: {bounds: [2, 1]}}}]",
            "ascending",
        ),
        ("stdio", "severity_levels: {warning: LOUD}", "one of INFO"),
        ("fluentd", "address: localhost", "is not HOST:PORT"),
        ("statsd", '{address: "a:1", samplingRate: 2}', "out of range"),
        ("attributemanifest", "attributes: {a: {valueType: NUMBER}}", "one of VALUE_TYPE_UNSPECIFIED"),
    ],
)
def test_what_mixer_does_not_take_is_named(kind: str, spec: str, words: str) -> None:
    found = problems(kind, spec)
    assert len(found) == 1, found
    assert found[0].startswith(Verdict.INVALID)
    assert words in found[0]


def test_a_handler_of_another_adapter_is_named() -> None:
    found = problems("rule", "actions: [{handler: a.solarwinds, instances: [b.metric]}]")
    assert [one.partition(":")[0] for one in found] == ["unsupported spec.actions[0]"]


RULE = "match: {}\nactions: [{{handler: a.denier, instances: [b.checknothing]}}]"


@pytest.mark.parametrize(
    ("kind", "spec", "path", "words"),
    [
        ("listchecker", 'providerUrl: "file:///etc/white"', "spec", "files are not read"),
        ("rule", RULE.format("response.code == 500"), "spec.match", "response.code is not known when requests are"),
        ("rule", RULE.format('source.uid == "x"'), "spec.match", "source.uid is not known"),
        ("rule", RULE.format('toLower(request.path) == "/x"'), "spec.match", "cannot be asked of each request"),
        ("rule", RULE.format("match(request.path, request.host)"), "spec.match", "cannot be asked of each request"),
        ("rule", RULE.format('request.headers[request.path] == "x"'), "spec.match", "must be written down"),
        ("rule", RULE.format("source.ip == destination.ip"), "spec.match", "source.ip can be compared with"),
        ("rule", RULE.format('request.path + "x" == "/x"'), "spec.match", "cannot be asked of each request"),
        ("rule", RULE.format("request.size + 0x7fffffffffffffff > 0"), "spec.match", "cannot be asked of each"),
        ("rule", RULE.format('(request.headers | source.labels)["a"] == ""'), "spec.match", "cannot be asked of each"),
        ("rule", RULE.format("source.user == request.path"), "spec.match", "compared with what is written down"),
        ("rule", RULE.format("'\"a|^b\".matches(source.user)'"), "spec.match", "compared with what is written down"),
        ("rule", RULE.format("size(source.user) > 5"), "spec.match", "compared with what is written down"),
        ("listentry", "value: request.size", "spec.value", "STRING or IP_ADDRESS is wanted, and this is INT64"),
        ("memquota", "quotas: [{name: a.quota, validDuration: 49ms}]", "spec", "Envoy counts over 50ms at least"),
        ("listentry", "value: response.grpc_status", "spec.value", "response.grpc_status is not known"),
        (
            "quota",
            "dimensions: {a: request.api_key, b: request.time}",
            "spec",
            "requests cannot be counted by a TIMESTAMP",
        ),
        ("quota", "dimensions: {a: response.grpc_status}", "spec", "response.grpc_status is not known"),
    ],
)
def test_what_is_not_known_in_time_is_named(kind: str, spec: str, path: str, words: str) -> None:
    (found,) = problems(kind, spec)
    assert found.startswith(f"{Verdict.UNSUPPORTED} {path}: ")
    assert words in found


def test_what_is_never_there_has_its_default() -> None:
    assert problems("rule", RULE.format('(source.uid | "x") == "x"')) == []


def test_the_address_that_istio_writes_can_be_looked_up() -> None:
    assert problems("listentry", 'value: source.ip | ip("0.0.0.0")') == []
    assert problems("listentry", 'value: origin.ip | source.ip | ip("0.0.0.0")') == []


def test_labels_of_callers_can_be_asked_anything() -> None:
    assert problems("rule", RULE.format('toLower(source.labels["app"]) == "x"')) == []
