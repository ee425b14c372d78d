"""Every name that must mean the same everywhere: hosts of a service, xDS resources, type URLs, KV keys."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from agent.mesh.public_domains import is_public
from agent.mesh.routes import Subset
from agent.mesh.service import Identity, ServiceKey

DEFAULT_NAMESPACE = "default"
CONSUL_DOMAIN = "service.consul"
CLUSTER_DOMAIN = "svc.cluster.local"

_TYPE = "type.googleapis.com/envoy"
CLUSTER_TYPE = f"{_TYPE}.config.cluster.v3.Cluster"
ENDPOINT_TYPE = f"{_TYPE}.config.endpoint.v3.ClusterLoadAssignment"
LISTENER_TYPE = f"{_TYPE}.config.listener.v3.Listener"
ROUTE_TYPE = f"{_TYPE}.config.route.v3.RouteConfiguration"
SECRET_TYPE = f"{_TYPE}.extensions.transport_sockets.tls.v3.Secret"
XDS_ORDER = (CLUSTER_TYPE, ENDPOINT_TYPE, LISTENER_TYPE, ROUTE_TYPE, SECRET_TYPE)
"""Make before break: the order in which additions and changes go out (xDS protocol, "Eventual consistency")."""

AGENT_SERVICE = "hostmesh-agent"
"""What Consul's catalog calls the agents themselves, by which Prometheus finds them; no service of the mesh."""

KV_CONFIG = "hostmesh/config/"
KV_MESH = "hostmesh/mesh"
KV_STATUS = "hostmesh/status/"
KV_TICKETS = "hostmesh/tickets/"

TRUST_BUNDLE_SECRET = "trust-bundle"
CREDENTIAL_PREFIX = "credential/"
AUTHORITIES_SUFFIX = "/authorities"


def canonical_host(key: ServiceKey) -> str:
    """Return the one host name that stands for a service in xDS names."""
    if key.is_outside:
        return key.name
    if key.namespace == DEFAULT_NAMESPACE:
        return f"{key.name}.{CONSUL_DOMAIN}"
    return f"{key.name}.{key.namespace}.{CLUSTER_DOMAIN}"


def full_host(key: ServiceKey) -> str:
    """Return the name by which Istio's telemetry knows a service: `reviews.default.svc.cluster.local`."""
    return key.name if key.is_outside else f"{key.name}.{key.namespace}.{CLUSTER_DOMAIN}"


def process_name(service: ServiceKey | None) -> str:
    """Return by which name a host's Envoy is known where it can have only one: its first service's."""
    return f"{service.name}.{service.namespace}" if service else "hostmesh"


def host_of_cluster(cluster: str) -> tuple[str, int] | None:
    """Return host (as `full_host`) and port of a service's cluster, None for one that is no service's."""
    direction, _, rest = cluster.partition("|")
    port, _, rest = rest.partition("|")
    host = rest.rpartition("|")[2]
    if direction != "outbound" or not host:
        return None
    name = host.removesuffix(f".{CONSUL_DOMAIN}")
    return (host if name == host else f"{name}.{DEFAULT_NAMESPACE}.{CLUSTER_DOMAIN}"), int(port)


def qualified_hosts(key: ServiceKey) -> tuple[str, ...]:
    """Return the names that mean this service whoever asks.

    A catalog entry chooses its namespace freely: `github` in the namespace `com` must not become `github.com`.
    """
    name = f"{key.name}.{key.namespace}"
    short = () if is_public(key.namespace) else (name,)
    return (*short, f"{name}.svc", f"{name}.{CLUSTER_DOMAIN}")


def hosts_by_service(keys: Iterable[ServiceKey], namespace: str) -> dict[ServiceKey, tuple[str, ...]]:
    """Return all names of each service as a caller of that namespace knows them; no name is given twice.

    `NAME` and `NAME.service.consul` do not say the namespace: they go to the caller's own, then to `default`, then to
    the first in alphabetical order. A service that a rule declares has the one name that the rule gives it.
    """
    by_name: dict[str, list[ServiceKey]] = {}
    hosts: dict[ServiceKey, tuple[str, ...]] = {}
    for key in keys:
        if key.is_outside:
            hosts[key] = (key.name,)
        else:
            by_name.setdefault(key.name, []).append(key)
    for candidates in by_name.values():
        candidates.sort(key=lambda key: (key.namespace != namespace, key.namespace != DEFAULT_NAMESPACE, key.namespace))
        for position, key in enumerate(candidates):
            hosts[key] = _all_hosts(key) if position == 0 else qualified_hosts(key)
    return hosts


@lru_cache(maxsize=65_536)  # asked for every service whenever one comes or goes
def _all_hosts(key: ServiceKey) -> tuple[str, ...]:
    return (key.name, f"{key.name}.{CONSUL_DOMAIN}", *qualified_hosts(key))


def resolve_host(host: str, namespace: str, known: Iterable[ServiceKey]) -> ServiceKey | None:
    """Return the service a host in a rule of that namespace means, or None if no known service has that name."""
    host = host.rstrip(".").lower()
    keys = [key for key in known if host == key.name or host.startswith(key.name + ".")]
    for key, names in hosts_by_service(keys, namespace).items():
        if host in names:
            return key
    return None


def host_breadth(host: str) -> int:
    """Return how much a host in a rule means, to compare: 0 for one service, a shorter wildcard more than a longer."""
    return 1000 - len(host.rstrip(".")) if host.startswith("*") else 0


def outbound_cluster(key: ServiceKey, port: int, subset: Subset | None = None) -> str:
    """Return the cluster (and endpoint) name of a service port: `outbound|9080|v1|reviews.service.consul`."""
    return f"outbound|{port}|{subset.name if subset else ''}|{canonical_host(key)}"


def of_caller(name: str, uid: int) -> str:
    """Return the name of a cluster, endpoints or a route table as this Unix user's programs have it."""
    return f"{name}~{uid}"


def server_name(cluster: str) -> str:
    """Return the server name by which callers ask for a cluster: `outbound_.9080_.v1_.reviews.service.consul`."""
    return cluster.replace("|", "_.")


def inbound_cluster(port: int) -> str:
    """Return the name of the cluster of a local workload's port."""
    return f"inbound|{port}||"


def detected_table(key: ServiceKey, port: int) -> str:
    """Return the route table of a port where HTTP is detected: `reviews.service.consul:9080`, as Istio names it."""
    return f"{canonical_host(key)}:{port}"


def certificate_secret(identity: Identity, trust_domain: str) -> str:
    """Return the SDS name of a workload's certificate: its SPIFFE ID (as SPIRE's SDS does)."""
    return identity.spiffe_id(trust_domain)


def credential_secrets(credential: str) -> tuple[str, str]:
    """Return the SDS names of a gateway's `credentialName`: its certificate, and its clients' authorities."""
    return f"{CREDENTIAL_PREFIX}{credential}", f"{CREDENTIAL_PREFIX}{credential}{AUTHORITIES_SUFFIX}"


def config_key(namespace: str, kind: str, name: str) -> str:
    """Return the KV key of a rule object; kind in lower case, singular (`routerule`)."""
    return f"{KV_CONFIG}{namespace}/{kind.lower()}/{name}"


def status_key(node: str) -> str:
    """Return the KV key of a node's status document."""
    return f"{KV_STATUS}{node}"


def ticket_key(node: str, ticket: str = "") -> str:
    """Return the KV key of an operator's ticket for a node's agent; without one, the prefix of them all."""
    return f"{KV_TICKETS}{node}/{ticket}"
