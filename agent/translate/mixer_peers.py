"""Who the callers of this host's workloads are, by the catalog: what Mixer's rules know of `source`. Pure.

A caller is known by the connection's own address and the service account of its verified certificate, never by a
header. Where several instances fit, only what they share is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Any

from envoy.extensions.matching.common_inputs.network.v3 import network_inputs_pb2
from envoy.extensions.matching.common_inputs.ssl.v3 import ssl_inputs_pb2
from envoy.extensions.matching.input_matchers.ip.v3 import ip_pb2
from msgspec import Struct

from agent.mesh.expressions.tree import Value
from agent.mesh.mixer import workload_attributes
from agent.mesh.service import Identity, Labels, Service, ServiceKey
from agent.translate.conditions import ANY, Condition, any_of, both_of, single
from agent.translate.resource import is_ip

Seen = tuple[str, Identity, ServiceKey, Labels]
"""Address, service account, service and labels of an instance."""

_NAMES = (
    *("uid", "name", "namespace", "labels", "owner", "domain", "service", "service.uid", "service.name"),
    *("service.namespace", "service.host", "serviceAccount", "workload.uid", "workload.name", "workload.namespace"),
)
_BY_CATALOG = (
    *(f"source.{name}" for name in _NAMES),
    *(f"origin.{name}" for name in (*_NAMES, "ip", "port", "user", "principal")),
)


class Peers(Struct, frozen=True):
    """Callers that are alike."""

    identity: Identity
    addresses: tuple[str, ...]
    service: ServiceKey | None
    """None: of different services."""
    labels: Labels
    """Those that all have."""

    def attributes(self, trust_domain: str) -> Mapping[str, Value | None]:
        """Return what is known of `source`."""
        if self.service is None:
            user = f"{trust_domain}/{self.identity.path}"
            return {
                **absent_source(),
                "source.labels": dict(self.labels),
                "source.user": user,
                "source.principal": user,
                "source.namespace": self.identity.namespace,
                "source.serviceAccount": self.identity.service_account,
            }
        return {
            **absent_source(),
            **workload_attributes("source", self.service, self.labels, self.identity, trust_domain),
        }


def absent_source() -> dict[str, Value | None]:
    """Return that nothing is known of a caller but its address and its certificate."""
    return dict.fromkeys(_BY_CATALOG)


def seen_of(service: Service) -> frozenset[Seen]:
    """Return the instances of a service that can call."""
    return frozenset(
        (str(ip_address(one.address)), one.identity, service.key, one.labels)
        for one in service.instances
        if is_ip(one.address)
    )


def alike(seen: Iterable[Seen]) -> tuple[Peers, ...]:
    """Return the callers, those together of whom the same is known."""
    at: dict[tuple[str, Identity], list[tuple[ServiceKey, Labels]]] = {}
    for address, identity, service, labels in seen:
        at.setdefault((address, identity), []).append((service, labels))
    groups: dict[tuple[Identity, ServiceKey | None, Labels], list[str]] = {}
    for (address, identity), several in at.items():
        services = {service for service, _ in several}
        shared = set(several[0][1]).intersection(*(labels for _, labels in several))
        key = (identity, services.pop() if len(services) == 1 else None, tuple(sorted(shared)))
        groups.setdefault(key, []).append(address)
    found = (
        Peers(identity, tuple(sorted(addresses)), service, labels)
        for (identity, service, labels), addresses in groups.items()
    )
    return tuple(sorted(found, key=lambda peers: (peers.identity, peers.addresses, str(peers.service), peers.labels)))


def by_address(
    peers: Iterable[Peers], trust_domains: Iterable[str]
) -> dict[tuple[str, str], Mapping[str, Value | None]]:
    """Return what is known of callers, by address and SPIFFE ID; without trust domains the name is empty."""
    domains, found = tuple(trust_domains), dict[tuple[str, str], Mapping[str, Value | None]]()
    for one in peers:
        attributes = one.attributes(domains[0] if domains else "")
        for address in one.addresses:
            for name in [one.identity.spiffe_id(domain) for domain in domains] or [""]:
                found.setdefault((address, name), attributes)
    return found


def are(peers: Iterable[Peers], trust_domains: Iterable[str], verified: bool) -> Condition:
    """Return the condition that the caller is one of these; `verified`: by its certificate, too."""
    domains, by_identity = tuple(trust_domains), dict[Identity, list[str]]()
    for one in peers:
        by_identity.setdefault(one.identity, []).extend(one.addresses)
    return any_of(
        both_of(at_addresses(addresses), has_identity(identity, domains) if verified else ANY)
        for identity, addresses in sorted(by_identity.items())
    )


def at_addresses(ranges: Iterable[str]) -> Condition:
    """Return the condition that the connection comes from one of these addresses or ranges."""
    matcher: Any = ip_pb2.Ip(stat_prefix="mixer")
    for text in ranges:
        prefix, _, length = text.partition("/")
        added = matcher.cidr_ranges.add(address_prefix=prefix)
        added.prefix_len.value = int(length) if length else ip_address(prefix).max_prefixlen
    own = network_inputs_pb2.DirectSourceIPInput()
    return single("direct_source_ip", own, matcher=("envoy.matching.matchers.ip", matcher))


def has_identity(identity: Identity, trust_domains: Iterable[str]) -> Condition:
    """Return the condition that the caller's certificate is that service account's."""
    return any_of(has_name(exact=identity.spiffe_id(domain)) for domain in trust_domains)


def has_name(**how: str) -> Condition:
    """Return the condition that the caller's SPIFFE ID is like that (a StringMatcher's fields)."""
    return single("uri_san", ssl_inputs_pb2.UriSanInput(), text=how)
