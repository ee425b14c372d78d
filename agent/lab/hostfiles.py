"""The configuration of one lab host, as text by file name. Pure: reads nothing, writes nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import yaml

from agent.lab.plan import App, HostPlan, LabPlan
from agent.translate.dns import DnsmasqOptions, dnsmasq_conf

# Unix users of a lab host's processes. They need no names: nothing looks them up.
AGENT_UID = 1337
APP_UID = 2000
CONSUL_UID = 2001
CA_UID = 2002
DNS_UID = 2003


def host_files(plan: LabPlan, host: HostPlan, root: Path, envoy: str, nsswitch: str) -> dict[str, str]:
    """Return the text of each file under the host's etc/; `nsswitch` is the machine's own nsswitch.conf."""
    files = {
        "resolv.conf": "nameserver 127.0.0.1\noptions timeout:1 attempts:2\n",
        "nsswitch.conf": _plain_host_lookups(nsswitch),
        "hosts": "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n",
        "dnsmasq.conf": dnsmasq_conf(
            DnsmasqOptions(
                hosts_dir=str(root / "var" / "dns"),
                listen=("127.0.0.1",),
                upstreams=tuple((host.settings.get("dns") or {}).get("upstreams") or _upstreams(plan, host)),
            )
        ),
    }
    if host.names:
        files["dnsmasq.conf"] = _outside_dns(host.names, plan.address(host.name))
    if host.consul:
        files["consul.json"] = json.dumps(_consul(plan, host, root), indent=2)
    if host.ca:
        files["ca.yaml"] = _yaml(_ca(plan, host, root))
    if host.agent:
        files["agent.yaml"] = _yaml(_agent(plan, host, envoy))
        for app in host.apps:
            files[f"services.d/{app.service}-{app.port}.yaml"] = _yaml(_service(app))
    return files


def _upstreams(plan: LabPlan, host: HostPlan) -> tuple[str, ...]:
    """Where names are looked up that are none of the mesh: the outside's DNS, if the lab has one."""
    outside = plan.only("names")
    return (str(plan.address(outside.name)),) if outside and outside is not host else ()


def _outside_dns(names: tuple[str, ...], address: IPv4Address) -> str:
    """The outside's DNS: these names and no others, for every host."""
    known = [f"address=/{name}/{address}" for name in names]
    return "\n".join(["no-resolv", "no-hosts", "bind-interfaces", f"listen-address=127.0.0.1,{address}", *known, ""])


def _plain_host_lookups(nsswitch: str) -> str:
    """Names by files and DNS only: systemd-resolved or nscd of the machine would answer past the host's own dnsmasq."""
    kept = [line for line in nsswitch.splitlines() if not line.lstrip().startswith("hosts:")]
    return "\n".join([*kept, "hosts: files dns", ""])


def _consul(plan: LabPlan, host: HostPlan, root: Path) -> dict[str, Any]:
    server = plan.only("consul_server")
    config: dict[str, Any] = {
        "node_name": host.name,
        "data_dir": str(root / "consul"),
        "bind_addr": str(plan.address(host.name)),
        "client_addr": "127.0.0.1",
        "retry_join": [str(plan.address(server.name))] if server else [],
        "retry_interval": "1s",
        "disable_update_check": True,
        "log_level": "warn",
        # A lab comes up in seconds: elections without the patience for slow disks, gossip as on a local network.
        "performance": {"raft_multiplier": 1},
        "gossip_lan": {"gossip_interval": "100ms"},
    }
    if own := [_definition(app, str(plan.address(host.name))) for app in host.apps if app.by_consul]:
        config["services"] = own
    if host.consul_server:
        config |= {"server": True, "bootstrap_expect": 1, "retry_join": [], "ui": False}
    return config


def _definition(app: App, address: str) -> dict[str, Any]:
    """A service as Consul's configuration has it."""
    check = {"http": f"http://127.0.0.1:{app.port}{app.health_path}", "interval": "1s", "timeout": "5s"}
    meta = {"protocol": app.protocol}
    return {"name": app.service, "address": address, "port": app.port, "meta": meta, "check": check}


def _agent(plan: LabPlan, host: HostPlan, envoy: str) -> dict[str, Any]:
    ca = plan.only("ca")
    config: dict[str, Any] = {
        "node": host.name,
        "address": str(plan.address(host.name)),
        "consul": {"address": "http://127.0.0.1:8500"},
        "proxy": {"binary": envoy, "concurrency": 1},
    }
    if ca:
        config["ca"] = {"address": str(plan.address(ca.name))}
    if upstreams := _upstreams(plan, host):
        config["dns"] = {"upstreams": list(upstreams)}
    return _laid_over(config, host.settings)


def _ca(plan: LabPlan, host: HostPlan, root: Path) -> dict[str, Any]:
    address = str(plan.address(host.name))
    config: dict[str, Any] = {
        "stateDir": str(root / "var"),
        "adminSocket": str(root / "run" / "admin.sock"),
        "enrolment": {"port": 15012, "address": address},
        "renewal": {"port": 15013, "address": address},
        "serverNames": {"dns": [host.name], "ips": [address]},
    }
    return _laid_over(config, plan.ca_settings)


def _service(app: App) -> dict[str, Any]:
    return {
        "name": app.service,
        "namespace": app.namespace,
        "serviceAccount": app.service_account,
        "port": app.port,
        "protocol": app.protocol,
        "labels": dict(app.labels),
        "proxied": app.proxied,
        "check": {"http": app.health_path, "interval": "1s"} if app.health_path else {"tcp": True, "interval": "1s"},
    }


def _laid_over(config: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(config)
    for key, value in changes.items():
        below = merged.get(key)
        merged[key] = _laid_over(below, value) if isinstance(below, dict) and isinstance(value, Mapping) else value
    return merged


def _yaml(value: Any) -> str:
    text: str = yaml.safe_dump(value, sort_keys=False)
    return text
