"""Destination policies from YAML to clusters: which rule is for whom, what they come to, what a change costs."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from msgspec import structs

from agent.api.document import read_documents
from agent.api.lowering.lower import lower
from agent.mesh.gateway import Credential
from agent.mesh.names import CLUSTER_TYPE, ENDPOINT_TYPE, LISTENER_TYPE, ROUTE_TYPE, SECRET_TYPE, XDS_ORDER
from agent.mesh.service import Health, Service, labels_of
from agent.mesh.snapshot import Desired, MeshSnapshot
from agent.translate.plan import Planner
from tests.unit.mesh_samples import MYSQL, OPTIONS, key, mesh, service, workload

WHOLE, V1 = "outbound|9080||reviews.service.consul", "outbound|9080|version=v1|reviews.service.consul"
Cluster = cluster_pb2.Cluster
LEAST, ROUND, RANDOM = Cluster.LEAST_REQUEST, Cluster.ROUND_ROBIN, Cluster.RANDOM

ROUTE_V1 = """
---
apiVersion: config.istio.io/v1alpha2
kind: RouteRule
metadata: {name: v1}
spec: {destination: {name: reviews}, route: [{labels: {version: v1}}]}
"""


def old(name: str, spec: str) -> str:
    return f"""
---
apiVersion: config.istio.io/v1alpha2
kind: DestinationPolicy
metadata: {{name: {name}}}
spec: {spec}
"""


def new(name: str, spec: str, namespace: str = "default") -> str:
    return f"""
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {name}, namespace: {namespace}}}
spec: {spec}
"""


def sample(rules: str, caller: str = "page", **labels: str) -> MeshSnapshot:
    services = [service("reviews"), service("page"), service("mysql", port=MYSQL)]
    documents, problems = read_documents(rules, "rules.yaml", "default")
    lowered = lower(documents, [each.key for each in services])
    assert problems == []
    assert lowered.faults == ()
    own = structs.replace(workload(caller), labels=labels_of(labels))
    return mesh(services, lowered.policies, workloads=(own,))


def plan(rules: str, **labels: str) -> Desired:
    desired = Planner().plan(sample(rules, **labels), OPTIONS)
    assert desired.faults == ()
    assert desired.resources.dangling() == []
    return desired


def cluster(desired: Desired, name: str = WHOLE) -> Any:
    return Cluster.FromString(desired.resources.of(CLUSTER_TYPE)[name].value)


def limit(desired: Desired, name: str = WHOLE) -> int:
    return int(cluster(desired, name).circuit_breakers.thresholds[0].max_connections.value)


def test_default_balancing_depends_on_the_generation() -> None:
    assert cluster(plan("")).lb_policy == LEAST
    assert cluster(plan(ROUTE_V1), V1).lb_policy == ROUND
    assert cluster(plan(old("p", "{destination: {name: reviews}}"))).lb_policy == ROUND
    assert cluster(plan(new("r", "{host: reviews}"))).lb_policy == LEAST
    assert cluster(plan(ROUTE_V1 + new("r", "{host: reviews}")), V1).lb_policy == LEAST


def test_a_policy_with_labels_is_for_what_a_rule_routes_there() -> None:
    rule = old(
        "p",
        "{destination: {name: reviews, labels: {version: v1}}, circuitBreaker: {simpleCb: {maxConnections: 7}},"
        " loadBalancing: {name: RANDOM}}",
    )
    assert limit(plan(rule)) == 2**32 - 1
    desired = plan(rule + ROUTE_V1)
    assert (limit(desired, V1), cluster(desired, V1).lb_policy) == (7, RANDOM)
    assert (limit(desired), cluster(desired).lb_policy) == (2**32 - 1, ROUND)


def test_a_subset_s_policy_is_for_a_route_rule_by_the_same_labels_too() -> None:
    rule = new(
        "r",
        "{host: reviews, trafficPolicy: {loadBalancer: {simple: RANDOM}}, subsets: ["
        "{name: one, labels: {version: v1}, trafficPolicy: {connectionPool: {tcp: {maxConnections: 7}}}},"
        "{name: all, trafficPolicy: {connectionPool: {tcp: {maxConnections: 5}}}},"
        "{name: narrow, labels: {version: v1, env: x}, trafficPolicy: {connectionPool: {tcp: {maxConnections: 3}}}}]}",
    )
    desired = plan(rule + ROUTE_V1)
    assert (limit(desired, V1), cluster(desired, V1).lb_policy) == (7, RANDOM)
    assert (limit(desired), cluster(desired).lb_policy) == (2**32 - 1, RANDOM)


def test_of_two_subsets_with_the_same_labels_each_keeps_its_own_policy() -> None:
    rules = new(
        "r",
        "{host: reviews, subsets: ["
        "{name: one, labels: {version: v1}, trafficPolicy: {connectionPool: {tcp: {maxConnections: 7}}}},"
        "{name: two, labels: {version: v1}}]}",
    )
    route = """
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: v}
spec:
  hosts: [reviews]
  http: [{route: [{destination: {host: reviews, subset: one}, weight: 50},
                  {destination: {host: reviews, subset: two}, weight: 50}]}]
