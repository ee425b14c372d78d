"""One RouteRule to an HTTP route of a VirtualService, one DestinationPolicy to a trafficPolicy. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from agent.api.checks.fields import PSEUDO_HEADERS
from agent.api.envelope import Document
from agent.api.lowering.actions import ROUTE_RULE_RETRY_ON, ROUTE_RULE_TIMEOUT_SECONDS
from agent.api.lowering.traffic_policy import simple_policy
from agent.mesh.names import CLUSTER_DOMAIN, CONSUL_DOMAIN
from agent.mesh.traffic_policy import ConnectionPool, OutlierDetection

Notes = list[tuple[str, str]]
"""(path, what changes meaning)."""
_BALANCING = {"ROUND_ROBIN": "ROUND_ROBIN", "LEAST_CONN": "LEAST_REQUEST", "RANDOM": "RANDOM"}
_PANIC_PERCENT = 50
"""Of the healthy instances: with fewer, the first generation used all of them."""


class Subsets:
    """The label sets that rules route to, by host; each gets a name of its own."""

    def __init__(self) -> None:
        self._by_host: dict[str, dict[str, dict[str, Any]]] = {}

    def name(self, host: str, labels: Mapping[str, str]) -> str:
        """Return the subset's name: its labels' values (`v1`, `v1-canary`), with a number if that is taken."""
        named = self._by_host.setdefault(host, {})
        wanted = dict(sorted(labels.items()))
        base = re.sub(r"[^a-z0-9]+", "-", "-".join(wanted.values()).lower()).strip("-")[:50] or "subset"
        for number in range(1, len(named) + 2):
            name = base if number == 1 else f"{base}-{number}"
            if named.setdefault(name, {"name": name, "labels": wanted})["labels"] == wanted:
                return name
        raise AssertionError("one of len + 1 names is free")

    def set_policy(self, host: str, labels: Mapping[str, str], policy: Mapping[str, Any]) -> None:
        """Take over the parts of a trafficPolicy for every subset with these labels, perhaps among others."""
        for subset in self._by_host.get(host, {}).values():
            if policy and labels.items() <= subset["labels"].items():
                subset["trafficPolicy"] = {**subset.get("trafficPolicy", {}), **policy}

    def hosts(self) -> Iterator[str]:
        """Yield the hosts that have subsets."""
        yield from self._by_host

    def of(self, host: str) -> list[dict[str, Any]]:
        """Return the subsets of a host, by name."""
        return [subset for _, subset in sorted(self._by_host.get(host, {}).items())]


def service_host(reference: Mapping[str, Any], namespace: str) -> str:
    """Return the host that a reference of the first generation means, in a rule of that namespace.

    One spelling for a service of that namespace, so that all about it comes together.
    """
    if reference.get("service"):
        return _shortest(str(reference["service"]), namespace)
    name, domain = reference["name"], (reference.get("domain") or "").rstrip(".")
    if domain in ("", CONSUL_DOMAIN):
        other = reference.get("namespace")
        return str(name) if other in (None, "", namespace) else f"{name}.{other}.{CLUSTER_DOMAIN}"
    return _shortest(f"{name}.{reference.get('namespace') or namespace}.{domain}", namespace)


def _shortest(host: str, namespace: str) -> str:
    host = host.rstrip(".").lower()
    for ending in (f".{namespace}.{CLUSTER_DOMAIN}", f".{namespace}.svc", f".{CONSUL_DOMAIN}"):
        if host.endswith(ending) and not host.startswith("*"):
            return host.removesuffix(ending)
    return host


def convert_route(rule: Document, host: str, subsets: Subsets) -> tuple[dict[str, Any], Notes]:
    """Return the HTTP route that a RouteRule becomes, and what changes meaning."""
    spec, notes = rule.spec, list[tuple[str, str]]()
    route: dict[str, Any] = {"name": rule.name}
    match = _match(spec.get("match") or {}, notes)
    if match:
        route["match"] = [match]
    if spec.get("redirect") is not None:
        route["redirect"] = {key: value for key, value in spec["redirect"].items() if value}
    else:
        route["route"] = _destinations(rule, host, subsets)
        route |= _on_the_way(spec)
    if spec.get("mirror"):
        mirrored = service_host(spec["mirror"], rule.namespace)
        route["mirror"] = _destination(mirrored, spec["mirror"].get("labels") or {}, subsets)
    if spec.get("corsPolicy"):
        route["corsPolicy"] = _cors(spec["corsPolicy"])
    if spec.get("websocketUpgrade"):
        notes.append(("spec.websocketUpgrade", "left out: websockets pass on every route now"))
    if spec.get("l4Fault") is not None:
        notes.append(("spec.l4Fault", "left out: there is no such fault any more"))
    return route, notes


_OF_REQUESTS = (
    "redirect",
    "rewrite",
    "websocketUpgrade",
    "httpReqTimeout",
    "httpReqRetries",
    "httpFault",
    "mirror",
    "corsPolicy",
    "appendHeaders",
)


def looks_at_requests(rule: Document) -> bool:
    """Tell whether a RouteRule says something of requests, so that its service speaks HTTP."""
    headers = ((rule.spec.get("match") or {}).get("request") or {}).get("headers")
    return bool(headers) or any(rule.spec.get(key) for key in _OF_REQUESTS)


def looks_at_connections(rule: Document) -> bool:
    """Tell whether a RouteRule is about connections alone."""
    return bool((rule.spec.get("match") or {}).get("tcp"))


def holds_for_connections(rule: Document) -> bool:
    """Tell whether a RouteRule is for connections of TCP services, too."""
    match = rule.spec.get("match") or {}
    return not rule.spec.get("redirect") and not (match.get("request") or {}).get("headers")


def convert_connections(rule: Document, host: str, subsets: Subsets) -> tuple[dict[str, Any], Notes]:
    """Return the TCP route that a RouteRule becomes, and what changes meaning."""
    notes: Notes = []
    match = _match(rule.spec.get("match") or {}, notes)
    subnets = (rule.spec.get("match") or {}).get("tcp") or {}
    if subnets.get("destinationSubnet"):
        match["destinationSubnets"] = list(subnets["destinationSubnet"])
    matches = [{**match, "sourceSubnet": source} for source in subnets.get("sourceSubnet") or ()] or [match]
    route = {"route": _destinations(rule, host, subsets)}
    return ({"match": matches, **route} if matches != [{}] else route), notes


def _destinations(rule: Document, host: str, subsets: Subsets) -> list[dict[str, Any]]:
    routes = rule.spec.get("route") or [{}]
    found = []
    for route in routes:
        other = route.get("destination") or {}
        target = service_host(other, rule.namespace) if other else host
        labels = {**(other.get("labels") or {}), **(route.get("labels") or {})}
        entry: dict[str, Any] = {"destination": _destination(target, labels, subsets)}
        if len(routes) > 1:
            entry["weight"] = route.get("weight") or 0
        found.append(entry)
    return found


def _destination(host: str, labels: Mapping[str, str], subsets: Subsets) -> dict[str, Any]:
    return {"host": host, "subset": subsets.name(host, labels)} if labels else {"host": host}


def _match(match: Mapping[str, Any], notes: Notes) -> dict[str, Any]:
    headers = (match.get("request") or {}).get("headers") or {}
    found: dict[str, Any] = {name: _string(headers[name]) for name in PSEUDO_HEADERS if name in headers}
    others = {name: _string(value) for name, value in headers.items() if name not in PSEUDO_HEADERS}
    if others:
        found["headers"] = others
    source = match.get("source") or {}
    labels = dict(source.get("labels") or {})
    if source.get("name") or source.get("service"):
        name = source.get("name") or source["service"].split(".")[0]
        labels.setdefault("app", name)
        reason = f'callers are told by their labels now: "app: {name}" stands for the service {name} (check its labels)'
        notes.append(("spec.match.source", reason))
    if labels:
        found["sourceLabels"] = labels
    if source.get("namespace"):
        found["sourceNamespace"] = source["namespace"]
    return found


def _string(match: Mapping[str, Any] | str) -> dict[str, Any]:
    return {"exact": match} if isinstance(match, str) else dict(match)


def _on_the_way(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is done to a request that goes to a destination; the old defaults are written out."""
    done: dict[str, Any] = {}
    timeout = (spec.get("httpReqTimeout") or {}).get("simpleTimeout")
    done["timeout"] = timeout["timeout"] if timeout else f"{ROUTE_RULE_TIMEOUT_SECONDS:g}s"
    retry = (spec.get("httpReqRetries") or {}).get("simpleRetry")
    if retry is not None:
        done["retries"] = {"attempts": retry.get("attempts") or 0}
        if done["retries"]["attempts"]:
            done["retries"]["retryOn"] = ",".join(ROUTE_RULE_RETRY_ON)
            if retry.get("perTryTimeout"):
                done["retries"]["perTryTimeout"] = retry["perTryTimeout"]
    if spec.get("rewrite"):
        done["rewrite"] = {key: value for key, value in spec["rewrite"].items() if value}
    fault = {key: _fault(value) for key, value in (spec.get("httpFault") or {}).items() if value}
    if fault:
        done["fault"] = fault
    if spec.get("appendHeaders"):
        done["headers"] = {"request": {"add": dict(spec["appendHeaders"])}}
    return done


