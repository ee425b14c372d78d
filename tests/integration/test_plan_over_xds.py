"""Plans served by the real xDS server to a real Envoy on the generated bootstrap: accepted whole, in every mode."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec import structs

from agent.adapters.xds.server import XdsServer
from agent.mesh.routes import HttpMatch, MatchKind, NamedMatch, ServicePolicy, StringMatch
from agent.mesh.service import Health, Service
from agent.mesh.settings import MeshSettings, MtlsMode, OutboundTrafficPolicy
from agent.mesh.snapshot import Certificate, MeshSnapshot
from agent.mesh.trust import TrustBundle
from agent.translate.bootstrap import BootstrapOptions, bootstrap
from agent.translate.plan import Planner
from tests.integration.netns import Host, lan
from tests.integration.xds_envoy import socket_folder
from tests.mesh_certificates import TestAuthority
from tests.programs import ENVOY
from tests.unit.mesh_samples import HTTP, MYSQL, OPTIONS, key, mesh, route, service, workload
from tests.waiting import wait_for

REVIEWS, DB = key("reviews"), key("mysql")


class Site:
    """One host with an Envoy that asks a real xDS server for its configuration."""

    def __init__(self, host: Host, server: XdsServer, log: Path) -> None:
        self.host = host
        self.server = server
        self._log = log
        self._planner = Planner()
        self._revision = 0

    async def apply(self, snapshot: MeshSnapshot) -> None:
        """Publish the plan of a snapshot; Envoy must accept all of it."""
        desired = self._planner.plan(snapshot, OPTIONS)
        assert desired.resources.dangling() == []
        self._revision += 1
        self.server.publish(desired.resources, self._revision)
        assert await self.server.wait_acked(self._revision, 15), self._log.read_text()
        assert self.server.state.nacks == ()

    def get(self, port: int, path: str) -> tuple[int, str]:
        """Return status (0: refused) and body."""
        done = self.host.run("curl", "-sS", "-w", "\n%{http_code}", f"http://127.0.0.1:{port}{path}", check=False)
        body, _, status = done.stdout.rpartition("\n")
        return int(status or 0), body

    def updates(self) -> dict[str, int]:
        """Return how many updates of each kind Envoy has taken in."""
        text = self.get(15090, "/stats/prometheus")[1]
        pattern = r"^envoy_(cluster_manager_cds|listener_manager_lds|.*?_rds|cluster)_update_success\{?[^ ]* (\d+)$"
        counts: dict[str, int] = {}
        for kind, count in re.findall(pattern, text, re.MULTILINE):
            counts[kind] = counts.get(kind, 0) + int(count)
        return counts


@asynccontextmanager
async def envoy_without_server(folder: Path) -> AsyncIterator[Site]:
    """Run Envoy; the xDS server is there but has not been started."""
    options = BootstrapOptions("node-1", admin_socket=str(folder / "admin.sock"), xds_socket=str(folder / "xds.sock"))
    (folder / "bootstrap.json").write_bytes(bootstrap(options))
    server, log = XdsServer(folder / "xds.sock"), folder / "envoy.log"
    command = (ENVOY, "-c", folder / "bootstrap.json", "--disable-hot-restart", "--concurrency", "1", "-l", "warning")
    with lan("host") as hosts, log.open("wb") as output:
        with hosts["host"].running(*command, stdout=output, stderr=output):
            yield Site(hosts["host"], server, log)
        await server.stop()


def sample() -> MeshSnapshot:
    """Return HTTP and TCP services with rules, and a workload of each kind with a real certificate."""
    conditional = structs.replace(
        route(REVIEWS, ("v2", 100), name="conditional"),
        matches=(
            HttpMatch(
                uri=StringMatch(MatchKind.REGEX, "/a.*", ignore_case=True),
                headers=(NamedMatch("cookie", StringMatch(MatchKind.REGEX, "^(.*?;)?(user=jason)(;.*)?$"), True),),
                query=(NamedMatch("q", StringMatch(MatchKind.PREFIX, "x")),),
            ),
        ),
    )
    policies = {
        REVIEWS: ServicePolicy((conditional, route(REVIEWS, ("v1", 75), ("v2", 25)))),
        DB: ServicePolicy(tcp=(route(DB, ("v1", 90), ("v3", 10)),)),
    }
    return mesh(
        [service("reviews"), service("ratings", proxied=False), service("mysql", port=MYSQL)],
        policies,
        workloads=(workload("reviews", HTTP, account="reviews"), workload("mysql", MYSQL)),
    )


@pytest.fixture
def certified(tmp_path: Path) -> MeshSnapshot:
    snapshot, authority, held = sample(), TestAuthority(), {}
    for identity in snapshot.certificates:
        folder = authority.write(tmp_path / identity.service_account, identity.spiffe_id("cluster.local"))
        key_pem, chain_pem = (folder / name for name in ("key.pem", "cert-chain.pem"))
        held[identity] = Certificate(key_pem.read_bytes(), chain_pem.read_bytes())
    bundle = (tmp_path / "reviews" / "root-cert.pem").read_bytes()
    return structs.replace(snapshot, certificates=held, trust=TrustBundle(bundle))


async def test_first_start_serves_nothing_by_halves_and_flips_touch_endpoints_only(certified: MeshSnapshot) -> None:
    with socket_folder() as folder:
        async with envoy_without_server(Path(folder)) as site:
            wait_for(lambda: (Path(folder) / "admin.sock").exists(), timeout=10)
            assert site.get(15021, "/healthz/ready")[0] == 0, "not ready before the first configuration"
            await site.server.start()
            await site.apply(certified)
            wait_for(lambda: site.get(15021, "/healthz/ready")[0] == 200, timeout=10)
            assert site.get(15021, "/other")[0] == 404
            assert site.get(15090, "/quitquitquit")[0] == 404
            assert site.get(15090, "/")[0] == 404
            assert (Path(folder) / "admin.sock").stat().st_mode & 0o777 == 0o600
            before = site.updates()
            reviews = certified.services[REVIEWS]
            down = structs.replace(reviews.instances[0], health=Health.CRITICAL)
            flipped = Service.from_instances(REVIEWS, (down, *reviews.instances[1:]))
            await site.apply(structs.replace(certified, services={**certified.services, REVIEWS: flipped}))
            after = site.updates()
            changed = {kind: after[kind] - before.get(kind, 0) for kind in after if after[kind] != before.get(kind, 0)}
            assert changed == {"cluster": 2}, "the service port's endpoints and one subset's"


async def test_every_mode_and_every_way_between_them_is_accepted(certified: MeshSnapshot) -> None:
    bare = structs.replace(certified, certificates={}, trust=TrustBundle(b""))
    with socket_folder() as folder:
        async with envoy_without_server(Path(folder)) as site:
            await site.server.start()
            for mode in (*MtlsMode, *reversed(MtlsMode)):
                for policy in OutboundTrafficPolicy:
                    settings = MeshSettings(mtls=mode, outbound_traffic_policy=policy)
                    await site.apply(structs.replace(bare, settings=settings))
                    await site.apply(structs.replace(certified, settings=settings))
            await site.apply(structs.replace(certified, services={}, policies={}, workloads=()))
            await site.apply(certified)
            wait_for(lambda: site.get(15021, "/healthz/ready")[0] == 200, timeout=10)
