"""Fifty rules for one service that let its caller pass: denials, lists, quotas and metrics. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

NAMESPACE = "policed"
DENIALS = LISTS = QUOTAS = 15
METRICS = 5
_PLENTY = 1_000_000_000


def fifty_rules() -> str:
    """Return the rules with all that they name, as one YAML text."""
    return "\n---\n".join(json.dumps(document) for document in _documents())


def quota_rule(amount: int, seconds: int) -> str:
    """Return one quota for every request, by its caller."""
    dimensions = {"source": 'source.labels["app"] | source.service | "unknown"'}
    quotas = [{"name": "requests.quota", "maxAmount": amount, "validDuration": f"{seconds}s"}]
    documents = (
        _object("memquota", "counted", {"quotas": quotas}),
        _object("quota", "requests", {"dimensions": dimensions}),
        _rule("counted", "true", "counted.memquota", "requests.quota"),
    )
    return "\n---\n".join(json.dumps(document) for document in documents)


def _documents() -> Iterator[dict[str, Any]]:
    yield _object("denier", "deny", {"status": {"code": 7, "message": "Not allowed"}})
    yield _object("checknothing", "nothing", {})
    for number in range(DENIALS):
        match = (
            f'source.labels["app"] == "app-{number}"',
            f'request.headers["x-tenant"] == "tenant-{number}"',
            f'source.user == "cluster.local/ns/other/sa/account-{number}" && request.path.startsWith("/v{number}")',
        )[number % 3]
        yield _rule(f"deny-{number}", match, "deny.denier", "nothing.checknothing")
    values = ('source.labels["version"] | "none"', 'request.headers["x-version"] | "none"', "source.ip")
    for number in range(LISTS):
        value = values[number % 3]
        addresses = {"entryType": "IP_ADDRESSES"} if value == "source.ip" else {}
        entries = [f"198.51.100.{number}", "203.0.113.0/24"] if addresses else [f"v{number}", f"w{number}", "canary"]
        yield _object("listchecker", f"list-{number}", {"overrides": entries, "blacklist": True, **addresses})
        yield _object("listentry", f"entry-{number}", {"value": value})
        yield _rule(f"list-{number}", "", f"list-{number}.listchecker", f"entry-{number}.listentry")
    for number in range(QUOTAS):
        quota = {"name": f"quota-{number}.quota", "maxAmount": _PLENTY, "validDuration": "1s"}
        dimensions = {
            "source": 'source.labels["app"] | source.service | "unknown"',
            "user": f'request.headers["x-user-{number}"] | "unknown"',
        }
        yield _object("memquota", f"quota-{number}", {"quotas": [quota]})
        yield _object("quota", f"quota-{number}", {"dimensions": dimensions})
        yield _rule(f"quota-{number}", "", f"quota-{number}.memquota", f"quota-{number}.quota")
    labels = {"source": 'source.service | "unknown"', "response_code": "response.code | 200"}
    for number in range(METRICS):
        spec = {"value": "request.size | 0", "dimensions": labels, "monitoredResourceType": '"UNSPECIFIED"'}
        metric = {"name": f"bench_{number}", "kind": "COUNTER", "label_names": sorted(labels)}
        metric["instance_name"] = f"bench-{number}.metric.{NAMESPACE}"
        yield _object("metric", f"bench-{number}", spec)
        yield _object("prometheus", f"bench-{number}", {"metrics": [metric]})
        yield _rule(f"metric-{number}", "", f"bench-{number}.prometheus", f"bench-{number}.metric")


def _rule(name: str, match: str, handler: str, instance: str) -> dict[str, Any]:
    condition = {"match": match} if match else {}
    return _object("rule", name, {**condition, "actions": [{"handler": handler, "instances": [instance]}]})


def _object(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "config.istio.io/v1alpha2", "kind": kind, "metadata": metadata, "spec": spec}
