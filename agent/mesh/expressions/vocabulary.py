"""The attributes that expressions may ask for, with their types (Istio's attribute vocabulary, 0.2 to 0.8)."""

from __future__ import annotations

from collections.abc import Mapping

from agent.mesh.expressions.tree import Type

_PEER = {
    "uid": Type.STRING,
    "ip": Type.IP_ADDRESS,
    "port": Type.INT64,
    "name": Type.STRING,
    "namespace": Type.STRING,
    "labels": Type.STRING_MAP,
    "user": Type.STRING,
    "principal": Type.STRING,
    "owner": Type.STRING,
    "domain": Type.STRING,
    "service": Type.STRING,
    "service.uid": Type.STRING,
    "service.name": Type.STRING,
    "service.namespace": Type.STRING,
    "service.host": Type.STRING,
    "serviceAccount": Type.STRING,
    "workload.uid": Type.STRING,
    "workload.name": Type.STRING,
    "workload.namespace": Type.STRING,
}
_OTHERS = {
    Type.STRING: """
        destination.container.name destination.container.image
        request.id request.path request.url_path request.host request.method request.reason request.referer
        request.scheme request.useragent request.api_key request.auth.principal request.auth.audiences
        request.auth.presenter request.auth.raw_claims response.grpc_status response.grpc_message
        connection.id connection.event connection.requested_server_name context.protocol context.proxy_error_code
        context.reporter.kind context.reporter.uid api.service api.version api.operation api.protocol
        check.error_message
        """,
    Type.INT64: """
        request.size request.total_size response.size response.total_size response.code check.error_code
        connection.received.bytes connection.received.bytes_total connection.sent.bytes connection.sent.bytes_total
        """,
    Type.BOOL: "connection.mtls context.reporter.local check.cache_hit quota.cache_hit",
    Type.TIMESTAMP: "request.time response.time context.time",
    Type.DURATION: "response.duration connection.duration",
    Type.STRING_MAP: "request.headers request.query_params request.auth.claims response.headers",
}

VOCABULARY: Mapping[str, Type] = {
    **{f"{side}.{name}": type_ for side in ("source", "destination", "origin") for name, type_ in _PEER.items()},
    **{name: type_ for type_, names in _OTHERS.items() for name in names.split()},
}
"""Attribute → type."""
