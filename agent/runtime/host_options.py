"""The configuration as each part of the agent takes it: plan, Envoy, bootstrap. Looks at this host, changes nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path

from agent.adapters.dns.upstreams import read_upstreams
from agent.adapters.proxy.options import ProxyOptions
from agent.config import Config, OnProxyFailure
from agent.mesh.names import process_name
from agent.mesh.service import Workload
from agent.runtime.host_identity import peer_log
from agent.runtime.unix_users import uid_of
from agent.translate.bootstrap import BootstrapOptions
from agent.translate.netfilter import CALLERS_V6, NetfilterOptions, OutboundMode
from agent.translate.options import KeySetSockets, PlanOptions

_NO_IPV6 = "/proc/sys/net/ipv6/conf/all/disable_ipv6"


def plan_options(config: Config) -> PlanOptions:
    """Return what the plan must know of this host."""
    return PlanOptions(
        interception=netfilter_options(config, os.getuid()),
        capture_inbound=config.interception.inbound,
        intercepted=config.gateway_labels is None,
        gateway=config.gateway_labels,
        ipv6=has_ipv6(),
        key_sets=key_set_sockets(config),
        decision_log=str(decision_log_file(config)),
        entry_log=str(entry_log_file(config)),
        access_log=str(access_log_file(config)),
        log_sockets=str(log_sockets(config)),
        peer_log=str(peer_log(config)),
        counts=True,
        dns_upstreams=config.dns.upstreams or read_upstreams(),
    )


def netfilter_options(config: Config, proxy_uid: int) -> NetfilterOptions:
    """Return how this host captures, whose Envoy runs as that user; users that don't exist here can't call."""
    interception = config.interception
    return NetfilterOptions(
        proxy_uid=proxy_uid,
        service_cidr_v4=config.vip_range_v4,
        service_cidr_v6=config.vip_range_v6,
        inbound_ports=interception.inbound_ports or (),
        outbound=OutboundMode(interception.outbound.value),
        included_cidrs=tuple(ip_network(cidr) for cidr in interception.include_outbound_cidrs),
        excluded_cidrs=tuple(ip_network(cidr) for cidr in interception.exclude_outbound_cidrs),
        included_outbound_ports=interception.include_outbound_ports,
        excluded_outbound_ports=interception.exclude_outbound_ports,
        excluded_inbound_ports=interception.exclude_inbound_ports,
        excluded_uids=_uids(interception.exclude_users),
        included_uids=_uids(interception.include_users),
        closed=interception.on_proxy_failure is OnProxyFailure.CLOSED,
    )


def _uids(users: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(uid for user in users if (uid := uid_of(user)) is not None)


def service_ranges(config: Config) -> tuple[IPv4Network | IPv6Network, ...]:
    """Return the ranges for which this host needs a route of its own, so that Envoy is reached, and answers."""
    return (config.vip_range_v4, config.vip_range_v6, CALLERS_V6)


def proxy_options(config: Config) -> ProxyOptions:
    """Return how Envoy is run here."""
    return ProxyOptions(
        binary=Path(config.proxy.binary),
        folder=config.run_dir / "envoy",
        admin_socket=admin_socket(config),
        concurrency=config.proxy.concurrency,
        drain_seconds=config.proxy.drain_seconds,
        log_level=config.proxy.log_level,
        log_file=config.state_dir / "envoy.log",
        low_ports=config.gateway_labels is not None,
    )


def key_set_sockets(config: Config) -> KeySetSockets:
    """Return by which sockets key sets come to Envoy."""
    return KeySetSockets(str(config.run_dir / "admin.sock"), str(config.run_dir / "envoy" / "key-sets.sock"))


def decision_log_file(config: Config) -> Path:
    """Return the file in which Envoy tells what AUDIT policies and dry runs are about."""
    return config.state_dir / "decisions.log"


def entry_log_file(config: Config) -> Path:
    """Return the file in which Envoy tells what Mixer's rules log."""
    return config.state_dir / "entries.log"


def access_log_file(config: Config) -> Path:
    """Return the file to which Envoy writes access logs."""
    return config.state_dir / "access.log"


def log_sockets(config: Config) -> Path:
    """Return the folder of the sockets that lead to servers of logs."""
    return config.run_dir / "envoy"


def bootstrap_options(config: Config, workloads: Sequence[Workload]) -> BootstrapOptions:
    """Return what Envoy must know before xDS tells it the rest."""
    return BootstrapOptions(
        node_id=config.node,
        cluster=process_name(workloads[0].service if workloads else None),
        admin_socket=str(admin_socket(config)),
        xds_socket=str(config.run_dir / "xds.sock"),
        ipv6=has_ipv6(),
    )


def admin_socket(config: Config) -> Path:
    """Return where Envoy's admin interface is."""
    return config.run_dir / "envoy-admin.sock"


def has_ipv6() -> bool:
    """Tell whether this host speaks IPv6."""
    try:
        return Path(_NO_IPV6).read_text().strip() == "0"
    except OSError:
        return False
