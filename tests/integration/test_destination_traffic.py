"""Destination policies on real traffic, in both generations: limits, ejection, hashes, localities."""

from __future__ import annotations

import json
import math
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.integration.moody_application import MoodyApplication, moody_application
from tests.integration.rendered_mesh import Client, loopback_network, rendered_envoy
from tests.ports import free_port
from tests.waiting import wait_for

PLACES = {"v1": "eu/a/1", "v2": "eu/a/2", "v3": "us/b/1"}
DEADLINE_SECONDS = 20.0
EJECTION_SECONDS = 0.5


class Site:
    """reviews v1, v2, v3 in three places; a client in the first one's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        net = loopback_network()
        self.port, self.admin = free_port(f"{net}.1"), free_port(f"{net}.1")
        self.client_address = f"{net}.1"
        self.addresses = {version: f"{net}.{10 + index}" for index, version in enumerate(PLACES)}
        self.applications: dict[str, MoodyApplication] = {}

    @property
    def catalog(self) -> str:
        nodes = "\n".join(
            f"- {{name: {v}, address: {address}, locality: {PLACES[v]}}}" for v, address in self.addresses.items()
        )
        instances = "\n".join(f"  - {{node: {v}, labels: {{version: {v}}}}}" for v in self.addresses)
        return f"""
mesh: {{mtls: disabled}}
nodes:
- {{name: page, address: {self.client_address}, locality: eu/a/1}}
{nodes}
services:
- name: productpage
  ports: [{{port: 9999, protocol: http}}]
  instances: [{{node: page, labels: {{version: v1}}}}]
- name: reviews
  ports: [{{name: http, port: {self.port}}}]
  instances:
{instances}
"""

    @contextmanager
    def client(self, rules: str) -> Iterator[Client]:
        """Run the client's Envoy with these rules; yields a client of it."""
        listening = (self.client_address, self.port)
        admin = f"{self.client_address}:{self.admin}"
        with rendered_envoy(
            self.folder, "page", self.catalog, rules, listening, bind_outbound=self.client_address, admin=admin
        ) as said:
            assert "left out" not in said, said
            with closing(Client(self.client_address, self.port)) as client:
                yield client

    def stat(self, name: str) -> int:
        """Return the sum of the reviews clusters' counters of that name."""
        url = f"http://{self.client_address}:{self.admin}/stats?format=json&filter=reviews.*{name}$"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return sum(stat.get("value", 0) for stat in json.load(answer)["stats"])

    def parallel(self, count: int) -> list[int]:
        """Send so many requests at once; return the status codes."""

        def one(_: int) -> int:
            with closing(Client(self.client_address, self.port)) as client:
                return client.get("reviews").status

        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(one, range(count)))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("destinations"))
    with ExitStack() as stack:
        for version, address in site.addresses.items():
            site.applications[version] = stack.enter_context(moody_application(version, address, site.port))
        yield site


@pytest.fixture
def site(running: Site) -> Site:
    for application in running.applications.values():
        application.status, application.delay = 200, 0.0
    return running


