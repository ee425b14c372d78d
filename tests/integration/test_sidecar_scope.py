"""Sidecars, WorkloadEntries and selected instances through Consul and the agents: on traffic, a scope that changes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator

import msgspec
import pytest

from agent.lab.lab import Lab
from agent.lab.plan import CONSUL_HOST, HostPlan, bookinfo_app
from tests.integration.meshlab import APP_UID, agents, bookinfo, envoy_admin, hostmesh, load, node_status, wait_settled
from tests.integration.outside import call, rules, wait_for_call
from tests.waiting import wait_for

DETAILS, RATINGS = "http://details:9080/details/0", "http://ratings.shop:9080/ratings/0"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    hosts = (
        CONSUL_HOST,
        HostPlan("caller", (bookinfo_app("productpage", "v1", {}),)),
        HostPlan("details", (bookinfo_app("details", "v1", {}),)),
        HostPlan("ratings", (msgspec.structs.replace(bookinfo_app("ratings", "v1", {}), namespace="shop"),)),
    )
    with Lab(msgspec.structs.replace(bookinfo("10.79.6.0/24"), hosts=hosts, page_host="")) as lab:
        for url in (DETAILS, RATINGS):
            wait_for_call(lab["caller"], url, "200")
        yield lab


def sidecar(*hosts: str, more: str = "") -> str:
    spec = f"{{egress: [{{hosts: {json.dumps(hosts)}}}]{more}}}"
    return f"apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: scope}}\nspec: {spec}\n"


def clusters(lab: Lab) -> set[str]:
    """Return the services that the caller's Envoy has a cluster of."""
    lines = envoy_admin(lab["caller"], "/clusters").splitlines()
    return {line.split("::")[0].split("|")[3] for line in lines if line.startswith("outbound|")}


def is_known(lab: Lab, name: str) -> bool:
    return lab["caller"].exec("getent", "ahostsv4", name, uid=APP_UID, check=False).stdout.startswith("240.240.")


def test_the_scope_changes_live_and_costs_no_request_to_what_stays(lab: Lab) -> None:
    caller = lab["caller"]
    with load(caller, DETAILS, rate=200) as running:
        with rules(lab, sidecar("./*")):
            wait_for(lambda: not is_known(lab, "ratings.shop"), "what is out of the scope has no name")
            wait_for(lambda: clusters(lab) == {"details.service.consul", "productpage.service.consul"}, "no cluster")
            assert call(caller, RATINGS)[0] == "000"
            status = node_status(caller)
            assert (status.scope.sidecar, status.scope.services, status.scope.known) == ("Sidecar/scope.default", 2, 3)
            hostmesh(lab, "apply", "-f", "-", stdin=sidecar("./*", "shop/ratings.shop.svc.cluster.local"))
            wait_for_call(caller, RATINGS, "200")
            hostmesh(lab, "apply", "-f", "-", stdin=sidecar("./details.default.svc.cluster.local"))
            wait_for(lambda: not is_known(lab, "productpage"), "a narrower scope")
        wait_for_call(caller, RATINGS, "200")
    assert running.total > 100
    assert running.failures == []


def test_what_routes_in_the_scope_lead_to_is_had_and_cannot_be_called_itself(lab: Lab) -> None:
    route = """
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: details}
spec:
  hosts: [details]
  http:
  - match: [{uri: {prefix: /ratings}}]
    route: [{destination: {host: ratings.shop.svc.cluster.local}}]
  - route: [{destination: {host: details}}]
"""
    caller = lab["caller"]
    with rules(lab, sidecar("./details.default.svc.cluster.local") + route):
        wait_for(lambda: not is_known(lab, "ratings.shop"), "what is out of the scope has no name")
        assert wait_for_call(caller, "http://details:9080/ratings/0", "200")["ratings"]
        assert call(caller, DETAILS)[0] == "200"
        # What routes lead to is followed: a restart of the application is seen at once.
        pid = lab["ratings"].pid("ratings")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_for_call(caller, "http://details:9080/ratings/0", "503")
        lab["ratings"].start_app("ratings")
        wait_for_call(caller, "http://details:9080/ratings/0", "200")


def test_a_sidecars_outbound_traffic_policy(lab: Lab) -> None:
    caller, foreign = lab["caller"], ("-H", "Host: foreign.example")
    wait_for_call(caller, DETAILS, "503", *foreign)
    with rules(lab, sidecar("*/*", more=", outboundTrafficPolicy: {mode: REGISTRY_ONLY}")):
        wait_for_call(caller, DETAILS, "502", *foreign)
        assert call(caller, DETAILS)[0] == "200"


SELECTING = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: stars, namespace: shop}
spec:
  hosts: [stars.corp]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 9080}]
  workloadSelector: {labels: {app: ratings}}
"""
WORKLOAD = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: stars, namespace: shop}
spec:
  hosts: [stars.corp]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 9080}]
  workloadSelector: {labels: {entry: stars}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: stars, namespace: shop}
spec: {address: ADDRESS, labels: {entry: stars}, serviceAccount: bookinfo-ratings}
"""


@pytest.fixture
def strict(lab: Lab) -> Iterator[None]:
    hostmesh(lab, "mesh", "set", "mtls=strict")
    wait_settled(lab)
    yield
    hostmesh(lab, "mesh", "set", "mtls=permissive")
    wait_settled(lab)


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("text", [SELECTING, WORKLOAD], ids=["instances", "WorkloadEntry"])
def test_selected_workloads_are_called_as_a_host_of_the_mesh_with_mutual_tls(lab: Lab, text: str) -> None:
    caller = lab["caller"]
    with rules(lab, text.replace("ADDRESS", lab["ratings"].address)):
        assert wait_for_call(caller, "http://stars.corp/ratings/0", "200")["ratings"]
        assert not any(node_status(host).faults for host in agents(lab))
    if "WorkloadEntry" in text:
        with rules(lab, text.replace("ADDRESS", lab["ratings"].address).replace("bookinfo-ratings", "other")):
            wait_for_call(caller, "http://stars.corp/ratings/0", "503")  # the server is not who it should be
