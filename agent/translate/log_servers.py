"""How the agent reaches the servers that logs go to: through listeners of Envoy's on Unix sockets. Pure.

Only Envoy reaches services of the mesh, by mutual TLS where they serve it; it finds the instances, and one that does
not read holds up nobody but the agent's own sending.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from envoy.config.listener.v3 import listener_components_pb2, listener_pb2

from agent.mesh.mixer_logs import Fluentd
from agent.mesh.names import CLUSTER_TYPE, LISTENER_TYPE
from agent.mesh.snapshot import Resource
from agent.translate.asked import Known, server_cluster
from agent.translate.resolve import Target
from agent.translate.resource import any_address, resource
from agent.translate.tcp import tcp_to

_PREFIX = "hostmesh_logs"


def log_socket(folder: str, server: Fluentd) -> str:
    """Return the path of the socket that leads to a server."""
    return f"{folder}/logs-{_short(server)}.sock"


def log_servers(
    servers: Iterable[Fluentd], known: Known, folder: str, upstreams: tuple[str, ...]
) -> tuple[Resource, ...]:
    """Return what leads to these servers; without a folder for sockets there is no agent to use them."""
    made: dict[tuple[str, str], Resource] = {}
    for server in servers if folder else ():
        cluster, own = server_cluster(server.host, server.port, known, upstreams)
        listener = _listener(server, log_socket(folder, server), cluster)
        made |= {(each.type_url, each.name): each for each in (listener, own) if each is not None}
    return tuple(made.values())


def _listener(server: Fluentd, socket: str, cluster: str) -> Resource:
    name = f"{_PREFIX}_{_short(server)}"
    message = listener_pb2.Listener(name=name, address=any_address(f"unix://{socket}", 0))
    message.address.pipe.mode = 0o600
    passing = tcp_to(_PREFIX, (Target(cluster, 100),))
    message.filter_chains.append(listener_components_pb2.FilterChain(name=name, filters=[passing]))
    return resource(LISTENER_TYPE, name, message, [(CLUSTER_TYPE, cluster)])


def _short(server: Fluentd) -> str:
    return sha256(f"{server.host}:{server.port}".encode()).hexdigest()[:8]
