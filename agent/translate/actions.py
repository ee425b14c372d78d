"""HttpActions → the parts of Envoy's Route. Pure.

Faults and CORS are done by filters that every outbound listener has, disabled: a route's own configuration enables
them for its requests alone. So a rule that uses them changes the route table and not the listener, whose connections
would be drained, and requests of other routes never see the filter.
"""

from __future__ import annotations

from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.common.fault.v3 import fault_pb2 as fault_delay_pb2
from envoy.extensions.filters.http.cors.v3 import cors_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2
from envoy.extensions.retry.priority.previous_priorities.v3 import previous_priorities_config_pb2
from envoy.type.matcher.v3 import regex_pb2, string_pb2
from envoy.type.v3 import percent_pb2
from google.protobuf import wrappers_pb2

from agent.mesh.actions import (
    Abort,
    CorsPolicy,
    Delay,
    DirectResponse,
    HeaderChanges,
    Headers,
    HttpActions,
    Redirect,
    RetryPolicy,
    Rewrite,
)
from agent.translate.resolve import Shadow
from agent.translate.resource import packed, seconds

CORS_FILTER = "envoy.filters.http.cors"
FAULT_FILTER = "envoy.filters.http.fault"
MAX_DIRECT_RESPONSE_BYTES = 1024 * 1024
"""Istio's limit; Envoy's own is 4 KiB unless the route table says more."""

_HttpFilter = http_connection_manager_pb2.HttpFilter
_Redirect = route_components_pb2.RedirectAction
_REDIRECT_CODES = {
    301: _Redirect.MOVED_PERMANENTLY,
    302: _Redirect.FOUND,
    303: _Redirect.SEE_OTHER,
    307: _Redirect.TEMPORARY_REDIRECT,
    308: _Redirect.PERMANENT_REDIRECT,
}
_MILLION = percent_pb2.FractionalPercent.MILLION
_OVERWRITE = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
_APPEND = base_pb2.HeaderValueOption.APPEND_IF_EXISTS_OR_ADD


def route_filters() -> list[Any]:
    """Return the HTTP filters that routes can enable (envoy…http_connection_manager.v3.HttpFilter), in their order."""
    return [
        _HttpFilter(name=CORS_FILTER, typed_config=packed(cors_pb2.Cors()), disabled=True),
        _HttpFilter(name=FAULT_FILTER, typed_config=packed(fault_pb2.HTTPFault()), disabled=True),
    ]


def set_answer(route: Any, answer: Redirect | DirectResponse, port: int) -> None:
    """Make the route answer by itself; `port` is the one that its callers use."""
    if isinstance(answer, DirectResponse):
        route.direct_response.status = answer.status
        if answer.body:
            route.direct_response.body.inline_bytes = answer.body
        return
    redirect = route.redirect
    redirect.response_code = _REDIRECT_CODES[answer.code]
    redirect.host_redirect = answer.authority
    if answer.scheme:
        redirect.scheme_redirect = answer.scheme
    if answer.port is not None or answer.keeps_port:
        redirect.port_redirect = answer.port or port
    if answer.path:
        redirect.path_redirect = answer.path
    elif answer.prefix:
        redirect.prefix_rewrite = answer.prefix


def set_forwarding(action: Any, actions: HttpActions, shadows: tuple[Shadow, ...]) -> None:
    """Set what an envoy.config.route.v3.RouteAction does on the way: rewrites, timeout, retries, mirrors."""
    if actions.rewrite is not None:
        _set_rewrite(action, actions.rewrite)
    if actions.headers.authority:
        action.host_rewrite_literal = actions.headers.authority
    # Zero, which Envoy takes as none; unset it would be 15 s.
    action.timeout.CopyFrom(seconds(actions.timeout_seconds or 0.0))
    if actions.retries is not None:
        action.retry_policy.CopyFrom(retry_policy(actions.retries))
    for shadow in shadows:
        mirror = action.request_mirror_policies.add(cluster=shadow.cluster)
        mirror.runtime_fraction.default_value.CopyFrom(_fraction(shadow.percent))


def set_filters(route: Any, actions: HttpActions) -> None:
    """Enable the filters that the actions need, for this route."""
    if actions.delay is not None or actions.abort is not None:
        route.typed_per_filter_config[FAULT_FILTER].CopyFrom(packed(_fault(actions.delay, actions.abort)))
    if actions.cors is not None:
        route.typed_per_filter_config[CORS_FILTER].CopyFrom(packed(_cors(actions.cors)))


