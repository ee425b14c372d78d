"""What a lab consists of: pure data, and the Bookinfo plan. Starts nothing."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from msgspec import Struct

from agent.errors import UserError
from agent.mesh.gateway import INGRESS_ACCOUNT

CHECKOUT = Path(__file__).resolve().parents[2]
BOOKINFO = CHECKOUT / "vagrant" / "bookinfo"

DEFAULT_NAME = "hostmesh-lab"

_NAME = re.compile(r"(hostmesh|hmt)-[a-z0-9-]{1,40}")
_FIRST_HOST = 10
"""The first host's number in the subnet."""


class App(Struct, frozen=True):
    """One instance of a service on a host: what services.d says of it, and the process that serves it."""

    service: str
    argv: tuple[str, ...]
    """Empty: nothing is started (the test does it)."""
    port: int = 9080
    protocol: str = "http"
    namespace: str = "default"
    service_account: str = "default"
    labels: Mapping[str, str] = {}
    environment: Mapping[str, str] = {}
    health_path: str = "/health"
    """Empty: a TCP check."""
    proxied: bool = True
    programs: tuple[str, ...] = ()
    """What it needs on this machine beside Python."""
    is_optional: bool = False
    """Started last, and nobody waits for it; without its programs the lab goes without."""
    by_consul: bool = False
    """Consul's own configuration registers it: for hosts without an agent."""


class HostPlan(Struct, frozen=True):
    """One host. A host without an agent has Consul's client, names and applications only."""

    name: str
    apps: tuple[App, ...] = ()
    agent: bool = True
    consul: bool = True
    """False: a host without any Consul (and so without an agent)."""
    consul_server: bool = False
    ca: bool = False
    settings: Mapping[str, Any] = {}
    """Laid over agent.yaml, section by section."""
    names: tuple[str, ...] = ()
    """Given for the one host that plays the world outside of the mesh: the names that the lab's DNS knows it by."""

    @property
    def identities(self) -> list[str]:
        """Return whose certificates its agent gets, as join tokens name them; a host may have none."""
        own = sorted({f"ns/{app.namespace}/sa/{app.service_account}" for app in self.apps if app.proxied})
        return [*own, f"ns/default/sa/{INGRESS_ACCOUNT}"] if self.settings.get("role") == "gateway" else own


class Forward(Struct, frozen=True):
    """A port of the machine's loopback that leads to a port of a host."""

    name: str
    port: int
    host: str
    target_port: int


class LabPlan(Struct, frozen=True):
    """A whole lab. Labs with different names and prefixes exist side by side."""

    hosts: tuple[HostPlan, ...]
    name: str = DEFAULT_NAME
    """Of the bridge's namespace and of the folder under /run."""
    prefix: str = "hostmesh-"
    """In front of each host's name, that is its network namespace."""
    subnet: str = "10.77.0.0/24"
    page_host: str = ""
    """The host whose port 9080 is forwarded to the machine's loopback; empty: none."""
    page_port: int = 9081
    consul_port: int = 0
    """Where Consul's HTTP API is forwarded to on the machine's loopback; 0: nowhere."""
    gateway_host: str = ""
    """The host whose ports 80 and 443 are forwarded to the machine's loopback; empty: none."""
    gateway_port: int = 9082
    gateway_tls_port: int = 9443
    prometheus_port: int = 0
    """Where Prometheus and the service graph (`monitoring.py`) are forwarded to; 0: they are not there."""
    graph_port: int = 0
    zipkin_port: int = 0
    """Where the collector of traces (`tracing.py`) is forwarded to; 0: it is not there."""
    ca_settings: Mapping[str, Any] = {}
    """Laid over ca.yaml, for example a short lifetime."""

    def __post_init__(self) -> None:
        """Refuse names that could be somebody else's: what they name is removed by `down`."""
        if not _NAME.fullmatch(self.name):
            raise UserError(
                f"lab: name {self.name!r}: must be hostmesh-… or hmt-…, of small letters, digits and dashes"
            )

    def address(self, host: str) -> IPv4Address:
        """Return the host's address on the bridge."""
        return IPv4Network(self.subnet)[_FIRST_HOST + [plan.name for plan in self.hosts].index(host)]

    def namespace(self, host: str) -> str:
        """Return the name of the host's network namespace."""
        return self.prefix + host

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Return all of the lab's network namespaces, the bridge's last."""
        return (*(self.namespace(plan.name) for plan in self.hosts), self.name)

    def only(self, what: str) -> HostPlan | None:
        """Return the host with Consul's server (`consul_server`), the authority (`ca`) or the outside's `names`."""
        return next((plan for plan in self.hosts if getattr(plan, what)), None)

    @property
    def programs(self) -> tuple[str, ...]:
        """Return what its applications need on this machine."""
        return tuple(dict.fromkeys(name for plan in self.hosts for app in plan.apps for name in _needed(app)))

    @property
    def forwards(self) -> tuple[Forward, ...]:
        """Return what is forwarded to the machine's loopback."""
        server = self.only("consul_server")
        wanted = (
            Forward("page", self.page_port, self.page_host, 9080),
            Forward("consul", self.consul_port, server.name if server else "", 8500),
            Forward("prometheus", self.prometheus_port, server.name if server else "", 9090),
            Forward("servicegraph", self.graph_port, server.name if server else "", 8088),
            Forward("zipkin", self.zipkin_port, server.name if server else "", 9411),
            Forward("gateway", self.gateway_port, self.gateway_host, 80),
            Forward("gateway-tls", self.gateway_tls_port, self.gateway_host, 443),
        )
        return tuple(forward for forward in wanted if forward.host and forward.port)


def _needed(app: App) -> tuple[str, ...]:
    return () if app.is_optional else app.programs


CONSUL_HOST = HostPlan("consul", agent=False, consul_server=True, ca=True)


def bookinfo_plan(page_port: int = 9081, consul_port: int = 9500, name: str = DEFAULT_NAME) -> LabPlan:
    """Return a lab of Bookinfo alone; under another name its hosts' namespaces begin with that name."""
    stars = {"ENABLE_RATINGS": "true"}
    return LabPlan(
        hosts=(
            CONSUL_HOST,
            _bookinfo_host("productpage", "productpage", "v1", {}),
            _bookinfo_host("details", "details", "v1", {}),
            _bookinfo_host("reviews-v1", "reviews", "v1", {}),
            _bookinfo_host("reviews-v2", "reviews", "v2", {**stars, "STAR_COLOR": "black"}),
            _bookinfo_host("reviews-v3", "reviews", "v3", {**stars, "STAR_COLOR": "red"}),
            _bookinfo_host("ratings", "ratings", "v1", {}),
        ),
        page_host="productpage",
        page_port=page_port,
        consul_port=consul_port,
        name=name,
        prefix="hostmesh-" if name == DEFAULT_NAME else f"{name}-",
    )


def bookinfo_app(service: str, version: str, environment: Mapping[str, str]) -> App:
    """Return one of the four applications in one version."""
    return App(
        service,
        python_app(BOOKINFO / f"{service}.py", 9080),
        service_account=f"bookinfo-{service}",
        labels={"app": service, "version": version},
        environment={"SERVICE_VERSION": version, **environment},
    )


def python_app(script: Path, port: int) -> tuple[str, ...]:
    """Return the command line of one of the lab's applications."""
    return (sys.executable, str(script), str(port))


def _bookinfo_host(name: str, service: str, version: str, environment: Mapping[str, str]) -> HostPlan:
    return HostPlan(name, (bookinfo_app(service, version, environment),))
