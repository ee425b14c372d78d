"""An ingress gateway on real traffic: clients outside the mesh, a gateway host, services that demand mutual TLS."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from agent.lab.hostfiles import AGENT_UID
from agent.lab.lab import Lab
from agent.lab.plan import CONSUL_HOST, App, HostPlan, bookinfo_app
from tests.integration.meshlab import bookinfo, hostmesh, node_status, wait_settled
from tests.mesh_certificates import TestAuthority
from tests.waiting import wait_for

SUBNET = "10.79.41.0/24"
SHOP, BOOKS = "shop.example.com", "books.example.com"
OWN_TLS = "own.example.com"
"""Its server ends TLS itself."""
SECURE = App("secure", (), port=8443, protocol="tls", service_account="bookinfo-reviews", health_path="")

HTTP = """
apiVersion: networking.istio.io/v1alpha3
kind: Gateway
metadata: {name: plain}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 80, name: http, protocol: HTTP}
    hosts: ["*"]
---
apiVersion: networking.istio.io/v1alpha3
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata: {name: shop}
spec:
  hosts: ["*"]
  gateways: [plain]
  http:
  - match: [{uri: {prefix: /reviews/}, headers: {end-user: {exact: jason}}}]
    route: [{destination: {host: reviews, subset: v2}}]
  - match: [{uri: {prefix: /reviews/}}]
    route: [{destination: {host: reviews, subset: v1, port: {number: 9080}}}]
"""
HTTPS = f"""
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: secure}}
spec:
  selector: {{istio: ingress}}
  servers:
  - port: {{number: 443, name: shop, protocol: HTTPS}}
    hosts: [{SHOP}]
    tls: {{mode: SIMPLE, credentialName: shop, minProtocolVersion: TLSV1_3}}
  - port: {{number: 443, name: books, protocol: HTTPS}}
    hosts: [{BOOKS}]
    tls: {{mode: MUTUAL, credentialName: books}}
  - port: {{number: 80, name: redirect, protocol: HTTP}}
    hosts: [{SHOP}]
    tls: {{httpsRedirect: true}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: secure}}
spec:
  hosts: [{SHOP}, {BOOKS}]
  gateways: [secure]
  http:
  - match: [{{uri: {{exact: /reviews/0}}}}]
    route: [{{destination: {{host: reviews}}}}]
"""
PASSED = f"""
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: passing}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
  - port: {{number: 443, name: tls, protocol: TLS}}
    hosts: [{OWN_TLS}]
    tls: {{mode: PASSTHROUGH}}
  - port: {{number: 9000, name: tcp, protocol: TCP}}
    hosts: ["*"]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: passing}}
spec:
  hosts: [{OWN_TLS}]
  gateways: [passing]
  tls:
  - match: [{{port: 443, sniHosts: [{OWN_TLS}]}}]
    route: [{{destination: {{host: secure, port: {{number: 8443}}}}}}]
  tcp:
  - match: [{{port: 9000}}]
    route: [{{destination: {{host: reviews, port: {{number: 9080}}}}}}]
