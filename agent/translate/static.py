"""Desired → one static bootstrap that a stock Envoy runs without an agent (`hostmesh render`). Pure.

The same messages as by xDS; only what refers to xDS is put in its place: endpoints into clusters, route tables into
listeners, certificates as static secrets that name files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from envoy.config.bootstrap.v3 import bootstrap_pb2
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.transport_sockets.proxy_protocol.v3 import upstream_proxy_protocol_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_pb2
from google.protobuf import json_format
from msgspec import Struct

from agent.mesh import names
from agent.mesh.snapshot import Desired, Resources
from agent.translate.bootstrap import limits
from agent.translate.resource import packed


class CertificateFiles(Struct, frozen=True):
    """Where the certificate and the trust bundle are on the machine that runs Envoy."""

    key: str
    chain: str
    root: str
    secrets: str = ""
    """Of a gateway: where the folders of its `credentialName`s are."""


def static_bootstrap(
    desired: Desired,
    node_id: str,
    files: CertificateFiles | None = None,
    admin: Mapping[str, Any] | None = None,
    cluster: str = "hostmesh",
) -> bytes:
    """Return the bootstrap as JSON, the same bytes for the same plan.

    `admin` is Envoy's admin message as JSON; None: none. Without `files` the text holds the certificates.
    `cluster` is what Zipkin calls whose spans it sends.
    """
    message = bootstrap_pb2.Bootstrap()
    message.node.id = node_id
    message.node.cluster = cluster
    static = message.static_resources
    static.clusters.extend(_clusters(desired.resources))
    static.listeners.extend(_listeners(desired.resources))
    static.secrets.extend(_secrets(desired.resources, files))
    plain = json_format.MessageToDict(message, preserving_proto_field_name=True)
    plain |= {**limits(), **({"admin": dict(admin)} if admin else {})}
    return json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def _clusters(resources: Resources) -> list[Any]:
    endpoints = resources.of(names.ENDPOINT_TYPE)
    clusters = []
    for name, held in sorted(resources.of(names.CLUSTER_TYPE).items()):
        cluster = cluster_pb2.Cluster.FromString(held.value)
        if cluster.type == cluster_pb2.Cluster.EDS:
            held_as = cluster.eds_cluster_config.service_name or name
            cluster.ClearField("eds_cluster_config")
            cluster.type = cluster_pb2.Cluster.STATIC
            cluster.load_assignment.CopyFrom(endpoint_pb2.ClusterLoadAssignment.FromString(endpoints[held_as].value))
        for socket in (
            cluster.transport_socket,
            *(match.transport_socket for match in cluster.transport_socket_matches),
        ):
            _localize_upstream(socket)
        clusters.append(cluster)
    return clusters


def _listeners(resources: Resources) -> list[Any]:
    tables = resources.of(names.ROUTE_TYPE)
    listeners = []
    for _, held in sorted(resources.of(names.LISTENER_TYPE).items()):
        listener = listener_pb2.Listener.FromString(held.value)
        for chain in listener.filter_chains:
            _localize_socket(chain.transport_socket, tls_pb2.DownstreamTlsContext)
            for network_filter in chain.filters:
                _localize_routes(network_filter.typed_config, {name: table.value for name, table in tables.items()})
        listeners.append(listener)
    return listeners


def _secrets(resources: Resources, files: CertificateFiles | None) -> list[Any]:
    secrets = []
    every = (held for of_type in resources.by_type.values() for held in of_type.values())
    used = {reference for held in every for reference in held.references}
    for name, held in sorted(resources.of(names.SECRET_TYPE).items()):
        if name.startswith(names.CREDENTIAL_PREFIX) and (names.SECRET_TYPE, name) not in used:
            continue  # a secret of the host that nothing here is for
        secret = secret_pb2.Secret.FromString(held.value)
        if files and files.secrets and secret.name.startswith(names.CREDENTIAL_PREFIX):
            _name_files(secret, files.secrets)
        elif files and secret.HasField("tls_certificate"):
            secret.tls_certificate.private_key.filename = files.key
            secret.tls_certificate.certificate_chain.filename = files.chain
        elif files:
            secret.validation_context.trusted_ca.filename = files.root
        secrets.append(secret)
    return secrets


def _name_files(secret: Any, folder: str) -> None:
    """Let a secret of the host name its files, as the agent reads them."""
    name = secret.name.removeprefix(names.CREDENTIAL_PREFIX).removesuffix(names.AUTHORITIES_SUFFIX)
    place = f"{folder}/{name}"
    files = tuple(f"{place}/{file}" for file in ("tls.crt", "tls.key", "ca.crt", "ca.crl"))
    chain, key, authorities, crl = name.split("~") if "~" in name else files
    if secret.HasField("tls_certificate"):
        secret.tls_certificate.private_key.filename = key
        secret.tls_certificate.certificate_chain.filename = chain
    else:
        secret.validation_context.trusted_ca.filename = authorities
        if secret.validation_context.HasField("crl"):
            secret.validation_context.crl.filename = crl


def _localize_upstream(socket: Any) -> None:
    """Do so for a client's socket, which may be inside another."""
    wrapper = upstream_proxy_protocol_pb2.ProxyProtocolUpstreamTransport()
    if socket.typed_config.Is(wrapper.DESCRIPTOR):
        socket.typed_config.Unpack(wrapper)
        _localize_socket(wrapper.transport_socket, tls_pb2.UpstreamTlsContext)
        socket.typed_config.CopyFrom(packed(wrapper))
    else:
        _localize_socket(socket, tls_pb2.UpstreamTlsContext)


def _localize_socket(socket: Any, kind: Any) -> None:
    """Make a TLS context take its secrets from the bootstrap: a secret's name without a source means that."""
    if not socket.typed_config.Is(kind.DESCRIPTOR):
        return
    context = kind()
    socket.typed_config.Unpack(context)
    common = context.common_tls_context
    for secret in common.tls_certificate_sds_secret_configs:
        secret.ClearField("sds_config")
    if common.HasField("combined_validation_context"):
        common.combined_validation_context.validation_context_sds_secret_config.ClearField("sds_config")
    socket.typed_config.CopyFrom(packed(context))


def _localize_routes(config: Any, tables: Mapping[str, bytes]) -> None:
    manager = http_connection_manager_pb2.HttpConnectionManager()
    if not config.Unpack(manager) or not manager.HasField("rds"):
        return
    manager.route_config.CopyFrom(route_pb2.RouteConfiguration.FromString(tables[manager.rds.route_config_name]))
    config.CopyFrom(packed(manager))
