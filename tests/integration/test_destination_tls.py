"""A DestinationRule's tls and proxyProtocol on real traffic: servers outside the mesh, and the mesh's own."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.integration.moody_application import moody_application, server_tls
from tests.integration.rendered_mesh import Client, http_application, loopback_network, rendered_envoy
from tests.mesh_certificates import TestAuthority
from tests.ports import free_port

DOMAIN, HOST = "mesh.test", "secure.example.org"
SERVER_ID = f"spiffe://{DOMAIN}/ns/default/sa/ratings"
CLIENT_ID = f"spiffe://{DOMAIN}/ns/default/sa/page"


class Site:
    """A client host; one service that the mesh serves, and one that somebody else's server does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        net = loopback_network()
        self.client_address, self.server, self.outside = f"{net}.1", f"{net}.10", f"{net}.20"
        self.mesh_port, self.outside_port = free_port(), free_port()
        self.authority = TestAuthority()
        self.outside_files = str(self.authority.write_for_host(folder / "outside", HOST))
        self.client_files = str(self.authority.write(folder / "client", CLIENT_ID))
        self.server_files = str(self.authority.write(folder / "server", SERVER_ID))

    def catalog(self, protocol: str = "http") -> str:
        return f"""
mesh: {{mtls: permissive, trustDomain: {DOMAIN}}}
nodes:
- {{name: server, address: {self.server}}}
- {{name: client, address: {self.client_address}}}
- {{name: outside, address: {self.outside}}}
services:
- name: ratings
  serviceAccount: ratings
  ports: [{{name: http, port: {self.mesh_port}}}]
  instances: [{{node: server, proxied: true}}]
- name: secure
  ports: [{{name: {protocol}, port: {self.outside_port}}}]
  instances: [{{node: outside}}]
- name: page
  serviceAccount: page
  ports: [{{name: http, port: 9997}}]
  instances: [{{node: client, proxied: true}}]
"""

    @contextmanager
    def calling(self, host: str, policy: str, protocol: str = "http") -> Iterator[str]:
        """Run the client's Envoy with a DestinationRule for that service; yields the client's address."""
        rules = f"""
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: rule}}
spec: {{host: {host}, trafficPolicy: {policy}}}
"""
        ready = (self.client_address, self.outside_port)
        options = {"bind_outbound": self.client_address, "certs": self.client_files}
        with rendered_envoy(self.folder, "client", self.catalog(protocol), rules, ready, **options):
            yield self.client_address


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("tls"))


def ask(address: str, port: int, host: str) -> tuple[int, dict[str, object]]:
    """Return the status of a GET, and the application's JSON (empty unless it answered)."""
    with closing(Client(address, port)) as client:
        answer = client.get(host)
        return answer.status, answer.document if answer.body.startswith(b"{") else {}


def secured(site: Site, tls: str) -> tuple[int, dict[str, object]]:
    with site.calling("secure", f"{{tls: {tls}}}") as address:
        return ask(address, site.outside_port, "secure")


def test_simple_tls_checks_the_server_s_name(site: Site) -> None:
    roots = f"caCertificates: {site.outside_files}/root-cert.pem"
    with moody_application("secure", site.outside, site.outside_port, server_tls(site.outside_files)):
        assert secured(site, f"{{mode: SIMPLE, {roots}, subjectAltNames: [{HOST}]}}")[0] == 200
        assert secured(site, f"{{mode: SIMPLE, {roots}, sni: {HOST}}}")[0] == 200
        assert secured(site, f"{{mode: SIMPLE, {roots}, subjectAltNames: [other.example.org]}}")[0] == 503
        assert secured(site, f"{{mode: SIMPLE, {roots}, sni: other.example.org}}")[0] == 503
        # Nothing but the Host header says which name is meant, and it is the service's.
        assert secured(site, f"{{mode: SIMPLE, {roots}}}")[0] == 503
        # The machine's own authorities know nothing of the test's.
        assert secured(site, f"{{mode: SIMPLE, sni: {HOST}}}")[0] == 503
        assert secured(site, "{mode: SIMPLE, insecureSkipVerify: true}")[0] == 200
        assert secured(site, "{mode: DISABLE}")[0] in (502, 503)


