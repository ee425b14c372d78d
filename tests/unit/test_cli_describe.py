"""`describe` from records: the text, and what is read from an Envoy's answers."""

from __future__ import annotations

import json
from typing import Any

from agent.api.analysis.world import World
from agent.api.document import read_documents
from agent.cli.describe_live import inbound_record, outbound_record, read_inbound
from agent.cli.describe_text import instance_text, service_text
from agent.cli.description import instance_record, service_record
from agent.mesh.routes import Fault
from agent.mesh.service import Instance, Port, Protocol, Service, ServiceKey
from agent.mesh.settings import MeshSettings
from agent.mesh.status import NodeStatus, ProxyStatus, ScopeStatus

REVIEWS = ServiceKey("default", "reviews")
RULE = """apiVersion: config.istio.io/v1alpha2
kind: RouteRule
metadata: {name: jason, namespace: default}
spec:
  destination: {name: reviews}
  match: {request: {headers: {cookie: {exact: user=jason}}}}
  route: [{labels: {version: v2}}]
"""
CHAIN = {"filter_chain_match": {"destination_port": 9080}}


class FakeAgent:
    """Answers with these views."""

    def __init__(self, **views: Any) -> None:
        self._views = views

    def view(self, name: str) -> bytes:
        return json.dumps(self._views[name]).encode()


def dump(kind: str, **sections: Any) -> Any:
    return {"configs": [{"@type": f"type.googleapis.com/envoy.admin.v3.{kind}", **sections}]}


TO_CLUSTER = {
    "filter_chain_match": {
        "server_names": ["a.example.com"],
        "prefix_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}],
    },
    "filters": [
        {
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": {"cluster": "outbound|3306|v1|reviews.service.consul"},
        }
    ],
}
INBOUND = FakeAgent(
    listeners=dump(
        "ListenersConfigDump",
        dynamic_listeners=[
            {"active_state": {"listener": {"filter_chains": [{**CHAIN, "transport_socket": {}}, CHAIN]}}},
            {"active_state": {"listener": {"filter_chains": [{"filter_chain_match": {"destination_port": 1}}]}}},
        ],
    ),
    secret=dump("SecretsConfigDump"),
    stats={"stats": [{"name": "cluster.inbound|9080||.upstream_rq_total", "value": 7}, {"histograms": {}}]},
)
OUTBOUND = FakeAgent(
    routes=dump(
        "RoutesConfigDump",
        dynamic_route_configs=[
            {
                "route_config": {
                    "name": "9080",
                    "virtual_hosts": [
                        {
                            "name": name,
                            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": f"outbound|9080||{name}"}}],
                        }
                        for name in ("reviews.service.consul", "ratings.service.consul")
                    ],
                }
            }
        ],
    ),
    listeners=dump(
        "ListenersConfigDump",
        dynamic_listeners=[{"active_state": {"listener": {"name": "240.240.0.1_3306", "filter_chains": [TO_CLUSTER]}}}],
    ),
    endpoints={"cluster_statuses": [{"name": "outbound|9080||other.service.consul", "host_statuses": []}]},
)


def instance() -> Instance:
    port = Port(9080, "http", Protocol.HTTP)
    labels = (("version", "v2"),)
    return Instance("reviews-1", REVIEWS, "vm-1", "10.0.0.1", (port,), labels, service_account="bookinfo", proxied=True)


def world() -> World:
    documents, problems = read_documents(RULE, "rules.yaml", "default")
    assert not problems
    return World(documents, {REVIEWS: Service.from_instances(REVIEWS, [instance()])}, MeshSettings())


def test_a_service_and_its_rules() -> None:
    record = service_record(world(), REVIEWS, "default")
    record["envoy"] = outbound_record(OUTBOUND, "page", REVIEWS)
    text = service_text(json.loads(json.dumps(record)))
    for line in (
        "Service:   reviews.default",
        "  RouteRule/jason.default (1 match): 100 % reviews.default/version=v2",
        "  otherwise: all instances",
        "Envoy of page:",
        "  port 9080: /* → outbound|9080||reviews.service.consul",
        "  listener 240.240.0.1_3306: a.example.com to 10.0.0.0/8 → outbound|3306|v1|reviews.service.consul",
    ):
        assert line in text.splitlines(), text
    assert "ratings" not in text


CONNECTIONS = """apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: db, namespace: default}
spec:
  hosts: [db]
  tcp:
  - match: [{destinationSubnets: [10.0.0.0/8]}]
    route: [{destination: {host: gone}}]
  - route: [{destination: {host: db}}]
  tls:
  - match: [{sniHosts: [db]}]
    route: [{destination: {host: db}}]
"""


def test_a_service_of_connections() -> None:
    documents, _ = read_documents(CONNECTIONS, "rules.yaml", "default")
    key, ports = ServiceKey("default", "db"), (Port(443, "tls", Protocol.TLS), Port(3306, "mysql", Protocol.MYSQL))
    made = Service.from_instances(key, [Instance("db-1", key, "vm-1", "10.0.0.1", ports)])
    text = service_text(service_record(World(documents, {key: made}, MeshSettings()), key, "default"))
    for line in (
        "  VirtualService/db.default tls[0] (1 match): 100 % db.default",
        "  VirtualService/db.default tcp[0] (1 match): closed",
        "  VirtualService/db.default tcp[1] (always): 100 % db.default",
        "  otherwise: no connection (tls), all instances (tcp)",
    ):
        assert line in text.splitlines(), text


def test_an_instance_and_its_envoy() -> None:
    proxy = ProxyStatus(True, "1.40", 5, 5, (Fault("listener x", "bad"),))
    scope = ScopeStatus("Sidecar/s.default", 3, 12)
    record = instance_record(world(), instance(), NodeStatus("vm-1", proxy=proxy, scope=scope))
    record["envoy"] = inbound_record(read_inbound(INBOUND), instance())
    assert record["envoy"]["ports"] == [
        {"number": 9080, "takes": ["mutual TLS", "plain text"], "requests": 7, "answered5xx": 0, "connections": 0}
    ]
    text = instance_text(json.loads(json.dumps(record)))
    assert "Envoy:     9080: mutual TLS, plain text; 7 requests, 0 answered 5xx, 0 connections" in text
    assert "Proxy:     NACK, revision 5 of 5, Envoy 1.40" in text
    assert "  listener x: bad" in text
    assert "Scope:     3 of 12 services, by Sidecar/s.default" in text
    record["envoy"] = {"error": "vm-1: 10.0.0.1 port 15022 cannot be reached"}
    assert "Envoy:     cannot be asked: vm-1: 10.0.0.1 port 15022 cannot be reached" in instance_text(record)


def test_an_instance_without_a_report() -> None:
    assert "Proxy:     its agent does not report" in instance_text(instance_record(world(), instance(), None))
