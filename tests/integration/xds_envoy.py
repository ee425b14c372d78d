"""A real Envoy on its own small bootstrap, and hand-made resources for it (not by the code under test's neighbours)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2  # noqa: F401 (registers the type)
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2  # noqa: F401
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_pb2  # noqa: F401
from google.protobuf.json_format import ParseDict

from agent.mesh.names import CLUSTER_TYPE, ENDPOINT_TYPE, LISTENER_TYPE, ROUTE_TYPE, SECRET_TYPE
from agent.mesh.snapshot import Resource, Resources
from tests.programs import ENVOY

HTTP_MANAGER = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ADS = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
MESSAGES: dict[str, Any] = {
    CLUSTER_TYPE: cluster_pb2.Cluster,
    ENDPOINT_TYPE: endpoint_pb2.ClusterLoadAssignment,
    LISTENER_TYPE: listener_pb2.Listener,
    ROUTE_TYPE: route_pb2.RouteConfiguration,
    SECRET_TYPE: secret_pb2.Secret,
}


def bootstrap(folder: Path) -> dict[str, Any]:
    """Return a bootstrap with delta ADS over a Unix socket and a short reconnect back-off."""
    return {
        "node": {"id": "test-node", "cluster": "test"},
        "admin": {"address": {"pipe": {"path": str(folder / "admin.sock"), "mode": 0o600}}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": True,
                "grpc_services": [
                    {
                        "envoy_grpc": {
                            "cluster_name": "xds",
                            "retry_policy": {"retry_back_off": {"base_interval": "0.05s", "max_interval": "0.5s"}},
                        }
                    }
                ],
            },
            "cds_config": ADS,
            "lds_config": ADS,
        },
        "static_resources": {
            "clusters": [
                {
                    "name": "xds",
                    "type": "STATIC",
                    "connect_timeout": "1s",
                    "typed_extension_protocol_options": {
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                            "explicit_http_config": {"http2_protocol_options": {}},
                        }
                    },
                    "load_assignment": {
                        "cluster_name": "xds",
                        "endpoints": [
                            {"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": str(folder / "xds.sock")}}}}]}
                        ],
                    },
                }
            ]
        },
    }


def resource(type_url: str, name: str, content: dict[str, Any], *references: tuple[str, str]) -> Resource:
    """Return a resource from its JSON form."""
    value = ParseDict(content, MESSAGES[type_url]()).SerializeToString(deterministic=True)
    return Resource(type_url, name, hashlib.sha256(value).hexdigest()[:16], value, references)


def resources(*all_of_them: Resource) -> Resources:
    """Return the whole state."""
    by_type: dict[str, dict[str, Resource]] = {}
    for each in all_of_them:
        by_type.setdefault(each.type_url, {})[each.name] = each
    return Resources(by_type)


def cluster(name: str, **more: Any) -> Resource:
    """Return an EDS cluster."""
    content = {"name": name, "type": "EDS", "eds_cluster_config": {"eds_config": ADS}, "connect_timeout": "1s", **more}
    return resource(CLUSTER_TYPE, name, content, (ENDPOINT_TYPE, name))


def endpoints(name: str, *ports: int) -> Resource:
    """Return a cluster's endpoints on 127.0.0.1."""
    lb = [{"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}} for port in ports]
    return resource(ENDPOINT_TYPE, name, {"cluster_name": name, "endpoints": [{"lb_endpoints": lb}]})


def listener(name: str, port: int, routes: str, tls: dict[str, Any] | None = None) -> Resource:
    """Return an HTTP listener on 127.0.0.1 with routes by RDS."""
    manager = {
        "@type": HTTP_MANAGER,
        "stat_prefix": name,
        "rds": {"route_config_name": routes, "config_source": ADS},
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    chain: dict[str, Any] = {"filters": [{"name": "http", "typed_config": manager}]}
    if tls:
        chain["transport_socket"] = tls
    content = {
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [chain],
    }
    return resource(LISTENER_TYPE, name, content, (ROUTE_TYPE, routes))


def routes(name: str, cluster_name: str) -> Resource:
    """Return a route table that sends everything to one cluster."""
    host = {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster_name}}]}
    return resource(ROUTE_TYPE, name, {"name": name, "virtual_hosts": [host]}, (CLUSTER_TYPE, cluster_name))


class Envoy:
    """A running Envoy."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self.process = process
        self.folder = folder

    async def admin(self, path: str) -> str:
        """GET an admin page."""
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self.folder / "admin.sock"))) as session,
            session.get(f"http://admin{path}") as answer,
        ):
            return await answer.text()

    async def counter(self, name: str) -> int:
        """Return one counter or gauge; 0 if there is none of that name."""
        for line in (await self.admin(f"/stats?filter=^{name}$")).splitlines():
            return int(line.rpartition(": ")[2])
        return 0


@asynccontextmanager
async def envoy_running(
    folder: Path, change: Callable[[dict[str, Any]], None] = lambda _: None
) -> AsyncIterator[Envoy]:
    """Run Envoy on `bootstrap(folder)`; its log is `folder/envoy.log`."""
    config = bootstrap(folder)
    change(config)
    (folder / "bootstrap.json").write_text(json.dumps(config))
    with (folder / "envoy.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(str(ENVOY), "-c", str(folder / "bootstrap.json"), "--use-dynamic-base-id", "--concurrency", "1"),
            *("--log-level", "info", "--drain-time-s", "2"),
            stdout=log,
            stderr=log,
        )
    try:
        yield Envoy(process, folder)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def application(answer: str, delay: float = 0.0) -> AsyncIterator[int]:
    """Run an HTTP application that always answers the same; yields its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                await asyncio.sleep(delay)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(answer), answer.encode()))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        server.close()


async def get(port: int) -> tuple[int, str]:
    """GET / on a fresh connection; status 0 if refused."""
    try:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/") as answer:
            return answer.status, await answer.text()
    except aiohttp.ClientError:
        return 0, ""


def socket_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder with a short path: a Unix socket's is at most 107 bytes."""
    return tempfile.TemporaryDirectory(prefix="hm-xds-")
