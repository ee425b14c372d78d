"""Small meshes for tests of the translation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network

from agent.mesh.routes import Destination, ObjectRef, Route, ServicePolicy, Subset, WeightedDestination
from agent.mesh.service import Instance, Port, Protocol, Service, ServiceKey, Workload, labels_of
from agent.mesh.settings import MeshSettings, MtlsMode
from agent.mesh.snapshot import Certificate, MeshSnapshot
from agent.mesh.trust import TrustBundle
from agent.mesh.vips import allocate
from agent.translate.netfilter import NetfilterOptions
from agent.translate.plan import PlanOptions

V4, V6 = IPv4Network("240.240.0.0/16"), IPv6Network("fdf0:240:240::/112")
OPTIONS = PlanOptions(NetfilterOptions(proxy_uid=1337, service_cidr_v4=V4, service_cidr_v6=V6))
HTTP = Port(9080, "http", Protocol.HTTP)
MYSQL = Port(3306, "mysql", Protocol.MYSQL)
CERTIFICATE = Certificate(b"key", b"chain")


def key(name: str, namespace: str = "default") -> ServiceKey:
    return ServiceKey(namespace, name)


def instance(
    service: ServiceKey, number: int, *, port: Port = HTTP, version: str = "v1", proxied: bool = True
) -> Instance:
    return Instance(
        id=f"{service}-{number}",
        service=service,
        node=f"node-{number}",
        address=f"10.0.{number // 250}.{number % 250 + 1}",
        ports=(port,),
        labels=labels_of({"version": version}),
        proxied=proxied,
    )


def service(
    name: str, count: int = 3, *, port: Port = HTTP, namespace: str = "default", proxied: bool = True
) -> Service:
    """Return a service whose instances have versions v1, v2, v3, v1 …"""
    own = key(name, namespace)
    made = [instance(own, n, port=port, version=f"v{n % 3 + 1}", proxied=proxied) for n in range(count)]
    return Service.from_instances(own, made)


def workload(name: str, *ports: Port, account: str = "default", proxied: bool = True) -> Workload:
    return Workload(key(name), "10.0.0.1", ports or (HTTP,), service_account=account, proxied=proxied)


def version(name: str) -> Subset:
    return Subset(f"version={name}", labels_of({"version": name}))


def route(to: ServiceKey, *weights: tuple[str, int], name: str = "rule", port: int | None = None) -> Route:
    """Return a rule without conditions; `weights`: version and share."""
    targets = tuple(WeightedDestination(Destination(to, version(v), port), share) for v, share in weights)
    return Route("", ObjectRef("RouteRule", "default", name), targets or (WeightedDestination(Destination(to)),))


def mesh(
    services: Iterable[Service],
    policies: Mapping[ServiceKey, ServicePolicy] | None = None,
    *,
    workloads: tuple[Workload, ...] = (),
    mtls: MtlsMode = MtlsMode.PERMISSIVE,
    certified: bool = True,
) -> MeshSnapshot:
    """Return a snapshot; `certified`: the workloads have certificates, and there is a trust bundle."""
    by_key = {each.key: each for each in services}
    return MeshSnapshot(
        node="node-1",
        services=by_key,
        policies=policies or {},
        settings=MeshSettings(mtls=mtls),
        workloads=workloads,
        vips=allocate({}, by_key, V4, V6),
        certificates={each.identity: CERTIFICATE for each in workloads} if certified else {},
        trust=TrustBundle(b"root" if certified else b""),
    )
