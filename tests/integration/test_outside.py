"""Hosts outside of the mesh on real traffic: EgressRule and ServiceEntry, on a host that captures mesh addresses only
and on one that captures everything; a server and a DNS server in a namespace of their own are the outside.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import msgspec
import pytest

from agent.lab.host import Host
from agent.lab.lab import Lab
from agent.lab.plan import CONSUL_HOST, HostPlan, bookinfo_app
from tests.integration.meshlab import APP_UID, bookinfo, hostmesh, node_status
from tests.integration.outside import (
    GREETING,
    OUTSIDE,
    SECOND,
    SUBNET,
    call,
    rules,
    start_outside,
    wait_for_call,
)
from tests.integration.outside_rules import (
    BY_NAME,
    BY_SERVER_NAME,
    INSIDE_WILD,
    INSIDE_WILD_V1,
    WILD,
    WILD_TLS,
    WILD_V1,
)
from tests.waiting import wait_for

SYSTEM_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    dns = {"dns": {"upstreams": [OUTSIDE]}}
    hosts = (
        CONSUL_HOST,
        HostPlan("narrow", (bookinfo_app("details", "v1", {}),), settings=dns),
        HostPlan(
            "wide", (bookinfo_app("productpage", "v1", {}),), settings={**dns, "interception": {"outbound": "all"}}
        ),
        HostPlan("outside", agent=False, consul=False),
        HostPlan("listed", settings={**dns, "interception": {"includeOutboundCidrs": [f"{SECOND}/32"]}}),
    )
    certificates = tmp_path_factory.mktemp("certificates")
    with Lab(msgspec.structs.replace(bookinfo(SUBNET), hosts=hosts, page_host="")) as lab:
        start_outside(lab["outside"], certificates)
        for host in ("narrow", "wide", "listed"):
            root = lab[host].path("etc/outside-root.pem")
            root.write_bytes((certificates / "outside.example" / "root-cert.pem").read_bytes())
            lab[host].exec("mount", "--bind", str(root), SYSTEM_AUTHORITIES)
        wait_for(lambda: call(lab["wide"], "http://details:9080/details/0")[0] == "200", "the mesh serves")
        yield lab


EGRESS = """
apiVersion: config.istio.io/v1alpha2
kind: EgressRule
metadata: {name: outside}
spec:
  destination: {service: outside.example}
  ports: [{port: 80, protocol: http}]
---
apiVersion: config.istio.io/v1alpha2
kind: EgressRule
metadata: {name: outside-tls}
spec:
  destination: {service: outside.example}
  ports: [{port: 443, protocol: https}]
"""
ENTRY = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside}
spec:
  hosts: [outside.example]
  location: MESH_EXTERNAL
  resolution: DNS
  ports:
  - {number: 80, name: http, protocol: HTTP}
  - {number: 443, name: http-tls, protocol: HTTP}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: outside}
spec:
  host: outside.example
  trafficPolicy:
    portLevelSettings: [{port: {number: 443}, tls: {mode: SIMPLE}}]
"""


@pytest.mark.parametrize("text", [EGRESS, ENTRY], ids=["EgressRule", "ServiceEntry"])
@pytest.mark.parametrize("host", ["narrow", "wide"])
def test_an_exact_host_by_http_and_by_tls_that_envoy_originates(lab: Lab, text: str, host: str) -> None:
    with rules(lab, text):
        wait_for(lambda: virtual(lab[host], "outside.example"), "the name leads to a virtual address")
        plain = wait_for_call(lab[host], "http://outside.example/headers", "200")
        assert plain == {"host": "outside.example", "path": "/headers", "sni": None}
        secure = wait_for_call(lab[host], "http://outside.example:443/", "200")
        assert secure["sni"] == "outside.example"
    wait_for(lambda: not virtual(lab[host], "outside.example"), "the name is the outside's again")


def virtual(host: Host, name: str) -> bool:
    """Tell whether a name leads to a virtual address on a host."""
    return host.exec("getent", "ahostsv4", name, uid=APP_UID, check=False).stdout.startswith("240.240.")


TIMEOUT_V1ALPHA2 = """
---
apiVersion: config.istio.io/v1alpha2
kind: RouteRule
metadata: {name: outside-timeout}
spec:
  destination: {service: outside.example}
  http_req_timeout: {simple_timeout: {timeout: 1s}}
"""
TIMEOUT_V1 = """
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: outside-timeout}
spec:
  hosts: [outside.example]
  http: [{timeout: 1s, route: [{destination: {host: outside.example}}]}]
"""


@pytest.mark.parametrize("text", [EGRESS + TIMEOUT_V1ALPHA2, ENTRY + TIMEOUT_V1], ids=["v1alpha2", "v1"])
def test_a_timeout_on_an_outside_host(lab: Lab, text: str) -> None:
    with rules(lab, text):
        wait_for_call(lab["narrow"], "http://outside.example/delay/0", "200")
        began = time.monotonic()
        wait_for_call(lab["narrow"], "http://outside.example/delay/4", "504")
        assert time.monotonic() - began < 4
        assert call(lab["narrow"], "http://outside.example/delay/0")[0] == "200"


