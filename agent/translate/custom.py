"""CUSTOM policies → Envoy's filters that ask an authorizer, for requests and for connections. Pure.

An RBAC filter in shadow notes which requests the policies are about; only these are asked about.
"""

from __future__ import annotations

from typing import Any

from envoy.config.core.v3 import config_source_pb2
from envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2
from envoy.extensions.filters.network.ext_authz.v3 import ext_authz_pb2 as network_ext_authz_pb2
from envoy.type.matcher.v3 import string_pb2, value_pb2
from msgspec import Struct

from agent.mesh.authorizer import Authorizer, GrpcAuthorizer, HttpAuthorizer
from agent.translate.claims import metadata_matcher
from agent.translate.patterns import pattern
from agent.translate.resource import packed, seconds


class Asked(Struct, frozen=True):
    """An authorizer and the cluster where it is asked."""

    provider: str
    authorizer: GrpcAuthorizer | HttpAuthorizer
    cluster: str


def http_authorizer(asked: Asked, owner: str, word: str) -> Any:
    """Return the configuration of the HTTP filter (envoy…ext_authz.v3.ExtAuthz)."""
    authorizer = asked.authorizer
    config = ext_authz_pb2.ExtAuthz(
        transport_api_version=config_source_pb2.V3,
        failure_mode_allow=authorizer.fail_open,
        clear_route_cache=authorizer.clear_route_cache,
        filter_enabled_metadata=_noted(owner, word),
        include_peer_certificate=True,
    )
    config.status_on_error.code = int(authorizer.status_on_error)
    if body := authorizer.include_request_body_in_check:
        config.with_request_body.max_request_bytes = body.max_request_bytes
        config.with_request_body.allow_partial_message = body.allow_partial_message
        config.with_request_body.pack_as_bytes = body.pack_as_bytes
    if isinstance(authorizer, HttpAuthorizer):
        _set_http(config, authorizer, asked.cluster)
    else:
        _set_grpc(config, authorizer, asked.cluster)
    return packed(config)


def connection_authorizer(asked: Asked, owner: str, word: str) -> Any | None:
    """Return the configuration of the network filter; None: this authorizer takes requests only."""
    authorizer = asked.authorizer
    if isinstance(authorizer, HttpAuthorizer):
        return None
    config = network_ext_authz_pb2.ExtAuthz(
        stat_prefix="inbound_ext_authz",
        transport_api_version=config_source_pb2.V3,
        failure_mode_allow=authorizer.fail_open,
        filter_enabled_metadata=_noted(owner, word),
        include_peer_certificate=True,
    )
    _set_grpc(config, authorizer, asked.cluster)
    return packed(config)


def _noted(owner: str, word: str) -> Any:
    value = value_pb2.ValueMatcher(string_match=string_pb2.StringMatcher(exact="denied"))
    return metadata_matcher(owner, (f"{word}_shadow_engine_result",), value)


def _set_grpc(config: Any, authorizer: Authorizer, cluster: str) -> None:
    config.grpc_service.envoy_grpc.cluster_name = cluster
    config.grpc_service.timeout.CopyFrom(seconds(authorizer.seconds))


def _set_http(config: Any, authorizer: HttpAuthorizer, cluster: str) -> None:
    server = config.http_service.server_uri
    server.uri, server.cluster = f"http://{authorizer.host}:{authorizer.port}", cluster
    server.timeout.CopyFrom(seconds(authorizer.seconds))
    config.http_service.path_prefix = authorizer.path_prefix
    for name, value in sorted(authorizer.include_additional_headers_in_check.items()):
        config.http_service.authorization_request.headers_to_add.add(key=name, value=value)
    answer = config.http_service.authorization_response
    for field, names in (
        (config.allowed_headers, authorizer.include_request_headers_in_check),
        (answer.allowed_upstream_headers, authorizer.headers_to_upstream_on_allow),
        (answer.allowed_client_headers, authorizer.headers_to_downstream_on_deny),
        (answer.allowed_client_headers_on_success, authorizer.headers_to_downstream_on_allow),
    ):
        if names:  # Envoy refuses an empty list
            field.patterns.extend(pattern(name, ignore_case=True) for name in names)
