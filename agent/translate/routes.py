"""Route tables: one for each HTTP port number, with a virtual host for each service that has this port. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import sha256
from typing import Any

from envoy.config.route.v3 import route_components_pb2, route_pb2
from google.protobuf import wrappers_pb2
from msgspec import Struct

from agent.flow.ordered import Block
from agent.mesh.actions import Headers, RetryPolicy
from agent.mesh.names import CLUSTER_TYPE, ROUTE_TYPE, detected_table, full_host, hosts_by_service, outbound_cluster
from agent.mesh.routes import Fault, HttpMatch
from agent.mesh.service import ServiceKey
from agent.mesh.snapshot import GroupedReferences, Reference, Resource, Vip
from agent.translate.actions import (
    MAX_DIRECT_RESPONSE_BYTES,
    retry_policy,
    set_answer,
    set_filters,
    set_forwarding,
    set_headers,
)
from agent.translate.balancing import set_hash_policies
from agent.translate.clusters import PASSTHROUGH
from agent.translate.http import INTERNAL_HEADERS
from agent.translate.matches import UnusableMatch, route_match
from agent.translate.policies import Approach
from agent.translate.resolve import ResolvedPort, ResolvedRoute, Target
from agent.translate.resource import is_ip, serialized, version
from agent.translate.tracing import name_spans

_HOST = re.compile(r"(\*[-.]?)?[a-z0-9_]([a-z0-9._-]*[a-z0-9_])?", re.ASCII)
# All three are safe for any request: no instance has seen any of it (a race with a restart, mostly).
_RETRY = retry_policy(RetryPolicy(2, ("connect-failure", "refused-stream", "reset-before-request")))


class VirtualHost(Struct, frozen=True):
    """A part of a route table."""

    message: Any
    """envoy.config.route.v3.VirtualHost."""
    references: frozenset[Reference]
    """The clusters, as what refers to them says it."""
    faults: tuple[Fault, ...]


class EncodedHost(Struct, frozen=True):
    """A service's part of a route table, as it stands in tables of thousands."""

    encoded: bytes
    """The virtual host as a field of its table; nothing if it has no domains: Envoy would refuse the whole table."""
    digest: bytes
    references: frozenset[Reference]
    faults: tuple[Fault, ...]


class _Neighbours(Struct, frozen=True):
    """Some virtual hosts that follow each other in a table."""

    encoded: bytes
    digests: bytes
    references: frozenset[Reference]


def virtual_host(
    key: ServiceKey,
    port: int,
    hosts: tuple[str, ...],
    vip: Vip | None,
    resolved: ResolvedPort,
    approaches: tuple[tuple[str, Approach], ...] = (),
    spans: bool = False,
) -> EncodedHost:
    """Return the virtual host of a service port; `hosts` are the names it has for this host's caller."""
    host = _service_host(key, port, _domains(hosts, vip), resolved, approaches, spans)
    return encoded(host)


def routed_host(
    name: str,
    domains: Iterable[str],
    port: int,
    resolved: ResolvedPort,
    default: str | None,
    approaches: tuple[tuple[str, Approach], ...] = (),
) -> VirtualHost:
    """Return the virtual host of these domains; `default` is the cluster of what no route matches, None: 404."""
    message = route_components_pb2.VirtualHost(name=name, domains=domains)
    clusters: set[str] = set()
    faults: list[Fault] = []
    for route in resolved.routes:
        try:
            message.routes.extend(_routes(route, port))
            clusters.update(route.clusters)
        except UnusableMatch as problem:
            faults.append(Fault(route.name.rsplit("/", 1)[0], f"left out: {problem}"))
    if default is not None:
        message.routes.append(_plain_route("default", default))
        clusters.add(default)
    if approaches:
        set_hash_policies(message.routes, dict(approaches))
    message.retry_policy.CopyFrom(_RETRY)
    return VirtualHost(message, frozenset((CLUSTER_TYPE, cluster) for cluster in clusters), tuple(faults))


def route_table(port: int, hosts: Iterable[Block[ServiceKey, EncodedHost]], passes_unknown: bool) -> Resource:
    """Return the route table of a port; requests for unknown names pass to where they were going, or get 502."""
    return hosts_table(str(port), hosts, encoded(_passing_host() if passes_unknown else _refusing_host()))


def hosts_table(name: str, blocks: Iterable[Block[Any, EncodedHost]], *last: EncodedHost) -> Resource:
    """Return the table of these hosts.

    Messages one after the other are one message (protobuf, "Last One Wins"; repeated fields add up): a table of
    thousands of hosts, of which one has changed, is put together from those encoded before, and what tells it from
    others is made of what tells its hosts from others.
    """
    table = route_pb2.RouteConfiguration(
        name=name,
        # `Host: reviews:9080` is `reviews`: half the domains, so half the work for Envoy's main thread at a change.
        ignore_port_in_host_matching=True,
    )
    table.request_headers_to_remove.extend(INTERNAL_HEADERS)
    table.max_direct_response_body_size_bytes.value = MAX_DIRECT_RESPONSE_BYTES
    own, hosts = serialized(table), [*(block.made(_neighbours) for block in blocks), _neighbours(last)]
    digests = b"".join((*(some.digests for some in hosts), own))
    value = b"".join((*(some.encoded for some in hosts), own))
    return Resource(ROUTE_TYPE, name, version(digests), value, GroupedReferences(some.references for some in hosts))