def test_a_server_that_is_not_the_host_is_not_believed(lab: Lab) -> None:
    with rules(lab, EGRESS.replace("outside", "stranger")):
        wait_for_call(lab["narrow"], "http://stranger.example/", "200")
        wait_for_call(lab["narrow"], "http://stranger.example:443/", "503")


TLS_ENTRY = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: tls}
spec:
  hosts: [outside.example]
  resolution: DNS
  ports: [{number: 443, name: https, protocol: HTTPS}]
"""


def test_tls_of_the_application_passes_whole(lab: Lab) -> None:
    with rules(lab, TLS_ENTRY):
        wait_for(lambda: virtual(lab["narrow"], "outside.example"), "the name leads to a virtual address")
        for host in ("narrow", "wide"):
            assert wait_for_call(lab[host], "https://outside.example/", "200")["sni"] == "outside.example"


def test_a_port_that_no_rule_declares_stays_as_it_was(lab: Lab) -> None:
    """The name leads to a virtual address, whatever the port: a rule for HTTP takes no HTTPS away."""
    with rules(lab, EGRESS.partition("---")[0]):
        wait_for(lambda: virtual(lab["narrow"], "outside.example"), "the name leads to a virtual address")
        assert wait_for_call(lab["narrow"], "https://outside.example/", "200")["sni"] == "outside.example"
        hostmesh(lab, "mesh", "set", "outboundTrafficPolicy=REGISTRY_ONLY")
        wait_for_call(lab["narrow"], "https://outside.example/", "000")
        assert call(lab["narrow"], "http://outside.example/")[0] == "200"
        hostmesh(lab, "mesh", "set", "outboundTrafficPolicy=ALLOW_ANY")
        wait_for_call(lab["narrow"], "https://outside.example/", "200")


@pytest.fixture
def registry_only(lab: Lab) -> Iterator[None]:
    hostmesh(lab, "mesh", "set", "outboundTrafficPolicy=REGISTRY_ONLY")
    wait_for(lambda: call(lab["wide"], "http://other.example/")[0] in ("502", "000"), "unknown hosts are blocked")
    yield
    hostmesh(lab, "mesh", "set", "outboundTrafficPolicy=ALLOW_ANY")
    wait_for(lambda: call(lab["wide"], "http://other.example/")[0] == "200", "unknown hosts pass")


@pytest.mark.usefixtures("registry_only")
@pytest.mark.parametrize("text", [WILD, WILD_V1], ids=["v1alpha2", "v1"])
def test_a_wildcard_passes_and_others_are_blocked(lab: Lab, text: str) -> None:
    wide, narrow = lab["wide"], lab["narrow"]
    with rules(lab, text):
        assert wait_for_call(wide, "http://a.wild.example/x", "200")["host"] == "a.wild.example"
        assert wait_for_call(wide, "http://b.wild.example:443/", "200")["sni"] == "b.wild.example"
        assert call(wide, "http://a.wild.example/delay/4")[0] == "504"
        assert call(wide, "http://other.example/")[0] == "502"
        assert call(wide, "http://other.example:443/")[0] == "502"
        assert call(wide, "https://other.example/", "-k")[0] == "000"
        assert call(wide, "http://details:9080/details/0")[0] == "200"
        told = [f"{fault.subject}: {fault.reason}" for fault in node_status(narrow).faults]
        assert any("/wild.default: *.wild.example has no effect" in line for line in told)
        assert any("REGISTRY_ONLY blocks nothing on this host" in line for line in told)
        assert not node_status(wide).faults


@pytest.mark.usefixtures("registry_only")
@pytest.mark.parametrize("text", [WILD + "---" + INSIDE_WILD, WILD_V1 + "---" + INSIDE_WILD_V1], ids=["v1alpha2", "v1"])
def test_rules_for_one_host_of_a_wildcard(lab: Lab, text: str) -> None:
    wide = lab["wide"]
    with rules(lab, text):
        wait_for_call(wide, "http://a.wild.example/old", "301")
        assert call(wide, "http://a.wild.example/delay/2")[0] == "200", "its own timeout"
        assert call(wide, "http://b.wild.example/old")[0] == "200", "the others follow the wildcard's"
        assert call(wide, "http://b.wild.example/delay/2")[0] == "504"
        assert call(wide, "http://other.example/")[0] == "502"
        assert not node_status(wide).faults


@pytest.mark.usefixtures("registry_only")
def test_a_wildcard_goes_where_its_name_leads_whatever_the_address(lab: Lab) -> None:
    wide, elsewhere = lab["wide"], ("--connect-to", "::10.78.31.200:")
    with rules(lab, BY_NAME):
        assert wait_for_call(wide, "http://a.wild.example/x", "200", *elsewhere)["host"] == "a.wild.example"
        assert wait_for_call(wide, "http://b.wild.example:443/", "200", *elsewhere)["sni"] == "b.wild.example"
        assert call(wide, "http://other.example/", *elsewhere)[0] == "502"


@pytest.mark.usefixtures("registry_only")
def test_tls_of_a_wildcard_goes_where_its_server_name_leads(lab: Lab) -> None:
    wide, elsewhere = lab["wide"], ("--connect-to", "::10.78.31.200:")
    with rules(lab, BY_SERVER_NAME):
        assert wait_for_call(wide, "https://a.wild.example/", "200", *elsewhere)["sni"] == "a.wild.example"
        assert call(wide, "https://b.wild.example:8443/", *elsewhere)[0] == "200", "the very first connection"
        assert call(wide, "https://other.example/", "-k", *elsewhere)[0] == "000"


@pytest.mark.usefixtures("registry_only")
def test_tls_by_server_name_and_tcp_by_address(lab: Lab) -> None:
    wide = lab["wide"]
    with rules(lab, WILD_TLS):
        assert wait_for_call(wide, "https://a.wild.example/", "200")["sni"] == "a.wild.example"
        assert call(wide, "https://other.example/", "-k")[0] == "000"
        assert greeting(wide, SECOND) == GREETING, "a server that speaks first, on a port that is HTTP in the mesh"
        assert greeting(wide, OUTSIDE) == ""


def greets(host: Host, name: str) -> bool:
    return greeting(host, name, 7001) == GREETING


def greeting(host: Host, address: str, port: int = 9080) -> str:
    """Return what a server says first, within 5 s."""
    argv = ("timeout", "5", "bash", "-c", f"head -n 1 </dev/tcp/{address}/{port}")
    return host.exec(*argv, uid=APP_UID, check=False).stdout.strip()


@pytest.mark.usefixtures("registry_only")
def test_a_list_of_ranges_is_captured_beside_the_mesh(lab: Lab) -> None:
    listed = lab["listed"]
    inside = ("--connect-to", f"::{SECOND}:")
    with rules(lab, WILD):
        assert wait_for_call(listed, "http://a.wild.example/x", "200", *inside)["host"] == "a.wild.example"
        assert call(listed, "http://a.wild.example/delay/4", *inside)[0] == "504", "the rule holds there"
        assert call(listed, "http://other.example/", *inside)[0] == "502"
        assert call(listed, "http://other.example/")[0] == "200", "all else is left alone"
        assert not node_status(listed).faults


STATIC = f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: static}}
spec:
  hosts: [static.corp]
  location: MESH_INTERNAL
  resolution: STATIC
  ports:
  - {{number: 7000, name: http, protocol: HTTP, targetPort: 80}}
  - {{number: 7001, name: tcp, protocol: TCP}}
  endpoints:
  - {{address: {OUTSIDE}, labels: {{version: v1}}, ports: {{tcp: 9080}}}}
  - {{address: 10.78.31.200, labels: {{version: v2}}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: static}}
spec: {{host: static.corp, subsets: [{{name: v1, labels: {{version: v1}}}}]}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: static}}
spec:
  hosts: [static.corp]
  http: [{{route: [{{destination: {{host: static.corp, subset: v1}}}}]}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: named}}
spec:
  hosts: [named.corp]
  resolution: DNS_ROUND_ROBIN
  ports: [{{number: 7001, name: tcp, protocol: TCP, targetPort: 9080}}]
  endpoints: [{{address: outside.example}}]
"""


