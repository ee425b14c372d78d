"""The agent's configuration: agent.yaml, cluster.env, sidecar.env and services.d/*.yaml of one folder, typed, frozen.

Reads files, decides nothing. Every problem of every file is reported at once.
"""

from __future__ import annotations

import shlex
import socket
from collections.abc import Mapping
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import msgspec
from msgspec import Struct, field

from agent.api.checks import words
from agent.api.problem import one_line
from agent.api.services import read_services
from agent.config_checks import network, ports, read_agent_yaml
from agent.errors import ConfigError
from agent.mesh.gateway import INGRESS_LABELS
from agent.mesh.ports import NEVER_CAPTURED, OPERATOR_PORT
from agent.mesh.service import Labels, ServiceKey, Workload, labels_of


class OutboundCapture(StrEnum):
    """Which outbound connections Envoy gets: those to the VIP range, all of them, or none."""

    MESH = "mesh"
    ALL = "all"
    NONE = "none"


class OnProxyFailure(StrEnum):
    """What becomes of the mesh's ports and addresses while there is no Envoy: nothing passes, or what would without."""

    CLOSED = "closed"
    OPEN = "open"


class Role(StrEnum):
    """What this host is in the mesh: one that runs services, or a gateway into it."""

    HOST = "host"
    GATEWAY = "gateway"