def encoded(host: VirtualHost) -> EncodedHost:
    """Return the virtual host as it stands in tables."""
    if not host.message.domains:
        return EncodedHost(b"", b"", frozenset(), host.faults)
    field = serialized(route_pb2.RouteConfiguration(virtual_hosts=[host.message]))
    return EncodedHost(field, sha256(field).digest(), host.references, host.faults)


def _neighbours(hosts: tuple[EncodedHost, ...]) -> _Neighbours:
    return _Neighbours(
        b"".join([host.encoded for host in hosts]),
        b"".join([host.digest for host in hosts]),
        frozenset[Reference]().union(*[host.references for host in hosts]),
    )


def service_table(
    key: ServiceKey, port: int, resolved: ResolvedPort, approaches: tuple[tuple[str, Approach], ...], spans: bool
) -> tuple[Resource, tuple[Fault, ...]]:
    """Return the route table of one service port, for whatever host: connections come to its own address."""
    host = _service_host(key, port, ["*"], resolved, approaches, spans)
    return hosts_table(detected_table(key, port), (), encoded(host)), host.faults


def _service_host(
    key: ServiceKey,
    port: int,
    domains: Iterable[str],
    resolved: ResolvedPort,
    approaches: tuple[tuple[str, Approach], ...],
    spans: bool,
) -> VirtualHost:
    """Return the virtual host of a service port; `spans`: its routes bear names for them."""
    default = outbound_cluster(key, port) if resolved.default_route else None
    host = routed_host(f"{key}:{port}", domains, port, resolved, default, approaches)
    if spans:
        name_spans(host.message.routes, f"{full_host(key)}:{port}")
    return host


def _passing_host() -> VirtualHost:
    host = route_components_pb2.VirtualHost(name="allow_any", domains=["*"])
    host.routes.append(_plain_route("allow_any", PASSTHROUGH))
    return VirtualHost(host, frozenset({(CLUSTER_TYPE, PASSTHROUGH)}), ())


def _refusing_host() -> VirtualHost:
    host = route_components_pb2.VirtualHost(name="block_all", domains=["*"])
    route = host.routes.add(name="block_all", match=route_components_pb2.RouteMatch(prefix="/"))
    route.direct_response.status = 502
    return VirtualHost(host, frozenset(), ())


def hosts_in_tables(keys: tuple[ServiceKey, ...], namespace: str) -> dict[ServiceKey, tuple[str, ...]]:
    """Return each service's names in lower case, none of them twice: Envoy refuses a table with a doubled domain.

    Of two services that a name could mean (`Reviews` and `reviews`, `a.b` and `a` in namespace `b`) the first in order
    has it.
    """
    taken: set[str] = set()
    result = {}
    for key, names in sorted(hosts_by_service(keys, namespace).items()):
        free = tuple(name for name in dict.fromkeys(name.lower() for name in names) if name not in taken)
        taken.update(free)
        result[key] = free
    return result


def _domains(hosts: Iterable[str], vip: Vip | None) -> list[str]:
    """Return the Host headers that mean a service port; names that no Host header can have are left out."""
    names = [host for host in hosts if _HOST.fullmatch(host) and not is_ip(host)]
    if vip is not None:
        names += [str(vip.v4), f"[{vip.v6}]"]
    return names


def _plain_route(name: str, cluster: str) -> Any:
    everything = HttpMatch()
    return _route(ResolvedRoute(name, (everything,), (Target(cluster, 100),)), everything, 0)


def _routes(route: ResolvedRoute, port: int) -> list[Any]:
    return [_route(route, match, port) for match in route.matches]


def _route(resolved: ResolvedRoute, match: HttpMatch, port: int) -> Any:
    actions = resolved.actions
    name = f"{resolved.name}.{match.name}" if match.name else resolved.name
    route = route_components_pb2.Route(name=name, match=route_match(match), stat_prefix=match.stat_prefix)
    if actions.answer is not None:
        set_answer(route, actions.answer, port)
    else:
        _set_targets(route.route, resolved.targets)
        set_forwarding(route.route, actions, resolved.shadows)
    set_filters(route, actions)
    set_headers(route, actions.headers)
    return route


def _set_targets(action: Any, targets: tuple[Target, ...]) -> None:
    if len(targets) == 1 and targets[0].headers == Headers():
        action.cluster = targets[0].cluster
        return
    for target in targets:
        weighted = action.weighted_clusters.clusters.add(
            name=target.cluster, weight=wrappers_pb2.UInt32Value(value=target.weight)
        )
        set_headers(weighted, target.headers)
        if target.headers.authority:
            weighted.host_rewrite_literal = target.headers.authority
