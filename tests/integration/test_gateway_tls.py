"""How a gateway ends TLS or passes it on, on real traffic: the mesh's certificate, files, several secrets, revoked
clients, pins, ciphers, TCP inside TLS, a Unix socket, and the server names of the mesh's own callers.

One rendered gateway with a certificate of the mesh, plain services behind it, and one behind Envoys of its own.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import shutil
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.integration.rendered_mesh import greeting_application, http_application, loopback_network, rendered_envoy
from tests.mesh_certificates import TestAuthority
from tests.ports import free_ports

DOMAIN = "mesh.test"
GATEWAY_ID = f"spiffe://{DOMAIN}/ns/default/sa/istio-ingressgateway"
CALLER_ID = f"spiffe://{DOMAIN}/ns/default/sa/caller"
REVIEWS_ID = f"spiffe://{DOMAIN}/ns/default/sa/reviews"


class Edge:
    """A gateway's address and ports, and certificates to come to it with."""

    def __init__(self, folder: Path) -> None:
        net = loopback_network()
        self.folder = folder
        self.address, self.plain, self.v1, self.v2 = (f"{net}.{number}" for number in (1, 10, 21, 22))
        ports = free_ports(9)
        self.http, self.greeter, self.first, self.second = ports[:4]
        self.tls, self.mesh, self.tcp, self.files, self.auto = ports[4:]
        self.socket = folder / "edge.sock"
        self.mesh_authority, self.authority, self.clients = TestAuthority(), TestAuthority(), TestAuthority()
        self.certs = self.mesh_authority.write(folder / "certs", GATEWAY_ID)
        self.known = self.clients.write_for_host(folder / "known", "known.example.com")
        self.revoked = self.clients.write_for_host(folder / "revoked", "revoked.example.com")
        self._write_secrets()

    def _write_secrets(self) -> None:
        secrets = self.certs / "secrets"
        for name in ("one", "two"):
            self.authority.write_secret(secrets / name, f"{name}.example.com")
        self.authority.write_secret(self.folder / "by-file", "files.example.com")
        for place in (secrets / "one" / "ca.crt", self.folder / "by-file" / "ca.crt"):
            place.write_bytes(self.clients.root.public_bytes(Encoding.PEM))
        (secrets / "clients").mkdir()
        shutil.copy(secrets / "one" / "ca.crt", secrets / "clients" / "ca.crt")
        (self.folder / "by-file" / "ca.crl").write_bytes(self.clients.revoke(leaf(self.revoked)))

    @property
    def catalog(self) -> str:
        return f"""
role: gateway
mesh: {{mtls: strict, trustDomain: {DOMAIN}}}
nodes:
- {{name: edge, address: {self.address}}}
- {{name: plain, address: {self.plain}}}
- {{name: v1, address: {self.v1}}}
- {{name: v2, address: {self.v2}}}
services:
- name: web
  ports: [{{name: http, port: {self.http}}}]
  instances: [{{node: plain}}]
- name: greeter
  ports: [{{name: tcp, port: {self.greeter}}}]
  instances: [{{node: plain}}]
- name: reviews
  serviceAccount: reviews
  ports: [{{name: http, port: {self.first}}}]
  instances:
  - {{node: v1, labels: {{version: v1}}, proxied: true}}
  - {{node: v2, labels: {{version: v2}}, proxied: true, port: {self.second}}}
"""

    @property
    def rules(self) -> str:
        by_file = self.folder / "by-file"
        pin = base64.b64encode(hashlib.sha256(public_key(self.known)).digest()).decode()
        return f"""
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: edge}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
  - port: {{number: {self.tls}, name: several, protocol: HTTPS}}
    bind: {self.address}
    hosts: [one.example.com, two.example.com]
    tls: {{mode: SIMPLE, credentialNames: [one, two], cipherSuites: [ECDHE-ECDSA-AES256-GCM-SHA384]}}
  - port: {{number: {self.tls}, name: pinned, protocol: HTTPS}}
    bind: {self.address}
    hosts: [pinned.example.com]
    tls: {{mode: MUTUAL, credentialNames: [two], caCertCredentialName: clients, verifyCertificateSpki: [{pin}]}}
  - port: {{number: {self.tls}, name: hashed, protocol: HTTPS}}
    bind: {self.address}
    hosts: [hashed.example.com]
    tls:
      mode: MUTUAL
      credentialName: one
      maxProtocolVersion: TLSV1_2
      subjectAltNames: [known.example.com, revoked.example.com]
      verifyCertificateHash: ["{leaf(self.known).fingerprint(SHA256()).hex()}"]
  - port: {{number: {self.tls}, name: listed, protocol: HTTPS}}
    bind: {self.address}
    hosts: [files.example.com]
    tls: {{mode: SIMPLE, tlsCertificates: [{{serverCertificate: {by_file}/tls.crt, privateKey: {by_file}/tls.key}}]}}
  - port: {{number: {self.tls}, name: optional, protocol: HTTPS}}
    bind: {self.address}
    hosts: [optional.example.com]
    tls: {{mode: OPTIONAL_MUTUAL, credentialName: one}}
  - port: {{number: {self.mesh}, name: mesh, protocol: HTTPS}}
    bind: {self.address}
    hosts: ["*.example.com"]
    tls: {{mode: ISTIO_MUTUAL}}
  - port: {{number: {self.tcp}, name: tcp, protocol: TLS}}
    bind: {self.address}
    hosts: [one.example.com]
    tls: {{mode: SIMPLE, credentialName: one}}
  - port: {{number: {self.tcp}, name: mesh-tcp, protocol: TLS}}
    bind: {self.address}
    hosts: [mesh.example.com]
    tls: {{mode: ISTIO_MUTUAL}}
  - port: {{number: {self.files}, name: files, protocol: HTTPS}}
    bind: {self.address}
    hosts: ["*"]
    tls:
      mode: MUTUAL
      serverCertificate: {by_file}/tls.crt
      privateKey: {by_file}/tls.key
      caCertificates: {by_file}/ca.crt
      caCrl: {by_file}/ca.crl
  - port: {{number: {self.files}, name: absent, protocol: HTTPS}}
    bind: {self.address}
    hosts: [absent.example.com]
    tls: {{mode: SIMPLE, serverCertificate: {by_file}/absent.crt, privateKey: {by_file}/tls.key}}
  - port: {{number: {self.auto}, name: auto, protocol: TLS}}
    bind: {self.address}
    hosts: ["*.local"]
    tls: {{mode: AUTO_PASSTHROUGH}}
  - port: {{number: 0, name: unix, protocol: HTTP}}
    bind: unix://{self.socket}
    hosts: ["*"]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: web}}
spec:
  hosts: ["*"]
  gateways: [edge]
  http: [{{route: [{{destination: {{host: web, port: {{number: {self.http}}}}}}}]}}]
  tcp:
  - match: [{{port: {self.tcp}}}]
    route: [{{destination: {{host: greeter, port: {{number: {self.greeter}}}}}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: reviews}}
spec: {{host: reviews, subsets: [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]}}
"""


