"""The ADS server against a real Envoy: traffic, order, exact refusals, reconnects, rotation."""

from __future__ import annotations

import asyncio
import datetime
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agent.adapters.xds.server import XdsServer
from agent.mesh.names import CLUSTER_TYPE, ENDPOINT_TYPE, LISTENER_TYPE, ROUTE_TYPE, SECRET_TYPE
from agent.mesh.snapshot import Resource
from tests.integration.xds_envoy import (
    ADS,
    Envoy,
    application,
    cluster,
    endpoints,
    envoy_running,
    get,
    listener,
    resource,
    resources,
    routes,
    socket_folder,
)
from tests.ports import free_port
from tests.waiting import eventually

DOWNSTREAM_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"


class Bench:
    """A server and an Envoy that is connected to it."""

    def __init__(self, server: XdsServer, envoy: Envoy, folder: Path) -> None:
        self.server, self.envoy, self.folder = server, envoy, folder
        self.revision = 0

    async def push(self, *all_of_them: Resource, timeout: float = 5.0) -> Mapping[str, int]:
        """Publish, wait for the acknowledgement, return what was sent by type."""
        before = self.server.state.resources_sent
        self.revision += 1
        self.server.publish(resources(*all_of_them), self.revision)
        assert await self.server.wait_acked(self.revision, timeout), self.server.state
        after = self.server.state.resources_sent
        return {type_url: after[type_url] - before.get(type_url, 0) for type_url in after if after[type_url]}

    async def restart_server(self) -> None:
        """Stop the server and start a new one that knows nothing of the old one's streams."""
        await self.server.stop()
        self.server = XdsServer(self.folder / "xds.sock")
        await self.server.start()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    with socket_folder() as name:
        folder = Path(name)
        server = XdsServer(folder / "xds.sock")
        await server.start()
        async with envoy_running(folder) as envoy:
            made = Bench(server, envoy, folder)
            try:
                yield made
            finally:
                await made.server.stop()


def only(sent: Mapping[str, int], **expected: int) -> bool:
    names = {"cluster": CLUSTER_TYPE, "endpoint": ENDPOINT_TYPE, "listener": LISTENER_TYPE, "route": ROUTE_TYPE}
    names["secret"] = SECRET_TYPE
    return {type_url: count for type_url, count in sent.items() if count} == {
        names[kind]: count for kind, count in expected.items()
    }


async def test_a_change_of_endpoints_sends_endpoints_only(bench: Bench) -> None:
    port = free_port()
    rest = (cluster("a"), listener("l", port, "r"), routes("r", "a"))
    async with application("one") as one, application("two") as two:
        sent = await bench.push(*rest, endpoints("a", one))
        assert only(sent, cluster=1, endpoint=1, listener=1, route=1)
        await eventually(lambda: answers(port, "one"))
        assert only(await bench.push(*rest, endpoints("a", two)), endpoint=1)
        assert await get(port) == (200, "two")
        # Nothing new: acknowledged without a word to Envoy.
        responses = bench.server.state.responses
        assert only(await bench.push(*rest, endpoints("a", two)))
        assert bench.server.state.responses == responses
    assert bench.server.state.proxy_version == "1.40.0"
    assert bench.server.state.node_id == "test-node"


async def answers(port: int, text: str) -> bool:
    return await get(port) == (200, text)


async def test_a_changed_cluster_does_not_wait_for_endpoints_it_has(bench: Bench) -> None:
    async with application("one") as one:
        await bench.push(cluster("a"), endpoints("a", one))
        started = time.monotonic()
        sent = await bench.push(cluster("a", connect_timeout="2s"), endpoints("a", one))
        assert time.monotonic() - started < 3, "the cluster warmed until its initial_fetch_timeout"
        assert only(sent, cluster=1, endpoint=1)
        assert await bench.envoy.counter("cluster_manager.warming_clusters") == 0


async def test_reconnect_sends_nothing_unchanged(bench: Bench) -> None:
    port = free_port()
    rest = (cluster("a"), cluster("b"), listener("l", port, "r"), routes("r", "a"))
    async with application("one") as one, application("two") as two:
        await bench.push(*rest, endpoints("a", one), endpoints("b", one))
        await eventually(lambda: answers(port, "one"))
        await bench.restart_server()
        started = time.monotonic()
        sent = await bench.push(*rest, endpoints("a", two), endpoints("b", one))
        assert time.monotonic() - started < 2, "Envoy took long to connect again: see its retry_back_off"
        assert only(sent, endpoint=1)
        assert await get(port) == (200, "two")
        await bench.restart_server()
        assert only(await bench.push(*rest, endpoints("a", two), endpoints("b", one)))
        assert bench.server.state.responses == 0


async def test_a_cluster_that_warms_over_a_reconnect_gets_its_endpoints(bench: Bench) -> None:
    port = free_port()
    rest = (listener("l", port, "r"), routes("r", "a"))
    async with application("one") as one:
        await bench.push(*rest, cluster("a"), endpoints("a", one))
        await eventually(lambda: answers(port, "one"))
        await warm_without_endpoints(bench, *rest)
        await bench.restart_server()
        await bench.push(*rest, cluster("a", connect_timeout="2s"), endpoints("a", one))
        assert await get(port) == (200, "one")


