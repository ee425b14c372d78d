"""Inbound listeners: mutual TLS and plain text in front of this host's workloads. Pure.

Never plain text by mistake: under `strict` a workload without a certificate has no chain at all, so that its captured
connections are closed. Connections captured for any other port are closed too.
"""

from __future__ import annotations

from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_components_pb2
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2

from agent.mesh.names import (
    CLUSTER_TYPE,
    LISTENER_TYPE,
    SECRET_TYPE,
    TRUST_BUNDLE_SECRET,
    inbound_cluster,
)
from agent.mesh.service import Protocol
from agent.mesh.settings import MtlsMode
from agent.mesh.snapshot import Resource
from agent.mesh.traffic_policy import TrafficPolicy
from agent.translate.asked import AskedServers
from agent.translate.clusters import workload_cluster
from agent.translate.detection import DETECTED_HTTP, http_inspector, restrict
from agent.translate.facts import Security
from agent.translate.guard import connection_guard, http_guard, looks_at_server_names
from agent.translate.http import inbound_http
from agent.translate.listeners import listener, original_dst_filter
from agent.translate.options import PlanOptions
from agent.translate.policies import Approach
from agent.translate.resolve import Target
from agent.translate.resource import packed, resource, seconds
from agent.translate.served import InboundPort
from agent.translate.tcp import tcp_to
from agent.translate.tls import MESH_ALPN, MESH_HTTP_ALPN, server_socket

VIRTUAL_INBOUND = "virtualInbound"

CLIENT_FIRST_SECONDS = 5.0
SERVER_FIRST_SECONDS = 0.1
"""How long a permissive listener waits for the first bytes to tell mutual TLS from plain text; then it is plain text.

In HTTP the client always speaks first, and so does a mesh client of any protocol (its TLS hello comes with the
connection). Only a plain-text client of a protocol where the server speaks first (MySQL) waits in vain, so on a host
with a TCP port the wait is short. A TLS hello that was lost and comes later than that is taken for plain text: that
connection fails, and the client's Envoy, which sees its handshake fail, connects again. Under `strict` and `disabled`
nobody waits.
"""

HANDSHAKE_SECONDS = 10.0
"""A connection that has not finished its handshake by then is closed: else anybody could hold any number of them."""


def inbound_resources(
    ports: tuple[InboundPort, ...], security: Security, options: PlanOptions, servers: AskedServers
) -> tuple[tuple[Resource, ...], tuple[Resource, ...]]:
    """Return (clusters, listeners) for the local workloads."""
    clusters = tuple(workload_cluster(served.port, served.address, served.target, served.pool) for served in ports)
    if options.intercepted:
        addresses = ["0.0.0.0", *(["::"] if options.ipv6 else [])]
        return clusters, (_listener(VIRTUAL_INBOUND, addresses, options.inbound_port, ports, security, servers, True),)
    if options.bind_inbound is None:
        return (), ()
    bound = options.bind_inbound
    return clusters, tuple(
        _listener(
            f"inbound_{bound}_{served.port.number}", [bound], served.port.number, (served,), security, servers, False
        )
        for served in ports
    )


def _listener(
    name: str,
    addresses: list[str],
    number: int,
    ports: tuple[InboundPort, ...],
    security: Security,
    servers: AskedServers,
    captured: bool,
) -> Resource:
    message = listener(name, addresses, number)
    message.traffic_direction = base_pb2.INBOUND
    references = []
    for served in ports:
        chains = _chains(served, security, servers)
        for chain in chains:
            if captured:
                chain.filter_chain_match.destination_port.value = served.port.number
            if chain.HasField("transport_socket"):
                references += [(SECRET_TYPE, served.certificate), (SECRET_TYPE, TRUST_BUNDLE_SECRET)]
        message.filter_chains.extend(chains)
        if chains:
            asked = {*http_guard(served.rules, servers).clusters, *connection_guard(served.rules, servers).clusters}
            references += [(CLUSTER_TYPE, cluster) for cluster in (inbound_cluster(served.port.number), *asked)]
    if captured:
        message.listener_filters.append(original_dst_filter())
    if references:
        _inspect(message, ports, captured)
    if not message.filter_chains:
        # A listener without a chain is refused; this one matches no connection there can be.
        message.filter_chains.add(name="closed").filter_chain_match.destination_port.value = number
    return resource(LISTENER_TYPE, name, message, references)