def leaf(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / "cert-chain.pem").read_bytes())


def public_key(folder: Path) -> bytes:
    return leaf(folder).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    edge = Edge(tmp_path_factory.mktemp("edge"))
    hosts = edge.catalog.replace("role: gateway\n", "")
    with ExitStack() as stack:
        stack.enter_context(http_application("web", edge.plain, edge.http))
        stack.enter_context(greeting_application("greeter", edge.plain, edge.greeter))
        for name, address, port in (("v1", edge.v1, edge.first), ("v2", edge.v2, edge.second)):
            stack.enter_context(http_application(name, "127.0.0.1", port))
            certs = str(edge.mesh_authority.write(edge.folder / name, REVIEWS_ID))
            listening = (address, port)
            stack.enter_context(
                rendered_envoy(edge.folder, name, hosts, "", listening, bind_inbound=address, certs=certs)
            )
        said = stack.enter_context(
            rendered_envoy(
                edge.folder, "edge", edge.catalog, edge.rules, (edge.address, edge.tls), certs=str(edge.certs)
            )
        )
        assert 'server "absent" is left out' in said
        assert said.count("Warning") == 1, said
        yield edge


def context(root: x509.Certificate | None, client: Path | None = None) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False  # what is asked for is a server name; SPIFFE IDs are no host names
    if root is None:
        made.verify_mode = ssl.CERT_NONE
    else:
        made.load_verify_locations(cadata=root.public_bytes(Encoding.PEM).decode())
    if client:
        made.load_cert_chain(client / "cert-chain.pem", client / "key.pem")
    return made


def connected(edge: Edge, port: int, name: str, tls: ssl.SSLContext) -> ssl.SSLSocket:
    """Return a connection that has asked for a server name; raises OSError."""
    raw = socket.create_connection((edge.address, port), timeout=10)
    try:
        return tls.wrap_socket(raw, server_hostname=name)
    except OSError:
        raw.close()
        raise


def ask(edge: Edge, port: int, name: str, tls: ssl.SSLContext) -> dict[str, object] | None:
    """Return what the application saw and who it is; None: the connection was refused."""
    with suppress(OSError), connected(edge, port, name, tls) as client:
        client.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
        response = http.client.HTTPResponse(client)
        response.begin()
        assert response.status == 200
        found: dict[str, object] = json.loads(response.read())
        return found
    return None


def greeting(edge: Edge, name: str, tls: ssl.SSLContext) -> str:
    with suppress(OSError), connected(edge, edge.tcp, name, tls) as client:
        return client.recv(100).decode().strip()
    return ""


def test_each_server_name_has_its_own_of_several_certificates(edge: Edge) -> None:
    for name in ("one.example.com", "two.example.com", "files.example.com"):
        tls = context(edge.authority.root)
        tls.check_hostname = True
        assert ask(edge, edge.tls, name, tls)
    assert ask(edge, edge.tls, "three.example.com", context(None)) is None


def test_only_the_ciphers_named(edge: Edge) -> None:
    for suite, served in (("ECDHE-ECDSA-AES256-GCM-SHA384", True), ("ECDHE-ECDSA-AES128-GCM-SHA256", False)):
        tls = context(edge.authority.root)
        tls.maximum_version = ssl.TLSVersion.TLSv1_2
        tls.set_ciphers(suite)
        assert bool(ask(edge, edge.tls, "one.example.com", tls)) is served