"""


@pytest.fixture(scope="module")
def authority() -> TestAuthority:
    return TestAuthority()


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    hosts = (
        CONSUL_HOST,
        HostPlan("edge", settings={"role": "gateway"}),
        HostPlan("reviews-v1", (bookinfo_app("reviews", "v1", {}), SECURE)),
        HostPlan("reviews-v2", (bookinfo_app("reviews", "v2", {}),)),
    )
    with Lab(msgspec.structs.replace(bookinfo(SUBNET), hosts=hosts, page_host="")) as lab:
        hostmesh(lab, "mesh", "set", "mtls=strict")
        yield lab


def apply(lab: Lab, text: str) -> None:
    printed = hostmesh(lab, "apply", stdin=text)
    wait_settled(lab, max(int(line.rsplit(" ", 1)[1]) for line in printed.splitlines() if "revision" in line))


def ask(lab: Lab, url: str, *arguments: str) -> tuple[int, str]:
    """Return status and body as a client outside the mesh gets them; status 0: there was no answer."""
    host, port = url.split("/")[2].partition(":")[::2]
    number = port or ("443" if url.startswith("https") else "80")
    place = ("--resolve", f"{host}:{number}:{lab['edge'].address}")
    written = ("--write-out", "\n%{http_code} %{redirect_url}")
    done = lab["consul"].exec("curl", "-s", "--max-time", "5", *place, *written, *arguments, url, check=False)
    body, _, last = done.stdout.rpartition("\n")
    status, _, redirect = last.partition(" ")
    return int(status), redirect or body


def installed(lab: Lab, authority: TestAuthority, name: str, host: str, tmp: Path, *, ca: bool) -> None:
    files = authority.write_secret(tmp / name, host)
    folder = lab["edge"].path("etc/secrets")
    with_ca = ["--ca", str(files / "ca.crt")] if ca else []
    where = ["--secrets-dir", str(folder), "--cert", str(files / "tls.crt"), "--key", str(files / "tls.key")]
    hostmesh(lab, "secret", "install", name, *where, *with_ca)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, AGENT_UID, AGENT_UID)


def test_http_is_routed_by_path_and_headers_and_the_rest_is_404(lab: Lab) -> None:
    assert ask(lab, "http://anything.example.org/reviews/0")[0] == 0, "nothing listens before a Gateway says so"
    apply(lab, HTTP)
    url = "http://anything.example.org/reviews/0"
    wait_for(lambda: ask(lab, url)[0] == 200, "v1 is in the catalog")
    wait_for(lambda: ask(lab, url, "-H", "end-user: jason")[0] == 200, "v2 is in the catalog")
    status, body = ask(lab, "http://anything.example.org/reviews/0")
    assert (status, json.loads(body)["podname"]) == (200, "reviews-v1")
    status, body = ask(lab, "http://anything.example.org/reviews/0", "-H", "end-user: jason")
    assert (status, json.loads(body)["podname"]) == (200, "reviews-v2")
    assert ask(lab, "http://anything.example.org/unknown")[0] == 404


def test_the_service_is_reached_by_mutual_tls_with_the_gateways_own_identity(lab: Lab) -> None:
    status = node_status(lab["edge"])
    assert [one.identity for one in status.certificates] == [
        "spiffe://cluster.local/ns/default/sa/istio-ingressgateway"
    ]
    # Strict: plain text, which the same client could send, gets nowhere.
    direct = lab["consul"].exec(
        "curl", "-s", "-m", "5", f"http://{lab['reviews-v1'].address}:9080/reviews/0", check=False
    )
    assert direct.returncode != 0
    assert ask(lab, "http://anything.example.org/reviews/0")[0] == 200


def test_https_by_server_name_mutual_tls_and_the_redirect(lab: Lab, authority: TestAuthority, tmp_path: Path) -> None:
    apply(lab, HTTPS)
    faults = {fault.subject: fault.reason for fault in node_status(lab["edge"]).faults}
    assert "hostmesh secret install" in faults["Gateway/secure.default"]
    installed(lab, authority, "shop", SHOP, tmp_path, ca=False)
    installed(lab, authority, "books", BOOKS, tmp_path, ca=True)
    root = str(tmp_path / "shop" / "ca.crt")
    wait_for(lambda: ask(lab, f"https://{SHOP}/reviews/0", "--cacert", root)[0] == 200, "HTTPS of the shop")
    wait_for(
        lambda: not [fault for fault in node_status(lab["edge"]).faults if fault.subject.startswith("Gateway")],
        "both secrets are known",
    )

    assert ask(lab, f"https://{SHOP}/else", "--cacert", root)[0] == 404
    assert ask(lab, f"https://{SHOP}/reviews/0", "--cacert", root, "--tls-max", "1.2")[0] == 0

    client = authority.write_for_host(tmp_path / "client", "client.example.com")
    bearing = ["--cert", str(client / "cert-chain.pem"), "--key", str(client / "key.pem")]
    assert ask(lab, f"https://{BOOKS}/reviews/0", "--cacert", root)[0] == 0
    wait_for(lambda: ask(lab, f"https://{BOOKS}/reviews/0", "--cacert", root, *bearing)[0] == 200, "MUTUAL")
    stranger = TestAuthority().write_for_host(tmp_path / "stranger", "client.example.com")
    strange = ["--cert", str(stranger / "cert-chain.pem"), "--key", str(stranger / "key.pem")]
    assert ask(lab, f"https://{BOOKS}/reviews/0", "--cacert", root, *strange)[0] == 0

    # Two Gateways share port 80: a host of its own is sent to HTTPS, the others are served as before.
    assert ask(lab, f"http://{SHOP}/reviews/0?a=b") == (301, f"https://{SHOP}/reviews/0?a=b")
    assert ask(lab, f"http://{BOOKS}/reviews/0")[0] == 200


def test_tls_is_passed_on_by_server_name_and_tcp_by_port(lab: Lab, authority: TestAuthority, tmp_path: Path) -> None:
    files = authority.write_secret(tmp_path / "own", OWN_TLS)
    pair = ["-cert", str(files / "tls.crt"), "-key", str(files / "tls.key")]
    lab["reviews-v1"].start("secure", ["openssl", "s_server", "-quiet", "-accept", "8443", "-www", *pair], uid=0)
    apply(lab, PASSED)
    root = str(files / "ca.crt")
    wait_for(lambda: ask(lab, f"https://{OWN_TLS}/", "--cacert", root)[0] == 200, "the application's own TLS")
    assert "s_server" in ask(lab, f"https://{OWN_TLS}/", "--cacert", root)[1]
    assert ask(lab, "https://unknown.example.com/", "--insecure")[0] == 0, "a server name that no server has"
    assert ask(lab, f"http://{BOOKS}:9000/reviews/0")[0] == 200


def test_a_renewed_certificate_is_served_without_a_restart(lab: Lab, tmp_path: Path) -> None:
    newer = TestAuthority()
    installed(lab, newer, "shop", SHOP, tmp_path, ca=False)
    root = str(tmp_path / "shop" / "ca.crt")
    wait_for(lambda: ask(lab, f"https://{SHOP}/reviews/0", "--cacert", root)[0] == 200, "the newer certificate")


def test_a_gateway_that_is_deleted_listens_no_more(lab: Lab) -> None:
    hostmesh(lab, "delete", "gateway", "plain")
    wait_for(lambda: ask(lab, f"http://{BOOKS}/reviews/0")[0] == 404, "only the other Gateway's hosts are known")
    hostmesh(lab, "delete", "gateway", "secure")
    wait_for(lambda: ask(lab, f"http://{BOOKS}/reviews/0")[0] == 0, "port 80 is closed")