def set_headers(owner: Any, headers: Headers) -> None:
    """Set the header changes of a Route or a ClusterWeight; the authority is another field's business."""
    owner.request_headers_to_add.extend(_header_options(headers.request))
    owner.request_headers_to_remove.extend(headers.request.remove)
    owner.response_headers_to_add.extend(_header_options(headers.response))
    owner.response_headers_to_remove.extend(headers.response.remove)


def retry_policy(policy: RetryPolicy) -> Any:
    """Return the message (envoy.config.route.v3.RetryPolicy)."""
    message = route_components_pb2.RetryPolicy(
        retry_on=",".join(policy.on),
        num_retries=wrappers_pb2.UInt32Value(value=policy.attempts),
        retriable_status_codes=policy.status_codes,
    )
    if policy.per_try_seconds is not None:
        message.per_try_timeout.CopyFrom(seconds(policy.per_try_seconds))
    if policy.backoff_seconds is not None:
        message.retry_back_off.base_interval.CopyFrom(seconds(policy.backoff_seconds))
    if policy.attempts and policy.other_hosts:
        message.host_selection_retry_max_attempts = 5
        message.retry_host_predicate.add(
            name="envoy.retry_host_predicates.previous_hosts",
            typed_config=packed(previous_hosts_pb2.PreviousHostsPredicate()),
        )
    if policy.attempts and policy.other_localities:
        message.retry_priority.name = "envoy.retry_priorities.previous_priorities"
        priorities = previous_priorities_config_pb2.PreviousPrioritiesConfig(update_frequency=2)
        message.retry_priority.typed_config.CopyFrom(packed(priorities))
    return message


def _set_rewrite(action: Any, rewrite: Rewrite) -> None:
    if rewrite.pattern:
        action.regex_rewrite.pattern.regex = rewrite.pattern
        action.regex_rewrite.substitution = rewrite.substitution
    elif rewrite.prefix:
        action.prefix_rewrite = rewrite.prefix


def _header_options(changes: HeaderChanges) -> list[Any]:
    return [
        base_pb2.HeaderValueOption(
            header=base_pb2.HeaderValue(key=name, value=value), append_action=action, keep_empty_value=not value
        )
        for pairs, action in ((changes.set, _OVERWRITE), (changes.add, _APPEND))
        for name, value in pairs
    ]


def _fault(delay: Delay | None, abort: Abort | None) -> Any:
    message = fault_pb2.HTTPFault()
    if delay is not None:
        message.delay.CopyFrom(
            fault_delay_pb2.FaultDelay(fixed_delay=seconds(delay.seconds), percentage=_fraction(delay.percent))
        )
    if abort is not None:
        message.abort.percentage.CopyFrom(_fraction(abort.percent))
        if abort.grpc_status is not None:
            message.abort.grpc_status = abort.grpc_status
        else:
            message.abort.http_status = abort.http_status or 0
    return message


def _cors(policy: CorsPolicy) -> Any:
    message = cors_pb2.CorsPolicy(
        allow_methods=",".join(policy.methods),
        allow_headers=",".join(policy.allow_headers),
        expose_headers=",".join(policy.expose_headers),
        allow_origin_string_match=[_origin(kind, value) for kind, value in policy.origins],
        forward_not_matching_preflights=wrappers_pb2.BoolValue(value=policy.forwards_unmatched),
    )
    message.filter_enabled.default_value.CopyFrom(_fraction(100.0))
    if policy.max_age_seconds is not None:
        message.max_age = str(policy.max_age_seconds)
    if policy.credentials is not None:
        message.allow_credentials.value = policy.credentials
    return message


def _origin(kind: str, value: str) -> Any:
    if kind == "regex":
        return string_pb2.StringMatcher(safe_regex=regex_pb2.RegexMatcher(regex=value))
    return string_pb2.StringMatcher(**{kind: value})


def _fraction(percent: float) -> Any:
    """Return a share in millionths: as fine as Istio's (0.0001 %)."""
    return percent_pb2.FractionalPercent(numerator=round(percent * 10_000), denominator=_MILLION)