def test_a_pinned_key_and_authorities_of_a_secret_of_their_own(edge: Edge) -> None:
    assert ask(edge, edge.tls, "pinned.example.com", context(edge.authority.root, edge.known))
    assert ask(edge, edge.tls, "pinned.example.com", context(edge.authority.root, edge.revoked)) is None


def test_a_pinned_certificate_and_a_highest_version(edge: Edge) -> None:
    known = context(edge.authority.root, edge.known)
    assert ask(edge, edge.tls, "hashed.example.com", known)
    assert ask(edge, edge.tls, "hashed.example.com", context(edge.authority.root, edge.revoked)) is None
    known.minimum_version = ssl.TLSVersion.TLSv1_3
    assert ask(edge, edge.tls, "hashed.example.com", known) is None


def test_a_client_may_have_a_certificate_and_then_it_counts(edge: Edge) -> None:
    anybody = ask(edge, edge.tls, "optional.example.com", context(edge.authority.root))
    assert anybody
    assert "known.example.com" not in str(anybody["headers"])
    known = ask(edge, edge.tls, "optional.example.com", context(edge.authority.root, edge.known))
    assert known
    assert "DNS=known.example.com" in str(known["headers"])
    stranger = TestAuthority().write_for_host(edge.folder / "optional", "known.example.com")
    assert ask(edge, edge.tls, "optional.example.com", context(edge.authority.root, stranger)) is None


def test_certificates_by_file_and_revoked_clients(edge: Edge) -> None:
    seen = ask(edge, edge.files, "files.example.com", context(edge.authority.root, edge.known))
    assert seen
    assert "DNS=known.example.com" in str(seen["headers"])
    assert ask(edge, edge.files, "files.example.com", context(edge.authority.root, edge.revoked)) is None
    assert ask(edge, edge.files, "files.example.com", context(edge.authority.root)) is None
    stranger = TestAuthority().write_for_host(edge.folder / "stranger", "known.example.com")
    assert ask(edge, edge.files, "files.example.com", context(edge.authority.root, stranger)) is None


def test_the_mesh_s_own_certificate_for_callers_of_the_mesh(edge: Edge) -> None:
    caller = edge.mesh_authority.write(edge.folder / "caller", CALLER_ID)
    seen = ask(edge, edge.mesh, "shop.example.com", context(edge.mesh_authority.root, caller))
    assert seen
    assert f"URI={CALLER_ID}" in str(seen["headers"])
    assert ask(edge, edge.mesh, "shop.example.com", context(edge.mesh_authority.root)) is None
    other = edge.mesh_authority.write(edge.folder / "other", "spiffe://other.test/ns/default/sa/caller")
    assert ask(edge, edge.mesh, "shop.example.com", context(edge.mesh_authority.root, other)) is None


def test_tcp_inside_tls_that_ends_here(edge: Edge) -> None:
    assert greeting(edge, "one.example.com", context(edge.authority.root)) == "greeter"
    caller = edge.mesh_authority.write(edge.folder / "tcp-caller", CALLER_ID)
    assert greeting(edge, "mesh.example.com", context(edge.mesh_authority.root, caller)) == "greeter"
    assert greeting(edge, "mesh.example.com", context(edge.mesh_authority.root)) == ""
    assert greeting(edge, "two.example.com", context(None)) == ""


def test_a_unix_socket(edge: Edge) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(edge.socket))
        client.sendall(b"GET /x HTTP/1.1\r\nHost: any.example.com\r\nConnection: close\r\n\r\n")
        response = http.client.HTTPResponse(client)
        response.begin()
        assert json.loads(response.read())["name"] == "web"


@pytest.mark.parametrize("host", ["reviews.default.svc.cluster.local", "reviews.service.consul"])
def test_server_names_of_the_mesh_lead_to_port_and_subset_from_end_to_end(edge: Edge, host: str) -> None:
    caller = edge.mesh_authority.write(edge.folder / f"auto-{host}", CALLER_ID)
    tls = context(edge.mesh_authority.root, caller)
    for subset in ("v1", "v2"):
        names = {
            str((ask(edge, edge.auto, f"outbound_.{edge.first}_.{subset}_.{host}", tls) or {})["name"]) for _ in "1234"
        }
        assert names == {subset}
    both = {str((ask(edge, edge.auto, f"outbound_.{edge.first}_._.{host}", tls) or {})["name"]) for _ in range(30)}
    assert both == {"v1", "v2"}
    # The certificate is the service's own: the gateway has looked at nothing but the name.
    with connected(edge, edge.auto, f"outbound_.{edge.first}_.v1_.{host}", tls) as client:
        assert (client.getpeercert() or {})["subjectAltName"] == (("URI", REVIEWS_ID),)
    assert ask(edge, edge.auto, f"outbound_.{edge.first}_.v3_.{host}", tls) is None
    assert ask(edge, edge.auto, f"outbound_.{edge.first}_.v1_.{host}", context(None)) is None