ROUTE_V1 = """
apiVersion: config.istio.io/v1alpha2
kind: RouteRule
metadata: {name: reviews-default}
spec: {destination: {name: reviews}, route: [{labels: {version: v1}}]}
"""
OLD_BREAKER = (
    ROUTE_V1
    + """
---
apiVersion: config.istio.io/v1beta1
kind: DestinationPolicy
metadata: {name: breaker}
spec:
  destination: {name: reviews, labels: {version: v1}}
  circuitBreaker:
    simpleCb: {maxConnections: 1, httpMaxPendingRequests: 1, httpMaxRequestsPerConnection: 1}
"""
)
NEW_BREAKER = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: breaker}
spec:
  host: reviews
  trafficPolicy:
    connectionPool:
      tcp: {maxConnections: 1}
      http: {http1MaxPendingRequests: 1, maxRequestsPerConnection: 1}
  subsets: [{name: v1, labels: {version: v1}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec: {hosts: [reviews], http: [{route: [{destination: {host: reviews, subset: v1}}]}]}
"""
MIXED_BREAKER = (
    ROUTE_V1
    + """
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: breaker}
spec:
  host: reviews
  subsets:
  - name: first
    labels: {version: v1}
    trafficPolicy:
      connectionPool:
        tcp: {maxConnections: 1}
        http: {http1MaxPendingRequests: 1, maxRequestsPerConnection: 1}
"""
)
UNROUTED_BREAKER = OLD_BREAKER.split("---")[1]


@pytest.mark.parametrize(
    "rules", [OLD_BREAKER, NEW_BREAKER, MIXED_BREAKER], ids=["v1alpha2", "v1", "a subset's for a RouteRule"]
)
def test_circuit_breaker_refuses_what_is_too_much(site: Site, rules: str) -> None:
    site.applications["v1"].delay = 0.3
    with site.client(rules):
        counts = Counter(site.parallel(3))
        # A request whose connection is still being made is a pending one too, so it may be two that are refused.
        assert set(counts) == {200, 503}, counts
        assert site.stat("upstream_rq_pending_overflow") == counts[503]
        assert Counter(site.parallel(1)) == {200: 1}


def test_a_policy_with_labels_does_nothing_where_no_rule_routes_to_them(site: Site) -> None:
    for application in site.applications.values():
        application.delay = 0.3
    with site.client(UNROUTED_BREAKER):
        assert Counter(site.parallel(9)) == {200: 9}


OLD_EJECTION = """
apiVersion: config.istio.io/v1alpha2
kind: DestinationPolicy
metadata: {name: ejection}
spec:
  destination: {name: reviews}
  loadBalancing: {name: ROUND_ROBIN}
  circuit_breaker:
    simple_cb:
      {http_consecutive_errors: 2, sleep_window: 2s, http_detection_interval: 0.5s, http_max_ejection_percent: 100}
"""
NEW_EJECTION = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: ejection}
spec:
  host: reviews
  trafficPolicy:
    loadBalancer: {simple: ROUND_ROBIN, localityLbSetting: {enabled: false}}
    outlierDetection: {consecutive5xxErrors: 2, baseEjectionTime: 2s, interval: 500ms, maxEjectionPercent: 100}
"""


@pytest.mark.parametrize(
    "rules",
    [OLD_EJECTION, NEW_EJECTION, NEW_EJECTION.replace(", maxEjectionPercent: 100", "")],
    ids=["v1alpha2", "v1", "no percentage"],
)
def test_an_instance_that_fails_is_ejected_and_comes_back(site: Site, rules: str) -> None:
    site.applications["v2"].status = 500
    with site.client(rules) as client:
        first = Counter(client.get("reviews").status for _ in range(6))
        assert first == {200: 4, 500: 2}
        assert site.stat("outlier_detection.ejections_enforced_total") == 1
        assert {client.get("reviews").name for _ in range(12)} == {"v1", "v3"}
        site.applications["v2"].status = 200
        wait_for(lambda: client.get("reviews").name == "v2", "the ejected instance comes back", DEADLINE_SECONDS)


RETRIES = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http: [{route: [{destination: {host: reviews}}], retries: {attempts: 2, retryOn: 5xx}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: budget}
spec: {host: reviews, trafficPolicy: {retryBudget: {percent: 0, minRetryConcurrency: 0}}}
"""


@pytest.mark.parametrize("budget", [False, True])
def test_a_budget_of_retries(site: Site, budget: bool) -> None:
    for application in site.applications.values():
        application.status = 503
        application.count()
    with site.client(RETRIES if budget else RETRIES.split("---", maxsplit=1)[0]) as client:
        assert client.get("reviews").status == 503
        assert sum(application.count() for application in site.applications.values()) == (1 if budget else 3)
        assert site.stat("upstream_rq_retry_overflow") == (1 if budget else 0)


HASH = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: hash}}
spec: {{host: reviews, trafficPolicy: {{loadBalancer: {{consistentHash: {0}}}}}}}
"""


@pytest.mark.parametrize("table", ["", ", maglev: {tableSize: 101}", ", ringHash: {minimumRingSize: 2048}"])
def test_the_same_cookie_leads_to_the_same_instance(site: Site, table: str) -> None:
    rules = HASH.format(f"{{httpCookie: {{name: user, path: /, ttl: 60s}}{table}}}")
    with site.client(rules) as client:
        chosen = {str(n): {client.get("reviews", cookie=f"user={n}").name for _ in range(4)} for n in range(40)}
        assert all(len(names) == 1 for names in chosen.values()), chosen
        assert {name for names in chosen.values() for name in names} == {"v1", "v2", "v3"}
        made = client.get("reviews")
        cookie = made.headers["set-cookie"]
        assert cookie.startswith("user=")
        assert "Max-Age=60" in cookie
        again = {client.get("reviews", cookie=cookie.split(";")[0].replace('"', "")).name for _ in range(6)}
        assert again == {made.name}


@pytest.mark.parametrize(
    ("key", "path", "header"),
    [("{httpHeaderName: x-user}", "/", "x_user"), ("{httpQueryParameterName: q}", "/?q=", "")],
)
def test_header_and_query_hashes(site: Site, key: str, path: str, header: str) -> None:
    with site.client(HASH.format(key)) as client:

        def ask(n: int) -> str:
            return (
                client.get("reviews", path, **{header: str(n)}).name
                if header
                else client.get("reviews", f"{path}{n}").name
            )

        chosen = [{ask(n) for _ in range(4)} for n in range(40)]
        assert all(len(names) == 1 for names in chosen)
        assert {name for names in chosen for name in names} == {"v1", "v2", "v3"}


@pytest.mark.parametrize("setting", ["", ", loadBalancer: {localityLbSetting: {failover: [{from: eu, to: us}]}}"])
def test_the_nearest_serves_until_it_fails(site: Site, setting: str) -> None:
    rules = f"""
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: near}}
spec:
  host: reviews
  trafficPolicy: {{outlierDetection: {{consecutive5xxErrors: 1, interval: 500ms, maxEjectionPercent: 100}}{setting}}}
"""
    with site.client(rules) as client:
        assert {client.get("reviews").name for _ in range(12)} == {"v1"}
        for failing, next_best in (("v1", "v2"), ("v2", "v3")):
            site.applications[failing].status = 503
            # Ejection goes by Envoy's main thread, so the next request may still be too early for it.
            wait_for(partial(_is_avoided, client, failing), f"{failing} is ejected", EJECTION_SECONDS)
            assert {client.get("reviews").name for _ in range(12)} == {next_best}


def test_traffic_is_distributed_over_localities(site: Site) -> None:
    rules = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: shares}
spec:
  host: reviews
  trafficPolicy:
    loadBalancer: {localityLbSetting: {distribute: [{from: eu/*, to: {eu/a/2: 80, us/*: 20}}]}}
"""
    requests = 400
    with site.client(rules) as client:
        counts = Counter(client.get("reviews").name for _ in range(requests))
    assert counts["v1"] == 0
    assert abs(counts["v3"] - 0.2 * requests) <= 5 * math.sqrt(requests * 0.2 * 0.8), counts


def _is_avoided(client: Client, name: str) -> bool:
    return client.get("reviews").name != name