async def test_a_cluster_that_warms_gets_its_endpoints_once_they_are_good_again(bench: Bench) -> None:
    async with application("one") as one:
        await bench.push(cluster("a"), endpoints("a", one))
        await warm_without_endpoints(bench)
        await bench.push(cluster("a", connect_timeout="2s"), endpoints("a", one))
        assert bench.server.state.nacks == ()


async def warm_without_endpoints(bench: Bench, *rest: Resource) -> None:
    """Bring Envoy to where it withholds CDS: a cluster changes while the newest form of its endpoints is refused."""
    garbled = Resource(ENDPOINT_TYPE, "a", "garbled", b"\xff")
    await bench.push(*rest, cluster("a"), garbled)
    bench.revision += 1
    bench.server.publish(resources(*rest, cluster("a", connect_timeout="2s"), garbled), bench.revision)
    await eventually(lambda: is_warming(bench.envoy))
    assert [nack.subject for nack in bench.server.state.nacks] == ["a"]


async def is_warming(envoy: Envoy) -> bool:
    return await envoy.counter("cluster_manager.warming_clusters") == 1


async def test_an_invalid_cluster_is_named_and_the_others_live(bench: Bench) -> None:
    port = free_port()
    rest = (listener("l", port, "r"), routes("r", "a"))
    async with application("one") as one, application("two") as two:
        old = (endpoints("a", one), endpoints("held", one))
        await bench.push(*rest, *old, cluster("a"), cluster("held"))
        bad = {"lb_policy": "CLUSTER_PROVIDED"}
        garbled = {"connect_timeout": "0s"}
        for fault in (bad, garbled):
            clusters = (cluster("a", connect_timeout="7s"), cluster("new", **fault), cluster("held", **fault))
            await bench.push(*rest, *clusters, endpoints("a", two), endpoints("held", one), endpoints("new", one))
            assert [nack.subject for nack in bench.server.state.nacks] == ["held", "new"]
            assert all("\n" not in nack.reason and len(nack.reason) < 500 for nack in bench.server.state.nacks)
            await eventually(lambda: answers(port, "two"))
            assert await bench.envoy.counter("cluster.held.membership_total") == 1
            sent = await bench.push(
                *rest, *clusters, endpoints("a", one), endpoints("held", one), endpoints("new", one)
            )
            assert only(sent, endpoint=1), "refused content came again"
            assert bench.server.state.nacks
            # Back to what Envoy held all the time: nothing to send, no fault any more.
            assert only(await bench.push(*rest, cluster("a", connect_timeout="7s"), cluster("held"), *old))
            assert bench.server.state.nacks == ()


async def test_replacing_cluster_and_route_loses_no_request(bench: Bench) -> None:
    port = free_port()
    async with application("one", delay=0.002) as one:
        await bench.push(cluster("v0"), endpoints("v0", one), listener("l", port, "r"), routes("r", "v0"))
        await eventually(lambda: answers(port, "one"))
        statuses: list[int] = []
        load = asyncio.create_task(request_constantly(port, statuses))
        for number in range(1, 31):
            name = f"v{number}"
            await bench.push(cluster(name), endpoints(name, one), listener("l", port, "r"), routes("r", name))
        enough = len(statuses) + 20
        await eventually(lambda: asyncio.sleep(0, len(statuses) > enough))
        load.cancel()
    assert set(statuses) == {200}
    assert await bench.envoy.counter("cluster_manager.active_clusters") == 2  # the newest, and the static one of ADS


async def request_constantly(port: int, statuses: list[int]) -> None:
    while True:
        statuses.append((await get(port))[0])


async def test_a_secret_rotates_alone(bench: Bench) -> None:
    port = free_port()
    tls = {"tls_certificate_sds_secret_configs": [{"name": "certificate", "sds_config": ADS}]}
    socket = {"name": "tls", "typed_config": {"@type": DOWNSTREAM_TLS, "common_tls_context": tls}}
    rest = (cluster("a"), endpoints("a"), listener("l", port, "r", tls=socket), routes("r", "a"))
    sent = await bench.push(*rest, secret("first"))
    assert sent[SECRET_TYPE] == 1
    await eventually(lambda: serves(port, "first"))
    assert only(await bench.push(*rest, secret("second")), secret=1)
    await eventually(lambda: serves(port, "second"))


async def serves(port: int, common_name: str) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    except OSError:
        return False
    certificate = x509.load_der_x509_certificate(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
    writer.close()
    return certificate.subject.rfc4514_string() == f"CN={common_name}"


def secret(common_name: str) -> Resource:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now)
    certificate = builder.not_valid_after(now + datetime.timedelta(hours=1)).sign(key, hashes.SHA256())
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    chain = certificate.public_bytes(serialization.Encoding.PEM).decode()
    pair = {"certificate_chain": {"inline_string": chain}, "private_key": {"inline_string": pem}}
    return resource(SECRET_TYPE, "certificate", {"name": "certificate", "tls_certificate": pair})


async def test_a_large_push_goes_in_parts(bench: Bench) -> None:
    async with application("one") as one:
        names = [f"outbound|9080||service-{number:04d}.service.consul" for number in range(2100)]
        made = [each for name in names for each in (cluster(name), endpoints(name, one))]
        sent = await bench.push(*made, timeout=30)
        assert only(sent, cluster=2100, endpoint=2100)
        assert await bench.envoy.counter("cluster_manager.active_clusters") == 2101
        assert bench.server.state.responses >= 4