def test_static_and_named_endpoints_by_virtual_address(lab: Lab) -> None:
    with rules(lab, STATIC):
        answers = [wait_for_call(lab["narrow"], "http://static.corp:7000/", "200") for _ in range(4)]
        assert {answer["host"] for answer in answers} == {"static.corp:7000"}
        for name in ("named.corp", "static.corp"):
            wait_for(partial(greets, lab["narrow"], name), f"{name} greets")


def test_a_dns_server_that_is_away_keeps_nothing_else_waiting(lab: Lab) -> None:
    """Envoy starts anew while no name outside can be looked up; later it finds them by itself."""
    narrow, outside = lab["narrow"], lab["outside"]
    with rules(lab, EGRESS):
        wait_for_call(narrow, "http://outside.example/", "200")
        dns, envoy = outside.pid("dns"), narrow.pid("envoy")
        outside.exec("kill", "-STOP", str(dns))
        try:
            narrow.exec("kill", "-KILL", str(envoy))
            wait_for(lambda: narrow.pid("envoy") not in (None, envoy), "Envoy starts again")
            began = time.monotonic()
            wait_for_call(narrow, "http://details:9080/details/0", "200")
            assert time.monotonic() - began < 4
        finally:
            outside.exec("kill", "-CONT", str(dns))
        wait_for_call(narrow, "http://outside.example/", "200")


def test_foreign_traffic_passes_where_any_is_allowed(lab: Lab) -> None:
    wide = lab["wide"]
    for url in ("http://other.example/", "https://other.example/"):
        assert call(wide, url)[0] == "200"
    assert greeting(wide, OUTSIDE) == GREETING, "it is no HTTP, though details' port has the same number"
    assert call(wide, "http://details:9080/details/0")[0] == "200"