def _fault(fault: Mapping[str, Any]) -> dict[str, Any]:
    percent = fault.get("percent")
    rest = {key: value for key, value in fault.items() if key != "percent" and value is not None}
    return {**({} if percent is None else {"percentage": {"value": percent}}), **rest}


def _cors(policy: Mapping[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in policy.items() if key != "allowOrigin"}
    origins = policy.get("allowOrigin")
    return {**({"allowOrigins": [{"exact": origin} for origin in origins]} if origins else {}), **rest}


def convert_policy(document: Document) -> tuple[dict[str, Any], Notes]:
    """Return the trafficPolicy that a DestinationPolicy becomes, defaults written out, and what changes meaning."""
    spec, notes, policy = document.spec, list[tuple[str, str]](), dict[str, Any]()
    if spec.get("source"):
        reason = (
            "left out: a DestinationRule is for all callers of its namespace (workloadSelector tells them by labels)"
        )
        notes.append(("spec.source", reason))
    balancing = (spec.get("loadBalancing") or {}).get("name")
    if balancing:
        policy["loadBalancer"] = {"simple": _BALANCING[balancing]}
    meant = simple_policy(spec)
    if meant.connections is not None and meant.outliers is not None:
        policy |= {"connectionPool": _pool(meant.connections), "outlierDetection": _ejection(meant.outliers)}
        breaker = spec["circuitBreaker"]["simpleCb"]
        reason = "near instances are preferred now (loadBalancer.localityLbSetting: {enabled: false} turns that off)"
        notes.append(("spec.circuitBreaker", reason))
        if breaker.get("httpMaxEjectionPercent"):
            policy["outlierDetection"]["maxEjectionPercent"] = breaker["httpMaxEjectionPercent"]
            reason = "one instance was ejected even where that was more than the percentage, and is not now"
            notes.append(("spec.circuitBreaker.simpleCb.httpMaxEjectionPercent", reason))
    for part in ("loadBalancing", "circuitBreaker"):
        if (spec.get(part) or {}).get("custom") is not None:
            notes.append((f"spec.{part}.custom", "left out: opaque settings of another proxy"))
    return policy, notes


def _pool(pool: ConnectionPool) -> dict[str, Any]:
    http = {
        "http1MaxPendingRequests": pool.max_pending_requests,
        "http2MaxRequests": pool.max_requests,
        "maxRequestsPerConnection": pool.max_requests_per_connection,
        "maxRetries": pool.max_retries,
    }
    return {
        "tcp": {"maxConnections": pool.max_connections},
        "http": {key: value for key, value in http.items() if value is not None},
    }


def _ejection(outliers: OutlierDetection) -> dict[str, Any]:
    return {
        "consecutive5xxErrors": outliers.consecutive_5xx,
        "interval": _duration(outliers.interval or 0),
        "baseEjectionTime": _duration(outliers.ejection_time or 0),
        "minHealthPercent": _PANIC_PERCENT,
    }


def _duration(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    return f"{milliseconds}ms" if milliseconds % 1000 else f"{milliseconds // 1000}s"