def test_mutual_tls_shows_the_client_s_certificate(site: Site) -> None:
    roots, own = f"{site.outside_files}/root-cert.pem", site.client_files
    check = f"caCertificates: {roots}, subjectAltNames: [{HOST}]"
    files = f"clientCertificate: {own}/cert-chain.pem, privateKey: {own}/key.pem"
    tls = server_tls(site.outside_files, clients_from=roots)
    with moody_application("secure", site.outside, site.outside_port, tls):
        assert secured(site, f"{{mode: SIMPLE, {check}}}")[0] in (502, 503)
        status, document = secured(site, f"{{mode: MUTUAL, {check}, {files}}}")
        assert (status, document["client"]) == (200, [["URI", CLIENT_ID]])


def test_a_secret_of_the_host_instead_of_files(site: Site) -> None:
    site.authority.write_secret(Path(site.client_files) / "secrets" / "shop", "page.example.org")
    roots = f"{site.outside_files}/root-cert.pem"
    with moody_application(
        "secure", site.outside, site.outside_port, server_tls(site.outside_files, clients_from=roots)
    ):
        status, document = secured(site, f"{{mode: MUTUAL, credentialName: shop, sni: {HOST}}}")
        assert (status, document["client"]) == (200, [["DNS", "page.example.org"]])
        assert secured(site, "{mode: MUTUAL, credentialName: shop, sni: other.example.org}")[0] == 503
        assert secured(site, f"{{mode: SIMPLE, credentialName: shop, sni: {HOST}}}")[0] == 503
        # Nothing goes to a server that this host cannot check as it was told to.
        assert secured(site, f"{{mode: MUTUAL, credentialName: absent, sni: {HOST}}}")[0] == 503
    with moody_application("secure", site.outside, site.outside_port, server_tls(site.outside_files)):
        assert secured(site, f"{{mode: SIMPLE, credentialName: shop, sni: {HOST}}}")[0] == 200


@pytest.mark.parametrize(
    ("tls", "status", "is_mutual"),
    [
        ("{mode: DISABLE}", 200, False),
        ("{mode: ISTIO_MUTUAL}", 200, True),
        (f'{{mode: ISTIO_MUTUAL, subjectAltNames: ["{SERVER_ID}"]}}', 200, True),
        (f'{{mode: ISTIO_MUTUAL, subjectAltNames: ["{CLIENT_ID}"]}}', 503, False),
    ],
)
def test_modes_against_a_permissive_instance(site: Site, tls: str, status: int, is_mutual: bool) -> None:
    listening = (site.server, site.mesh_port)
    options = {"bind_inbound": site.server, "certs": site.server_files}
    with (
        http_application("ratings", "127.0.0.1", site.mesh_port),
        rendered_envoy(site.folder, "server", site.catalog(), "", listening, **options),
        site.calling("ratings", f"{{tls: {tls}}}") as address,
    ):
        answered, document = ask(address, site.mesh_port, "ratings")
    assert answered == status
    assert ("x-forwarded-client-cert" in json.dumps(document)) == is_mutual


@pytest.mark.parametrize(("version", "start"), [("V1", b"PROXY TCP4 "), ("V2", b"\r\n\r\n\x00\r\nQUIT\n")])
def test_connections_begin_with_a_proxy_protocol_header(site: Site, version: str, start: bytes) -> None:
    received: list[bytes] = []
    with socket.create_server((site.outside, site.outside_port)) as server:

        def serve() -> None:
            while not received:
                connection, _ = server.accept()
                with connection:
                    received.extend(filter(None, [connection.recv(1024)]))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        policy = f"{{proxyProtocol: {{version: {version}}}}}"
        with (
            site.calling("secure", policy, "tcp") as address,
            socket.create_connection((address, site.outside_port), timeout=10) as connection,
        ):
            connection.sendall(b"hello")
            thread.join(10)
    assert received
    assert received[0].startswith(start)
