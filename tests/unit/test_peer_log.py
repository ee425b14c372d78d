"""The log of who is at the other end: put on every inbound chain, other logs still log ends only, lines read back."""

from __future__ import annotations

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from msgspec import structs

from agent.api.document import read_documents
from agent.mesh.names import LISTENER_TYPE
from agent.translate.peer_log import peers_of, with_peer_log
from agent.translate.plan import Planner
from agent.translate.resource import packed, resource
from tests.unit.fuzzed_mesh import HOSTS, snapshot


def test_lines_are_read_back_and_those_cut_off_are_not() -> None:
    lines = ["10.0.0.1:40000 443 00aB\n", "[fd00::1]:40001 443 -\n", "10.0.0.2:40002 443\n", "10.0.0.3:40003 1 zz\n"]
    lines += ["10.0.0.1:40000 8443 -\n", "", "10.0.0.4:40004 443 00a"]
    assert peers_of(lines) == {
        ("10.0.0.1:40000", 443): 0xAB,
        ("10.0.0.1:40000", 8443): None,
        ("[fd00::1]:40001", 443): None,
    }


def test_every_chain_gets_the_log_and_other_logs_still_log_ends_only() -> None:
    message = listener_pb2.Listener(name="in")
    other = accesslog_pb2.AccessLog(name="other")
    manager = http_connection_manager_pb2.HttpConnectionManager(stat_prefix="a", access_log=[other])
    message.filter_chains.add().filters.add(typed_config=packed(manager))
    message.filter_chains.add().filters.add(typed_config=packed(tcp_proxy_pb2.TcpProxy(stat_prefix="b", cluster="c")))
    (logged,) = with_peer_log([resource(LISTENER_TYPE, "in", message, [("type", "name")])], "/run/peers.log")
    assert logged.references == {("type", "name")}
    made = listener_pb2.Listener.FromString(logged.value)
    http, tcp = http_connection_manager_pb2.HttpConnectionManager(), tcp_proxy_pb2.TcpProxy()
    assert made.filter_chains[0].filters[0].typed_config.Unpack(http)
    assert made.filter_chains[1].filters[0].typed_config.Unpack(tcp)
    assert [log.name for log in http.access_log] == ["other", "envoy.access_loggers.file"]
    assert len(http.access_log[0].filter.log_type_filter.types) == 3
    assert http.access_log[1].filter.runtime_filter.runtime_key == "hostmesh.peer_log"
    assert http.access_log_options.flush_access_log_on_new_request
    assert [log.name for log in tcp.access_log] == ["envoy.access_loggers.file"]
    assert tcp.access_log_options.access_log_flush_interval.seconds == 1


GATEWAY = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  servers:
  - {port: {number: 443, name: a, protocol: HTTPS}, hosts: ["*"], tls: {mode: ISTIO_MUTUAL}}
  - {port: {number: 443, name: b, protocol: HTTP}, hosts: ["*"], bind: 10.0.0.1}
  - {port: {number: 80, name: c, protocol: HTTP}, hosts: ["*"]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: x}
spec: {hosts: ["*"], gateways: [edge], http: [{route: [{destination: {host: reviews}}]}]}
"""


def test_gateways_log_on_every_address_of_a_port_where_clients_have_certificates() -> None:
    documents, problems = read_documents(GATEWAY, "x", "default")
    assert not problems
    options = structs.replace(HOSTS["gateway"], peer_log="/run/peers.log")
    listeners = Planner().plan(snapshot(documents), options).resources.of(LISTENER_TYPE)
    logging = {name: b"/run/peers.log" in made.value for name, made in listeners.items()}
    assert logging == {"gateway_0.0.0.0_443": True, "gateway_10.0.0.1_443": True, "gateway_0.0.0.0_80": False}
