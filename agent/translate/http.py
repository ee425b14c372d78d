"""The HTTP connection manager of outbound and inbound listeners. Pure.

Every request passes here: no access log, no filter at work but the router unless the request's route enables one,
nothing that changes what the application sees.
"""

from __future__ import annotations

import json
from typing import Any

from envoy.config.core.v3 import base_pb2, protocol_pb2
from envoy.config.listener.v3 import listener_components_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.access_loggers.filters.cel.v3 import cel_pb2
from envoy.extensions.filters.http.grpc_web.v3 import grpc_web_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import header_mutation_pb2
from envoy.extensions.http.original_ip_detection.custom_header.v3 import custom_header_pb2
from google.protobuf import wrappers_pb2

from agent.translate.actions import route_filters
from agent.translate.guard import Guard
from agent.translate.resource import ADS, NEVER, packed

_CALLER_HEADER = "x-hostmesh-caller"
INTERNAL_HEADERS = (_CALLER_HEADER, "x-envoy-internal")
"""Headers that outbound listeners add for themselves; route tables remove them on the way out."""

_HCM = http_connection_manager_pb2.HttpConnectionManager
_OPEN = Guard()
_TRUE = wrappers_pb2.BoolValue(value=True)
_FALSE = wrappers_pb2.BoolValue(value=False)
# suppress_envoy_headers: answers bear no x-envoy-* headers that they wouldn't have without a mesh.
_ROUTER = http_connection_manager_pb2.HttpFilter(
    name="envoy.filters.http.router", typed_config=packed(router_pb2.Router(suppress_envoy_headers=True))
)
_GRPC_WEB = http_connection_manager_pb2.HttpFilter(
    name="envoy.filters.http.grpc_web", typed_config=packed(grpc_web_pb2.GrpcWeb())
)


def outbound_http(stat_prefix: str, route_table: str) -> Any:
    """Return the network filter of an outbound HTTP listener; its routes come from the route table."""
    manager = _manager(stat_prefix)
    manager.rds.route_config_name = route_table
    manager.rds.config_source.CopyFrom(ADS)
    manager.ClearField("http_filters")
    manager.http_filters.extend([*route_filters(), _ROUTER])
    _trust_caller(manager)
    return _filter(manager)


def gateway_http(stat_prefix: str, route_table: str, guard: Guard = _OPEN) -> Any:
    """Return the network filter of a gateway's HTTP listener: an edge, which believes no header about the client.

    A client's certificate, where one was asked for, goes to the application in x-forwarded-client-cert.
    """
    manager = _manager(stat_prefix)
    manager.rds.route_config_name = route_table
    manager.rds.config_source.CopyFrom(ADS)
    manager.ClearField("http_filters")
    cors, *others = route_filters()  # a preflight bears no token
    manager.http_filters.extend([cors, *guard.filters, *others, _ROUTER])
    manager.access_log.extend(guard.logs)
    _reply(manager, guard)
    manager.use_remote_address.value = True
    manager.normalize_path.value = True
    manager.forward_client_cert_details = _HCM.SANITIZE_SET
    manager.set_current_client_cert_details.subject.value = True
    manager.set_current_client_cert_details.uri = True
    manager.set_current_client_cert_details.dns = True
    return _filter(manager)


def inbound_http(stat_prefix: str, cluster: str, grpc_web: bool = False, guard: Guard = _OPEN) -> Any:
    """Return the network filter of an inbound HTTP chain: everything to one cluster, gRPC-Web as gRPC if wanted.

    The application learns its mesh client's SPIFFE ID from x-forwarded-client-cert, never one that the client made up.
    """
    manager = _manager(stat_prefix)
    manager.forward_client_cert_details = _HCM.SANITIZE_SET
    manager.set_current_client_cert_details.uri = True
    if grpc_web:
        manager.http_filters.insert(0, _GRPC_WEB)
    _set_guard(manager, guard)
    route = route_components_pb2.Route(name="default", match=route_components_pb2.RouteMatch(prefix="/"))
    route.route.cluster = cluster
    route.route.timeout.CopyFrom(NEVER)
    host = route_components_pb2.VirtualHost(name=cluster, domains=["*"], routes=[route])
    manager.route_config.CopyFrom(
        route_pb2.RouteConfiguration(name=cluster, virtual_hosts=[host], validate_clusters=_FALSE)
    )
    return _filter(manager)


def _set_guard(manager: Any, guard: Guard) -> None:
    """Put a guard before all filters. What it looks at is what the application sees: the path is normalized."""
    manager.access_log.extend(guard.logs)
    if guard.is_empty:
        return
    own = list(manager.http_filters)
    manager.ClearField("http_filters")
    manager.http_filters.extend((*guard.filters, *own))
    _reply(manager, guard)
    manager.normalize_path.value = True


def _reply(manager: Any, guard: Guard) -> None:
    """Tell refused clients what Mixer would have."""
    for reply in guard.replies:
        mapper = manager.local_reply_config.mappers.add()
        mapper.filter.extension_filter.name = "envoy.access_loggers.extension_filters.cel"
        wanted = cel_pb2.ExpressionFilter(expression=f"response.code_details == {json.dumps(reply.details)}")
        mapper.filter.extension_filter.typed_config.CopyFrom(packed(wanted))
        mapper.status_code.value = reply.status
        mapper.body.inline_string = reply.body


def _manager(stat_prefix: str) -> Any:
    return _HCM(
        stat_prefix=stat_prefix,
        codec_type=_HCM.AUTO,
        http_filters=[_ROUTER],
        http_protocol_options=protocol_pb2.Http1ProtocolOptions(accept_http_10=True),
        server_header_transformation=_HCM.PASS_THROUGH,
        # A sidecar is no edge: x-forwarded-for is the application's and its callers' business.
        use_remote_address=_FALSE,
        generate_request_id=_TRUE,
        stream_idle_timeout=NEVER,
        # "100 Continue" is the application's to say.
        proxy_100_continue=True,
        upgrade_configs=[_HCM.UpgradeConfig(upgrade_type="websocket")],
    )


def _trust_caller(manager: Any) -> None:
    """Let the host's own applications set x-envoy-upstream-rq-timeout-ms, x-envoy-max-retries and the like.

    Envoy takes these from requests of internal addresses only, and takes none for internal that it has from
    x-forwarded-for, which is the application's business here. So the connection's own address is written into a header
    before Envoy looks, and taken from there. (Inbound listeners do nothing of the kind: other hosts can't set them.)
    """
    mutation = header_mutation_pb2.HeaderMutation()
    option = mutation.mutations.add().append
    option.header.key = _CALLER_HEADER
    option.header.value = "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"
    option.append_action = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    manager.early_header_mutation_extensions.add(
        name="envoy.http.early_header_mutation.header_mutation", typed_config=packed(mutation)
    )
    detection = custom_header_pb2.CustomHeaderConfig(
        header_name=_CALLER_HEADER, allow_extension_to_set_address_as_trusted=True
    )
    manager.original_ip_detection_extensions.add(
        name="envoy.http.original_ip_detection.custom_header", typed_config=packed(detection)
    )
    for address in ("0.0.0.0", "::"):
        everybody = manager.internal_address_config.cidr_ranges.add(address_prefix=address)
        everybody.prefix_len.value = 0


def _filter(manager: Any) -> Any:
    return listener_components_pb2.Filter(
        name="envoy.filters.network.http_connection_manager", typed_config=packed(manager)
    )