def _chains(served: InboundPort, security: Security, servers: AskedServers) -> list[Any]:
    """Return the filter chains of a port: [mutual TLS] [plain text], as the mode says and the certificate allows."""
    port, chains = served.port, []
    detects = port.protocol is Protocol.AUTO
    if served.mode is not MtlsMode.DISABLED and served.certificate in security.certificates:
        socket = server_socket(served.certificate, security.trust_domains)
        if detects:
            chains.append(_chain("mtls-http", served, servers, socket, as_http=True))
            chains[-1].filter_chain_match.application_protocols.append(MESH_HTTP_ALPN)
        chains.append(_chain("mtls", served, servers, socket))
        if served.mode is MtlsMode.PERMISSIVE:
            # By ALPN alone: Envoy never falls back from a chain for `tls` to one without, which the application's own
            # TLS must come to.
            chains[-1].filter_chain_match.application_protocols.append(MESH_ALPN)
    if served.mode is not MtlsMode.STRICT:
        chains.append(_chain("plain", served, servers))
        chains += _plain_detected(served, servers) if detects else ()
    return chains


def _plain_detected(served: InboundPort, servers: AskedServers) -> tuple[Any, Any]:
    """Return the chains of a port's plain text; the application's own TLS, which may offer http/1.1, goes past them."""
    http, other = _chain("plain-http", served, servers, as_http=True), _chain("plain-other", served, servers)
    for chain in (http, other):
        chain.filter_chain_match.transport_protocol = "raw_buffer"
    http.filter_chain_match.application_protocols.extend(DETECTED_HTTP)
    return http, other


def _chain(kind: str, served: InboundPort, servers: AskedServers, socket: Any = None, *, as_http: bool = False) -> Any:
    port, cluster = served.port, inbound_cluster(served.port.number)
    chain = listener_components_pb2.FilterChain(name=f"{cluster}{kind}")
    if as_http or port.protocol.is_http:
        grpc_web = port.protocol is Protocol.GRPC_WEB
        guard = http_guard(served.rules, servers, secured=socket is not None)
        chain.filters.append(inbound_http(f"inbound_{port.number}", cluster, grpc_web, guard))
    else:
        guard = connection_guard(served.rules, servers, secured=socket is not None)
        passing = tcp_to(f"inbound_{port.number}", (Target(cluster, 100),), _approach(served), guard.logs)
        chain.filters.extend((*guard.filters, passing))
    if socket is not None:
        chain.transport_socket.CopyFrom(socket)
        chain.transport_socket_connect_timeout.CopyFrom(seconds(HANDSHAKE_SECONDS))
    return chain


def _approach(served: InboundPort) -> Approach:
    return Approach.from_policy(TrafficPolicy(connections=served.pool))


def _inspect(message: Any, ports: tuple[InboundPort, ...], captured: bool) -> None:
    """Let the listener look at the first bytes where chains are chosen by them, and nowhere else."""
    detecting = [served for served in ports if served.port.protocol is Protocol.AUTO]
    told_by_tls = [
        served
        for served in ports
        if served.mode is MtlsMode.PERMISSIVE
        or (served.mode is MtlsMode.STRICT and served in detecting)
        or looks_at_server_names(served.rules)
    ]
    if told_by_tls:
        inspector = message.listener_filters.add(
            name="envoy.filters.listener.tls_inspector", typed_config=packed(tls_inspector_pb2.TlsInspector())
        )
        if captured and len(told_by_tls) < len(ports):
            restrict(inspector, _numbers(told_by_tls))
    if told_by_bytes := [served for served in detecting if served.mode is not MtlsMode.STRICT]:
        message.listener_filters.append(http_inspector(_numbers(told_by_bytes) if captured else ()))
    if waiting := [*told_by_tls, *detecting]:
        client_first = all(served.mode is MtlsMode.STRICT or served.port.protocol.is_http for served in waiting)
        wait = CLIENT_FIRST_SECONDS if client_first else SERVER_FIRST_SECONDS
        message.listener_filters_timeout.CopyFrom(seconds(wait))
        message.continue_on_listener_filters_timeout = True


def _numbers(ports: list[InboundPort]) -> list[int]:
    return [served.port.number for served in ports]
