"""Active checks by a caller's Envoy on real traffic: what fails is out at once, in plain text and by mutual TLS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from tests.integration.grpc_application import SERVICE, GrpcClient, grpc_application
from tests.integration.moody_application import MoodyApplication, moody_application
from tests.integration.rendered_mesh import Client, loopback_network, rendered_envoy
from tests.mesh_certificates import TestAuthority
from tests.ports import free_port
from tests.waiting import wait_for

DOMAIN = "mesh.test"
OUT_SECONDS = 3.0
"""Consul would take 5 s by default; Envoy looks every 100 ms, and the machine may be busy."""
VERSIONS = ("v1", "v2", "v3")


class Site:
    """reviews v1, v2, v3, each with an Envoy in front under mutual TLS; a client."""

    def __init__(self, folder: Path, mode: str) -> None:
        self.folder, self.mode = folder, mode
        net = loopback_network()
        self.client_address, self.port = f"{net}.1", free_port()
        self.hosts = {version: f"{net}.{11 + index}" for index, version in enumerate(VERSIONS)}
        self.places = {version: f"{net}.{21 + index}" for index, version in enumerate(VERSIONS)}
        authority = TestAuthority()
        self.certs = {
            account: str(authority.write(folder / account, f"spiffe://{DOMAIN}/ns/default/sa/{account}"))
            for account in ("reviews", "page")
        }
        self.applications: dict[str, MoodyApplication] = {}
        self._stacks: dict[str, ExitStack] = {}

    def catalog(self, addresses: dict[str, str]) -> str:
        nodes = "".join(f", {{name: {version}, address: {address}}}" for version, address in addresses.items())
        proxied = str(self.mode != "disabled").lower()
        instances = ", ".join(f"{{node: {v}, proxied: {proxied}}}" for v in addresses)
        return f"""
mesh: {{mtls: {self.mode}, trustDomain: {DOMAIN}}}
nodes: [{{name: page, address: {self.client_address}}}{nodes}]
services:
- name: reviews
  serviceAccount: reviews
  ports: [{{name: http, port: {self.port}}}]
  activeCheck: {{http: /healthz, interval: 100ms, timeout: 1s}}
  instances: [{instances}]
- name: page
  serviceAccount: page
  ports: [{{name: http, port: 9995}}]
  instances: [{{node: page, proxied: true}}]
"""

    def start(self, version: str) -> None:
        """Run an application."""
        self._stacks[version] = ExitStack()
        application = moody_application(version, self.places[version], self.port)
        self.applications[version] = self._stacks[version].enter_context(application)

    def stop(self, version: str) -> None:
        """End an application: connections to it are refused."""
        self._stacks.pop(version).close()

    def _stop_all(self) -> None:
        for version in tuple(self._stacks):
            self.stop(version)

    @contextmanager
    def running(self, rules: str = "") -> Iterator[Client]:
        """Run applications and Envoys; yields a client."""
        callee = self.hosts if self.mode != "disabled" else self.places
        with ExitStack() as stack:
            stack.callback(self._stop_all)
            for version, bound in self.hosts.items():
                self.start(version)
                if self.mode != "disabled":
                    options = {"bind_inbound": bound, "certs": self.certs["reviews"]}
                    catalog, listening = self.catalog(self.places), (bound, self.port)
                    stack.enter_context(rendered_envoy(self.folder, version, catalog, "", listening, **options))
            options = {"bind_outbound": self.client_address}
            if self.mode != "disabled":
                options["certs"] = self.certs["page"]
            listening = (self.client_address, self.port)
            stack.enter_context(rendered_envoy(self.folder, "page", self.catalog(callee), rules, listening, **options))
            yield stack.enter_context(closing(Client(self.client_address, self.port)))


@pytest.fixture(params=["disabled", "strict"])
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Site:
    return Site(tmp_path, request.param)


def names(client: Client, count: int = 24) -> set[str]:
    """Return who answers so many requests; all must be answered well."""
    answers = [client.get("reviews") for _ in range(count)]
    return {answer.name if answer.status == 200 else str(answer.status) for answer in answers}


def test_an_instance_that_fails_its_check_gets_nothing_until_it_is_well(site: Site) -> None:
    with site.running() as client:
        wait_for(lambda: names(client) == set(VERSIONS), "all three serve")
        site.applications["v2"].status = 503
        wait_for(lambda: names(client) == {"v1", "v3"}, "the one with 503 is out", OUT_SECONDS)
        site.stop("v3")
        # Two of three are out: the one that is left has it all, and no bad one is tried again.
        wait_for(lambda: names(client) == {"v1"}, "the one that refuses connections is out", OUT_SECONDS)
        assert names(client, 60) == {"v1"}
        site.applications["v2"].status = 200
        site.start("v3")
        wait_for(lambda: names(client) == set(VERSIONS), "all three serve again")
        for application in site.applications.values():
            application.status = 503
        wait_for(lambda: b"no healthy upstream" in client.get("reviews").body, "nobody is called", OUT_SECONDS)
        counts = [application.count() for application in site.applications.values()]
        assert all(counts), "they are still looked at"


EJECTION = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: ejection}
spec: {host: reviews, trafficPolicy: {outlierDetection: {consecutive5xxErrors: 1, baseEjectionTime: 1h}}}
"""


def test_a_good_answer_to_a_check_brings_back_nobody_whom_a_rule_ejected(tmp_path: Path) -> None:
    site = Site(tmp_path, "disabled")
    with site.running(EJECTION) as client:
        for application in site.applications.values():
            application.health = 200
        site.applications["v2"].status = 500
        wait_for(lambda: names(client) == {"v1", "v3"}, "the one that fails is ejected")
        site.applications["v2"].count()
        wait_for(lambda: site.applications["v2"].requests >= 3, "it is looked at three times more")
        assert names(client, 60) == {"v1", "v3"}


def test_a_grpc_check_of_one_port_takes_an_instance_out_for_its_other_ports(tmp_path: Path) -> None:
    net = loopback_network()
    client, checked, called = f"{net}.1", free_port(), free_port()
    addresses = {"v1": f"{net}.11", "v2": f"{net}.12"}
    nodes = "".join(f", {{name: {version}, address: {address}}}" for version, address in addresses.items())
    catalog = f"""
mesh: {{mtls: disabled}}
nodes: [{{name: page, address: {client}}}{nodes}]
services:
- name: cart
  ports: [{{name: grpc, port: {called}}}, {{name: grpc-health, port: {checked}}}]
  activeCheck: {{grpc: {SERVICE}, port: {checked}, interval: 100ms}}
  instances: [{{node: v1}}, {{node: v2}}]
"""
    moods = {}
    with ExitStack() as stack:
        for version, address in addresses.items():
            stack.enter_context(grpc_application(version, address, called))
            moods[version] = stack.enter_context(grpc_application(version, address, checked))
        stack.enter_context(rendered_envoy(tmp_path, "page", catalog, "", (client, called), bind_outbound=client))
        caller = stack.enter_context(closing(GrpcClient(client, called, "cart")))

        def answering() -> set[str]:
            return {caller.get()["name"] for _ in range(12)}

        wait_for(lambda: answering() == {"v1", "v2"}, "both serve")
        moods["v1"].is_serving = False
        wait_for(lambda: answering() == {"v2"}, "the one that does not serve is out", OUT_SECONDS)
        moods["v1"].is_serving = True
        wait_for(lambda: answering() == {"v1", "v2"}, "both serve again")
