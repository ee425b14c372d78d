"""The agent's configuration: agent.yaml, cluster.env, sidecar.env and services.d/*.yaml of one folder, typed, frozen.

Reads files, decides nothing. Every problem of every file is reported at once.
"""

from __future__ import annotations

import shlex
import socket
from collections.abc import Callable
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml
from msgspec import Struct, field

from agent.api.services import read_services
from agent.errors import ConfigError
from agent.mesh.service import Workload

T = TypeVar("T")
N = TypeVar("N", IPv4Network, IPv6Network)


class OutboundCapture(StrEnum):
    """Which outbound connections Envoy gets: those to the VIP range, all of them, or none."""

    MESH = "mesh"
    ALL = "all"
    NONE = "none"


class ConsulConfig(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """How to reach the local Consul agent."""

    address: str = "http://127.0.0.1:8500"
    token_file: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


class CaConfig(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """How to reach hostmesh-ca; an empty address means this host gets no certificates."""

    address: str = ""
    enrolment_port: int = 15012
    renewal_port: int = 15013
    token_file: str | None = None
    """The join token for first contact; absolute, or relative to the configuration folder (default: join-token)."""


class ProxyConfig(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """The supervised Envoy."""

    binary: str = "/usr/lib/hostmesh/envoy"
    concurrency: int = 2
    drain_seconds: float = 5.0
    log_level: str = "warning"


class InterceptionConfig(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What iptables captures."""

    outbound: OutboundCapture = OutboundCapture.MESH
    inbound: bool = True
    inbound_ports: tuple[int, ...] | None = None
    """None: the ports of this host's proxied services; ISTIO_INBOUND_PORTS in sidecar.env sets it too."""
    exclude_inbound_ports: tuple[int, ...] = ()
    exclude_outbound_ports: tuple[int, ...] = ()
    exclude_outbound_cidrs: tuple[str, ...] = ()


class VipConfig(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """The ranges that virtual addresses come from."""

    v4: str = "240.240.0.0/16"
    """ISTIO_SERVICE_CIDR in cluster.env sets it too."""
    v6: str = "fdf0:240:240::/112"


class LogConfig(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """How much the agent says."""

    level: str = "info"


class _File(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    node: str = ""
    address: str = ""
    consul: ConsulConfig = ConsulConfig()
    ca: CaConfig = CaConfig()
    proxy: ProxyConfig = ProxyConfig()
    interception: InterceptionConfig = InterceptionConfig()
    vips: VipConfig = VipConfig()
    log: LogConfig = LogConfig()


class Config(Struct, frozen=True):
    """Everything the operator said, checked."""

    config_dir: Path
    state_dir: Path
    run_dir: Path
    node: str
    address: str
    """This host's address in the mesh; empty: the one its Consul agent advertises."""
    consul: ConsulConfig
    ca: CaConfig
    proxy: ProxyConfig
    interception: InterceptionConfig
    vip_range_v4: IPv4Network
    vip_range_v6: IPv6Network
    log: LogConfig
    notes: tuple[str, ...] = field(default_factory=tuple)
    """Things worth a line in the log, such as variables that are read by nobody."""

    @property
    def token_file(self) -> Path:
        """Return where the join token is looked for."""
        return self.config_dir / (self.ca.token_file or "join-token")


_KNOWN_VARIABLES = {
    "ISTIO_SERVICE_CIDR": "vips.v4",
    "ISTIO_INBOUND_PORTS": "interception.inboundPorts",
    "ISTIO_LOCAL_EXCLUDE_PORTS": "interception.excludeInboundPorts",
    "ISTIO_SVC_IP": "address",
}


def load_config(config_dir: Path, state_dir: Path, run_dir: Path) -> Config:
    """Return the configuration of a folder (default /etc/hostmesh).

    An absent agent.yaml means all defaults; sidecar.env and cluster.env override it, as Istio's VM packages did.
    Raises ConfigError with one line for each fault of agent.yaml, cluster.env and sidecar.env.
    """
    problems: list[str] = []
    file = _read_agent_yaml(config_dir / "agent.yaml", problems)
    variables: dict[str, str] = {}
    for name in ("cluster.env", "sidecar.env"):
        variables |= _read_env(config_dir / name, problems)
    notes = tuple(
        f"{name} in cluster.env or sidecar.env is not used by hostmesh"
        for name in sorted(variables)
        if name.startswith("ISTIO_") and name not in _KNOWN_VARIABLES
    )

    def check(label: str, make: Callable[[], T], fallback: T) -> T:
        try:
            return make()
        except ValueError as error:
            problems.append(f"{config_dir / 'agent.yaml'}: {label}: {error}")
            return fallback

    v4_text = _first_cidr(variables.get("ISTIO_SERVICE_CIDR", file.vips.v4))
    v4 = check("vips.v4 (ISTIO_SERVICE_CIDR)", lambda: _network(v4_text, IPv4Network), IPv4Network("240.240.0.0/16"))
    v6 = check("vips.v6", lambda: _network(file.vips.v6, IPv6Network), IPv6Network("fdf0:240:240::/112"))
    interception = check(
        "interception.inboundPorts (ISTIO_INBOUND_PORTS)",
        lambda: _with_ports(file.interception, variables),
        file.interception,
    )
    address = variables.get("ISTIO_SVC_IP") or file.address
    if address:
        check("address (ISTIO_SVC_IP)", lambda: str(ip_address(address)), "")
    for cidr in interception.exclude_outbound_cidrs:
        check("interception.excludeOutboundCidrs", lambda cidr=cidr: str(ip_network(cidr)), "")  # type: ignore[misc]
    if problems:
        raise ConfigError(problems)
    return Config(
        config_dir=config_dir,
        state_dir=state_dir,
        run_dir=run_dir,
        node=file.node or socket.gethostname(),
        address=address,
        consul=file.consul,
        ca=file.ca,
        proxy=file.proxy,
        interception=interception,
        vip_range_v4=v4,
        vip_range_v6=v6,
        log=file.log,
        notes=notes,
    )


def load_workloads(config_dir: Path, address: str) -> tuple[tuple[Workload, ...], tuple[str, ...]]:
    """Return the workloads of services.d/*.yaml (file name order) and one line for each fault.

    A bad file never takes the good ones away: its own workloads are missing and its faults are returned.
    """
    workloads: list[Workload] = []
    faults: list[str] = []
    for path in sorted((config_dir / "services.d").glob("*.y*ml")):
        try:
            workloads += read_services(path.read_text(encoding="utf-8"), str(path), address)
        except ConfigError as error:
            faults += error.problems
        except (OSError, UnicodeDecodeError) as error:
            faults.append(f"{path}: cannot be read: {error}")
    return tuple(workloads), tuple(faults)


def _read_agent_yaml(path: Path, problems: list[str]) -> _File:
    try:
        data: Any = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        return _File()
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path}: cannot be read: {error}")
        return _File()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problems.append(f"{path}{line}: not YAML: {getattr(error, 'problem', error)}")
        return _File()
    if not isinstance(data, dict):
        problems.append(f"{path}: must be a mapping of settings, such as `node: vm-1`")
        return _File()
    for key in list(data):
        # Section by section, so that every section's fault is told at once.
        try:
            msgspec.convert({key: data[key]}, _File)
        except msgspec.ValidationError as error:
            problems.append(f"{path}: {error}")
            del data[key]
    return msgspec.convert(data, _File)


def _read_env(path: Path, problems: list[str]) -> dict[str, str]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path}: cannot be read: {error}")
        return {}
    variables = {}
    for number, line in enumerate(text.splitlines(), 1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            problems.append(f"{path}:{number}: {error}")
            continue
        if words[:1] == ["export"]:
            words = words[1:]
        for word in words:
            name, separator, value = word.partition("=")
            if not separator or not name.isidentifier():
                problems.append(f"{path}:{number}: not NAME=VALUE: {word}")
                continue
            variables[name] = value
    return variables


def _first_cidr(text: str) -> str:
    return text.split(",")[0].strip()


def _network(text: str, kind: type[N]) -> N:
    network = ip_network(text)
    if not isinstance(network, kind):
        raise ValueError(f"{text} is not of the right address family")
    if network.num_addresses < 16:
        raise ValueError(f"{text} is too small: a range of at least 16 addresses is needed")
    return network


def _with_ports(interception: InterceptionConfig, variables: dict[str, str]) -> InterceptionConfig:
    changes: dict[str, Any] = {}
    inbound = variables.get("ISTIO_INBOUND_PORTS")
    if inbound is not None and inbound.strip() != "*":
        changes["inbound_ports"] = _ports(inbound)
    excluded = variables.get("ISTIO_LOCAL_EXCLUDE_PORTS")
    if excluded:
        changes["exclude_inbound_ports"] = _ports(excluded)
    return msgspec.structs.replace(interception, **changes)


def _ports(text: str) -> tuple[int, ...]:
    ports = tuple(int(word) for word in text.split(",") if word.strip())
    for port in ports:
        if not 0 < port < 65536:
            raise ValueError(f"{port} is not a port (1-65535)")
    return ports