"""
    desired = plan(rules + route)
    assert limit(desired, WHOLE.replace("||", "|one|")) == 7
    assert limit(desired, WHOLE.replace("||", "|two|")) == 2**32 - 1


def test_policies_of_the_first_generation_add_up() -> None:
    rules = (
        old("wide", "{destination: {name: reviews}, loadBalancing: {name: RANDOM}}")
        + old("mine", "{source: {name: page}, destination: {name: reviews}, loadBalancing: {name: LEAST_CONN}}")
        + old("cb", "{destination: {name: reviews}, circuitBreaker: {simpleCb: {maxConnections: 3}}}")
        + old("other", "{source: {name: mysql}, destination: {name: reviews}, loadBalancing: {name: ROUND_ROBIN}}")
    )
    desired = plan(rules)
    assert (cluster(desired).lb_policy, limit(desired)) == (LEAST, 3)


def test_simple_cb_has_the_documented_defaults() -> None:
    found = cluster(plan(old("p", "{destination: {name: reviews}, circuit_breaker: {simple_cb: {}}}")))
    (thresholds,) = found.circuit_breakers.thresholds
    assert (thresholds.max_connections.value, thresholds.max_requests.value) == (1024, 1024)
    assert (thresholds.max_pending_requests.value, thresholds.max_retries.value) == (1024, 3)
    ejection = found.outlier_detection
    assert (ejection.consecutive_5xx.value, ejection.interval.seconds) == (5, 10)
    assert (ejection.base_ejection_time.seconds, ejection.max_ejection_percent.value) == (30, 10)


def test_consecutive_errors_count_gateway_errors_alone() -> None:
    outlier = "outlierDetection: {consecutiveErrors: 7, maxEjectionPercent: 30}"
    ejection = cluster(plan(new("r", f"{{host: reviews, trafficPolicy: {{{outlier}}}}}"))).outlier_detection
    assert (ejection.consecutive_gateway_failure.value, ejection.enforcing_consecutive_gateway_failure.value) == (
        7,
        100,
    )
    assert ejection.enforcing_consecutive_5xx.value == 0
    assert ejection.HasField("enforcing_consecutive_5xx")
    assert (ejection.max_ejection_percent.value, ejection.always_eject_one_host.value) == (30, False)


def test_subsets_inherit_parts_and_ports_replace_all() -> None:
    rules = new(
        "r",
        """
  host: reviews
  trafficPolicy:
    loadBalancer: {simple: RANDOM}
    connectionPool: {tcp: {maxConnections: 5}}
  subsets:
  - {name: one, labels: {version: v1}, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}
  - name: two
    labels: {version: v2}
    trafficPolicy: {portLevelSettings: [{port: {number: 9080}, loadBalancer: {simple: ROUND_ROBIN}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - route:
    - {destination: {host: reviews, subset: one}, weight: 1}
    - {destination: {host: reviews, subset: two}, weight: 1}
""",
    )
    desired = plan(rules)
    one, two = (f"outbound|9080|{name}|reviews.service.consul" for name in ("one", "two"))
    assert (cluster(desired).lb_policy, limit(desired)) == (RANDOM, 5)
    assert (cluster(desired, one).lb_policy, limit(desired, one)) == (ROUND, 5)
    assert (cluster(desired, two).lb_policy, limit(desired, two)) == (ROUND, 2**32 - 1)


@pytest.mark.parametrize(
    ("rules", "labels", "expected"),
    [
        ([("r", "", "default")], {}, 5),
        ([("r", ", exportTo: [.]", "default")], {}, 5),
        ([("r", ", exportTo: [other]", "default")], {}, None),
        ([("r", "", "other")], {}, None),
        ([("r", ", workloadSelector: {matchLabels: {app: a}}", "default")], {}, None),
        ([("r", ", workloadSelector: {matchLabels: {app: a}}", "default")], {"app": "a"}, 5),
    ],
)
def test_which_callers_a_rule_is_for(
    rules: list[tuple[str, str, str]], labels: dict[str, str], expected: int | None
) -> None:
    pool = "trafficPolicy: {connectionPool: {tcp: {maxConnections: 5}}}"
    text = "".join(new(name, f"{{host: reviews.default, {pool}{more}}}", where) for name, more, where in rules)
    assert limit(plan(text, **labels)) == (expected or 2**32 - 1)


def test_the_rule_with_a_selector_comes_before_the_one_without() -> None:
    text = new("a", "{host: reviews, trafficPolicy: {connectionPool: {tcp: {maxConnections: 5}}}}") + new(
        "b",
        "{host: reviews, workloadSelector: {matchLabels: {app: x}},"
        " trafficPolicy: {connectionPool: {tcp: {maxConnections: 6}}}}",
    )
    assert (limit(plan(text)), limit(plan(text, app="x"))) == (5, 6)


def test_a_destination_rule_that_speaks_silences_policies() -> None:
    rules = old("p", "{destination: {name: reviews}, loadBalancing: {name: RANDOM}}")
    speaking = new("r", "{host: reviews, trafficPolicy: {connectionPool: {tcp: {maxConnections: 5}}}}")
    documents, _ = read_documents(rules + speaking, "rules.yaml", "default")
    lowered = lower(documents, [key("reviews")])
    (fault,) = lowered.faults
    assert fault.subject == "DestinationPolicy/p.default"
    assert "not used: DestinationRule/r.default" in fault.reason
    desired = plan(rules + new("r", "{host: reviews, subsets: [{name: one, labels: {version: v1}}]}"))
    assert cluster(desired).lb_policy == RANDOM


def test_two_rules_of_a_namespace_are_united() -> None:
    rules = new("a", "{host: reviews, trafficPolicy: {connectionPool: {tcp: {maxConnections: 5}}}}") + new(
        "b", "{host: reviews.default, trafficPolicy: {connectionPool: {tcp: {maxConnections: 6}}}}"
    )
    documents, _ = read_documents(rules, "rules.yaml", "default")
    lowered = lower(documents, [key("reviews")])
    assert [fault.subject for fault in lowered.faults] == ["DestinationRule/b.default"]
    (rule,) = lowered.policies[key("reviews")].connections
    assert rule.origin.name == "a"


def test_hashes_are_taken_on_routes_and_tcp_listeners() -> None:
    cookie = "{loadBalancer: {consistentHash: {httpCookie: {name: user, path: /, ttl: 0s}}}}"
    balancer = "loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 101}}}"
    address = f"{{{balancer}, connectionPool: {{tcp: {{idleTimeout: 9s}}}}}}"
    desired = plan(
        new("r", f"{{host: reviews, trafficPolicy: {cookie}}}") + new("m", f"{{host: mysql, trafficPolicy: {address}}}")
    )
    assert cluster(desired).lb_policy == Cluster.RING_HASH
    table = route_pb2.RouteConfiguration.FromString(desired.resources.of(ROUTE_TYPE)["9080"].value)
    by_host = {host.name: host.routes[0].route.hash_policy for host in table.virtual_hosts}
    (hashed,) = by_host["reviews.default:9080"]
    assert (hashed.cookie.name, hashed.cookie.HasField("ttl"), hashed.cookie.ttl.seconds) == ("user", True, 0)
    assert not by_host["page.default:9080"]
    listeners = desired.resources.of(LISTENER_TYPE)
    (name,) = (name for name in listeners if name.endswith("_3306"))
    proxy = tcp_proxy_pb2.TcpProxy()
    listener_pb2.Listener.FromString(listeners[name].value).filter_chains[0].filters[0].typed_config.Unpack(proxy)
    assert proxy.hash_policy[0].HasField("source_ip")
    assert proxy.idle_timeout.seconds == 9


@pytest.mark.parametrize(("mode", "matches", "socket"), [("DISABLE", 0, ""), ("ISTIO_MUTUAL", 0, "tls"), ("", 2, "")])
def test_tls_modes(mode: str, matches: int, socket: str) -> None:
    rules = new("r", f"{{host: reviews, trafficPolicy: {{tls: {{mode: {mode}}}}}}}") if mode else ""
    found = cluster(plan(rules))
    assert len(found.transport_socket_matches) == matches
    assert found.transport_socket.name.removeprefix("envoy.transport_sockets.") == socket


def test_ordered_mutual_tls_without_a_certificate_sends_nothing() -> None:
    snapshot = sample(new("r", "{host: reviews, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}"))
    desired = Planner().plan(structs.replace(snapshot, certificates={}), OPTIONS)
    assert [fault.subject for fault in desired.faults] == ["service reviews.default"]
    assert b"10.0.0" not in desired.resources.of(ENDPOINT_TYPE)[WHOLE].value


def test_a_secret_of_the_host_secures_a_client() -> None:
    rules = new(
        "r", "{host: reviews, trafficPolicy: {tls: {mode: MUTUAL, credentialName: shop, sni: reviews.example.com}}}"
    )
    snapshot = sample(rules)
    missing = Planner().plan(snapshot, OPTIONS)
    (fault,) = missing.faults
    assert "wants the secret shop" in fault.reason
    assert b"10.0.0" not in missing.resources.of(ENDPOINT_TYPE)[WHOLE].value
    desired = Planner().plan(
        structs.replace(snapshot, credentials={"shop": Credential(b"key", b"chain", b"roots")}), OPTIONS
    )
    assert desired.faults == ()
    assert desired.resources.dangling() == []
    references = desired.resources.of(CLUSTER_TYPE)[WHOLE].references
    assert {name for type_url, name in references if type_url == SECRET_TYPE} == {
        "credential/shop",
        "credential/shop/authorities",
    }
    assert b"10.0.0" in desired.resources.of(ENDPOINT_TYPE)[WHOLE].value


def test_a_budget_of_retries_counts_instead_of_their_limit() -> None:
    budget = "retryBudget: {percent: 12.5, minRetryConcurrency: 7}, connectionPool: {http: {maxRetries: 2}}"
    port = "portLevelSettings: [{port: {number: 9080}, loadBalancer: {simple: RANDOM}}]"
    desired = plan(new("r", f"{{host: reviews, trafficPolicy: {{{budget}, {port}}}}}"))
    (thresholds,) = cluster(desired).circuit_breakers.thresholds
    assert thresholds.retry_budget.budget_percent.value == 12.5
    assert thresholds.retry_budget.min_retry_concurrency.value == 7
    (standard,) = cluster(
        plan(new("r", "{host: reviews, trafficPolicy: {retryBudget: {}}}"))
    ).circuit_breakers.thresholds
    assert standard.HasField("retry_budget")
    assert not standard.retry_budget.HasField("budget_percent")  # Envoy's and Istio's default: 20 %


def test_a_tunnel_is_for_tcp() -> None:
    tunnel = "{targetHost: '2001:db8::1', targetPort: 443, protocol: POST}"
    desired = plan(new("m", f"{{host: mysql, trafficPolicy: {{tunnel: {tunnel}}}}}"))
    listeners = desired.resources.of(LISTENER_TYPE)
    (name,) = (name for name in listeners if name.endswith("_3306"))
    proxy = tcp_proxy_pb2.TcpProxy()
    listener_pb2.Listener.FromString(listeners[name].value).filter_chains[0].filters[0].typed_config.Unpack(proxy)
    assert (proxy.tunneling_config.hostname, proxy.tunneling_config.use_post) == ("[2001:db8::1]:443", True)
    split = """
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: v}
spec:
  hosts: [mysql]
  tcp:
  - route:
    - {destination: {host: mysql}, weight: 50}
    - {destination: {host: page, port: {number: 9080}}, weight: 50}
"""
    rules = new("m", f"{{host: mysql, trafficPolicy: {{tunnel: {tunnel}}}}}") + split
    divided = Planner().plan(sample(rules), OPTIONS)
    (fault,) = divided.faults
    assert "Envoy cannot split them between a tunnel and something else" in fault.reason
    (chain,) = listener_pb2.Listener.FromString(divided.resources.of(LISTENER_TYPE)[name].value).filter_chains
    assert not chain.filters  # closed
    refused = Planner().plan(sample(new("r", f"{{host: reviews, trafficPolicy: {{tunnel: {tunnel}}}}}")), OPTIONS)
    assert ["only TCP can have one" in fault.reason for fault in refused.faults] == [True]


def test_one_changed_policy_changes_one_service_and_a_flip_only_endpoints() -> None:
    rules = new(
        "r",
        "{host: reviews, trafficPolicy: {outlierDetection: {}, loadBalancer: {consistentHash: {useSourceIp: true}}}}",
    )
    planner = Planner()
    before = planner.plan(sample(""), OPTIONS)
    snapshot = sample(rules)
    after = planner.plan(snapshot, OPTIONS)
    assert changed(before, after) == {(CLUSTER_TYPE, WHOLE), (ROUTE_TYPE, "9080")}
    flipped = planner.plan(_flip(snapshot), OPTIONS)
    assert changed(after, flipped) == {(ENDPOINT_TYPE, WHOLE)}


def changed(before: Desired, after: Desired) -> set[tuple[str, str]]:
    return {
        (type_url, name)
        for type_url in XDS_ORDER
        for name, resource in after.resources.of(type_url).items()
        if before.resources.of(type_url).get(name) is not resource
    }


def _flip(snapshot: MeshSnapshot) -> MeshSnapshot:
    first, *others = snapshot.services[key("reviews")].instances
    flipped = Service.from_instances(key("reviews"), [structs.replace(first, health=Health.CRITICAL), *others])
    return structs.replace(snapshot, services={**snapshot.services, flipped.key: flipped})