class ConsulConfig(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """How to reach the local Consul agent; files are absolute, or relative to the configuration folder."""

    address: str = "http://127.0.0.1:8500"
    token_file: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


class CaConfig(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """How to reach hostmesh-ca; an empty address means this host gets no certificates."""

    address: str = ""
    """Of the one CA; several replicas are `addresses`."""
    addresses: tuple[str, ...] = ()
    enrolment_port: int = 15012
    renewal_port: int = 15013
    token_file: str | None = None
    """The join token for first contact; absolute, or relative to the configuration folder (default: join-token)."""

    root_change_spread: float = 30.0
    """Seconds over which this host's certificates are renewed when the mesh's roots change."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """Return all addresses, in the order in which they are asked."""
        return tuple(dict.fromkeys((*((self.address,) if self.address else ()), *self.addresses)))


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
    """None: the ports of this host's proxied services; (): none. ISTIO_INBOUND_PORTS in sidecar.env sets it too."""
    exclude_inbound_ports: tuple[int, ...] = ()
    exclude_outbound_ports: tuple[int, ...] = ()
    exclude_outbound_cidrs: tuple[str, ...] = ()
    include_outbound_cidrs: tuple[str, ...] = ()
    """Destinations that `outbound: mesh` captures beside the virtual addresses (Istio's includeIPRanges)."""
    include_outbound_ports: tuple[int, ...] = ()
    """Destination ports that `outbound: mesh` captures beside them."""
    include_users: tuple[str, ...] = ()
    """The only Unix users (names or numbers) whose connections are captured; none named: all are."""
    exclude_users: tuple[str, ...] = ()
    on_proxy_failure: OnProxyFailure = OnProxyFailure.CLOSED


class VipConfig(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """The ranges that virtual addresses come from."""

    v4: str = "240.240.0.0/16"
    """ISTIO_SERVICE_CIDR in cluster.env sets it too."""
    v6: str = "fdf0:240:240::/112"


class DnsConfig(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """How Envoy looks up hosts outside of the mesh."""

    upstreams: tuple[str, ...] = ()
    """DNS servers: ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT; none: those of resolv.conf that are not this host."""


class OperatorConfig(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Where the agent answers operators on other hosts."""

    enabled: bool = True
    port: int = OPERATOR_PORT


class LogConfig(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """How much the agent says."""

    level: str = "info"


class AgentFile(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """agent.yaml."""

    role: Role = Role.HOST
    labels: dict[str, str] = {}
    node: str = ""
    address: str = ""
    consul: ConsulConfig = ConsulConfig()
    ca: CaConfig = CaConfig()
    proxy: ProxyConfig = ProxyConfig()
    interception: InterceptionConfig = InterceptionConfig()
    vips: VipConfig = VipConfig()
    dns: DnsConfig = DnsConfig()
    operator: OperatorConfig = OperatorConfig()
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
    dns: DnsConfig
    operator: OperatorConfig
    log: LogConfig
    gateway_labels: Labels | None = None
    """What Gateway objects select this host by; None: it is no gateway."""
    notes: tuple[str, ...] = field(default_factory=tuple)
    """Things worth a line in the log, such as variables that are read by nobody."""

    @property
    def secrets_dir(self) -> Path:
        """Return where a gateway's certificates are: a folder for each `credentialName`."""
        return self.config_dir / "secrets"

    @property
    def token_file(self) -> Path:
        """Return where the join token is looked for."""
        return self.config_dir / (self.ca.token_file or "join-token")


KNOWN_VARIABLES = {
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
    if not config_dir.is_dir():
        raise ConfigError([f"{config_dir}: no such folder (name another one with --config-dir)"])
    problems: list[str] = []
    file = _read_agent_yaml(config_dir / "agent.yaml", problems)
    variables: dict[str, _Variable] = {}
    for name in ("cluster.env", "sidecar.env"):
        variables |= _read_env(config_dir / name, problems)
    file = _with_variables(file, variables, problems)
    if problems:
        raise ConfigError(problems)
    interception = file.interception
    notes = _notes(variables)
    if interception.inbound_ports and not interception.inbound:
        notes += ("interception.inboundPorts has no effect beside inbound: false (remove one of them)",)
    notes += _role_notes(file)
    interception = _leaving_alone(file.operator, interception)
    if file.role is Role.GATEWAY:
        # Its Envoy listens for clients itself; local programs are no part of the mesh.
        interception = msgspec.structs.replace(interception, inbound=False, outbound=OutboundCapture.NONE)
    if interception.inbound_ports == () or not interception.inbound:
        interception = msgspec.structs.replace(interception, inbound=False, inbound_ports=())
    return Config(
        config_dir=config_dir,
        state_dir=state_dir,
        run_dir=run_dir,
        node=file.node or socket.gethostname(),
        address=file.address,
        consul=_beside(file.consul, config_dir),
        ca=file.ca,
        proxy=file.proxy,
        interception=interception,
        vip_range_v4=IPv4Network(file.vips.v4),
        vip_range_v6=IPv6Network(file.vips.v6),
        dns=file.dns,
        operator=file.operator,
        log=file.log,
        gateway_labels=_gateway_labels(file),
        notes=notes,
    )


def load_workloads(
    config_dir: Path, address: str, proxied: bool = True, last_good: dict[Path, list[Workload]] | None = None
) -> tuple[tuple[Workload, ...], tuple[str, ...]]:
    """Return the workloads of services.d/*.yaml (file name order) and one line for each fault.

    `proxied` is the default. Of a bad file the workloads are those that it had when it was last good, which `last_good`
    remembers from call to call. Of two files that declare one instance (service and port) the first is used.
    """
    workloads: list[Workload] = []
    faults: list[str] = []
    good = {} if last_good is None else last_good
    seen: dict[tuple[ServiceKey, int], Path] = {}
    paths = sorted((config_dir / "services.d").glob("*.y*ml"))
    for gone in good.keys() - set(paths):
        del good[gone]
    for path in paths:
        problems: list[str] = []
        try:
            text = _read_text(path, problems)
            found = [] if problems else read_services(text or "", str(path), address, proxied)
        except ConfigError as error:
            problems += error.problems
        if problems:
            kept = good.get(path, [])
            serves = "; what it said before serves on" if kept else ""
            faults += [f"{problem}{serves}" for problem in problems]
        else:
            kept = good[path] = found
        for workload in kept:
            keys = [(workload.service, port.number) for port in workload.ports]
            if known := next((seen[key] for key in keys if key in seen), None):
                faults.append(f"{path}: service {workload.service}: {known} declares it on the same port (keep one)")
                continue
            seen |= dict.fromkeys(keys, path)
            workloads.append(workload)
    return tuple(workloads), tuple(faults)


def _read_agent_yaml(path: Path, problems: list[str]) -> AgentFile:
    text = _read_text(path, problems)
    plain, found = read_agent_yaml(text, str(path)) if text is not None else ({}, [])
    problems += found
    return msgspec.convert(plain, AgentFile)


def _read_text(path: Path, problems: list[str]) -> str | None:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return None
    except OSError as error:
        problems.append(f"{path}: cannot be read: {error.strerror or error}")
    except UnicodeDecodeError as error:
        problems.append(f"{path}: not UTF-8 text (byte {error.start}); save the file as UTF-8")
    return None


class _Variable(Struct, frozen=True):
    """A variable of an .env file, and where it stands."""

    value: str
    place: str


def _read_env(path: Path, problems: list[str]) -> dict[str, _Variable]:
    variables = {}
    for number, line in enumerate((_read_text(path, problems) or "").splitlines(), 1):
        try:
            tokens = shlex.split(line, comments=True)
        except ValueError as error:
            problems.append(f"{path}:{number}: {error}")
            continue
        if tokens[:1] == ["export"]:
            tokens = tokens[1:]
        for word in tokens:
            name, separator, value = word.partition("=")
            if not separator or not name.isidentifier():
                problems.append(f"{path}:{number}: {one_line(word, 60)}: is not NAME=VALUE")
                continue
            variables[name] = _Variable(value, f"{path}:{number}: {name}")
    return variables


def _with_variables(file: AgentFile, variables: Mapping[str, _Variable], problems: list[str]) -> AgentFile:
    """Return the settings with what the .env files say laid over them; an empty value but of ports says nothing."""
    vips, interception = file.vips, file.interception
    if cidr := _given(variables, "ISTIO_SERVICE_CIDR"):
        vips = msgspec.structs.replace(vips, v4=_first_cidr(cidr.value))
        if wrong := network(vips.v4, IPv4Network):
            problems.append(f"{cidr.place}: {wrong}")
    if (address := _given(variables, "ISTIO_SVC_IP")) and (wrong := words.address(address.value)):
        problems.append(f"{address.place}: {wrong}")
    for name, setting in (
        ("ISTIO_INBOUND_PORTS", "inbound_ports"),
        ("ISTIO_LOCAL_EXCLUDE_PORTS", "exclude_inbound_ports"),
    ):
        variable = variables.get(name)
        if variable is None or variable.value.strip() == "*":
            continue
        try:
            interception = msgspec.structs.replace(interception, **{setting: ports(variable.value)})
        except ValueError as error:
            problems.append(f"{variable.place}: {error}")
    return msgspec.structs.replace(
        file, vips=vips, interception=interception, address=address.value if address else file.address
    )


def _beside(consul: ConsulConfig, folder: Path) -> ConsulConfig:
    """Return the settings with the files' whole paths."""
    files = {name: getattr(consul, name) for name in ("token_file", "ca_file", "cert_file", "key_file")}
    return msgspec.structs.replace(consul, **{name: str(folder / path) for name, path in files.items() if path})


def _leaving_alone(operator: OperatorConfig, interception: InterceptionConfig) -> InterceptionConfig:
    """Return the settings that never capture the operator port, wherever it was moved to."""
    if not operator.enabled or operator.port in NEVER_CAPTURED:
        return interception
    return msgspec.structs.replace(
        interception,
        exclude_inbound_ports=(*interception.exclude_inbound_ports, operator.port),
        exclude_outbound_ports=(*interception.exclude_outbound_ports, operator.port),
    )


def _role_notes(file: AgentFile) -> tuple[str, ...]:
    if file.role is Role.HOST:
        return ("labels have no effect on a host that is no gateway (role: gateway)",) if file.labels else ()
    if file.interception != InterceptionConfig():
        return ("interception has no effect on a gateway, which captures nothing (remove it)",)
    return ()


def _gateway_labels(file: AgentFile) -> Labels | None:
    if file.role is not Role.GATEWAY:
        return None
    return labels_of(file.labels) if file.labels else INGRESS_LABELS


def _given(variables: Mapping[str, _Variable], name: str) -> _Variable | None:
    variable = variables.get(name)
    return variable if variable and variable.value.strip() else None


def _notes(variables: Mapping[str, _Variable]) -> tuple[str, ...]:
    notes = [
        f"{variable.place} is not used by hostmesh"
        for name, variable in sorted(variables.items())
        if name.startswith("ISTIO_") and name not in KNOWN_VARIABLES
    ]
    cidr = variables.get("ISTIO_SERVICE_CIDR")
    if cidr and "," in cidr.value:
        notes.append(f"{cidr.place} has several ranges: only {_first_cidr(cidr.value)} is used")
    return tuple(notes)


def _first_cidr(text: str) -> str:
    return text.split(",")[0].strip()
