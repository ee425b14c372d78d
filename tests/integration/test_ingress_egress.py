"""The edges of the mesh in one lab: the documents' ingress task with Ingress objects of both generations, a RouteRule
on top; and Istio's egress gateway tasks, plain, by the mesh's mutual TLS, with TLS passed on, and originated there.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from urllib.parse import quote

import msgspec
import pytest

from agent.lab.hostfiles import AGENT_UID
from agent.lab.lab import Lab
from agent.lab.plan import CHECKOUT, CONSUL_HOST, App, HostPlan, bookinfo_app, python_app
from tests.integration.egress_rules import MUTUAL, PASSED, PLAIN
from tests.integration.meshlab import bookinfo, envoy_admin, hostmesh, node_status
from tests.integration.outside import OUTSIDE, SUBNET, call, rules, start_outside, wait_for_call
from tests.mesh_certificates import TestAuthority
from tests.waiting import wait_for

HTTPBIN = App(
    "httpbin",
    python_app(CHECKOUT / "vagrant" / "httpbin" / "httpbin.py", 8000),
    port=8000,
    service_account="httpbin",
    environment={"PYTHONPATH": str(CHECKOUT / "vagrant" / "bookinfo")},
)
EXIT = "istio-egressgateway"


def exit_port(port: int, protocol: str) -> App:
    """Return a port of the egress gateway, as services.d on its host says that it is a service."""
    account, namespace = "egress", "istio-system"
    return App(EXIT, (), port, protocol, namespace, service_account=account, health_path="")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    dns = {"dns": {"upstreams": [OUTSIDE]}}
    leaving = {**dns, "role": "gateway", "labels": {"istio": "egressgateway"}}
    hosts = (
        CONSUL_HOST,
        HostPlan("client", (bookinfo_app("details", "v1", {}),), settings=dns),
        HostPlan("exit", (exit_port(80, "http"), exit_port(443, "tls")), settings=leaving),
        HostPlan("outside", agent=False, consul=False),
        HostPlan("edge", settings={"role": "gateway"}),
        HostPlan("httpbin", (HTTPBIN,)),
    )
    certificates = tmp_path_factory.mktemp("certificates")
    with Lab(msgspec.structs.replace(bookinfo(SUBNET), hosts=hosts, page_host="")) as lab:
        hostmesh(lab, "mesh", "set", "mtls=strict")
        start_outside(lab["outside"], certificates)
        root = (certificates / "outside.example" / "root-cert.pem").read_bytes()
        for host in ("client", "exit"):
            lab[host].path("etc/outside-root.pem").write_bytes(root)
        yield lab


def ask(lab: Lab, url: str, *arguments: str) -> tuple[int, str]:
    """Return status and body as a client outside the mesh gets them from the ingress; status 0: no answer."""
    host = url.split("/")[2]
    number = "443" if url.startswith("https") else "80"
    place = ("--resolve", f"{host}:{number}:{lab['edge'].address}")
    argv = ["curl", "-s", "--max-time", "8", *place, "--write-out", "\n%{http_code}", *arguments, url]
    body, _, status = lab["consul"].exec(*argv, check=False).stdout.rpartition("\n")
    return int(status), body


OLD = """
apiVersion: extensions/v1beta1
kind: Ingress
metadata:
  name: simple-ingress
  annotations:
    kubernetes.io/ingress.class: istio
spec:
  rules:
  - http:
      paths:
      - path: /status/.*
        backend:
          serviceName: httpbin
          servicePort: 8000
      - path: /delay/.*
        backend:
          serviceName: httpbin
          servicePort: 8000
"""
NEW = """
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: simple-ingress}
spec:
  ingressClassName: istio
  rules:
  - http:
      paths:
      - {path: /status, pathType: Prefix, backend: {service: {name: httpbin, port: {name: http}}}}
      - {path: /delay/, pathType: Prefix, backend: {service: {name: httpbin, port: {number: 8000}}}}
"""
OLDEST = """
apiVersion: config.istio.io/v1alpha2
kind: IngressRule
metadata: {name: status}
spec: {destination: {name: httpbin}, destinationPort: 8000, match: {request: {headers: {uri: {prefix: /status/}}}}}
---
apiVersion: config.istio.io/v1alpha2
kind: IngressRule
metadata: {name: delay}
spec: {destination: {name: httpbin}, destinationPort: 8000, match: {request: {headers: {uri: {prefix: /delay/}}}}}
"""
TIMEOUT = """
apiVersion: config.istio.io/v1alpha2
kind: RouteRule
metadata:
  name: status-route
spec:
  destination:
    name: httpbin
  match:
    source:
      name: istio-ingress
      labels:
        istio: ingress
    request:
      headers:
        uri:
          prefix: /delay/
  route:
  - weight: 100
  httpReqTimeout:
    simpleTimeout:
      timeout: 1s
"""
SECURE = OLD.replace("simple-ingress", "secure-ingress").replace(
    "spec:\n", "spec:\n  tls:\n    - secretName: istio-ingress-certs # currently ignored\n"
)


@pytest.mark.parametrize("text", [OLD, NEW, OLDEST], ids=["extensions", "networking.k8s.io", "IngressRule"])
def test_the_ingress_task_with_a_route_rule_on_top(lab: Lab, text: str) -> None:
    with rules(lab, text):
        wait_for(lambda: ask(lab, "http://any.example.com/status/200")[0] == 200, "the ingress serves")
        assert ask(lab, "http://any.example.com/status/418")[0] == 418
        assert ask(lab, "http://any.example.com/headers")[0] == 404
        assert ask(lab, "http://any.example.com/delay/1")[0] == 200
        with rules(lab, TIMEOUT):
            wait_for(lambda: ask(lab, "http://any.example.com/delay/2")[0] == 504, "the rule holds at the ingress")
            began = time.monotonic()
            assert ask(lab, "http://any.example.com/delay/6")[0] == 504
            assert time.monotonic() - began < 4.0
            assert ask(lab, "http://any.example.com/status/200")[0] == 200
    wait_for(lambda: ask(lab, "http://any.example.com/status/200")[0] == 0, "nothing listens any more")


def test_a_secure_ingress(lab: Lab, tmp_path: Path) -> None:
    with rules(lab, SECURE):
        name = "foo.bar.com"
        wait_for(lambda: ask(lab, f"http://{name}/status/200")[0] == 200, "the ingress serves")
        wait_for(lambda: faults(lab, "edge", "Ingress/"), "the secret is missed")
        files = TestAuthority().write_secret(tmp_path / "certs", name)
        folder = lab["edge"].path("etc/secrets")
        given = ["--cert", str(files / "tls.crt"), "--key", str(files / "tls.key")]
        hostmesh(lab, "secret", "install", "istio-ingress-certs", "--secrets-dir", str(folder), *given)
        for path in (folder, *folder.rglob("*")):
            os.chown(path, AGENT_UID, AGENT_UID)
        trust = ("--cacert", str(files / "ca.crt"))
        wait_for(lambda: ask(lab, f"https://{name}/status/200", *trust)[0] == 200, "HTTPS with the secret")
        assert ask(lab, f"https://{name}/headers", *trust)[0] == 404
        wait_for(lambda: not faults(lab, "edge", "Ingress/"), "nothing is missed")


HOSTS = """
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: hosts}
spec:
  defaultBackend: {service: {name: httpbin, port: {number: 8000}}}
  rules:
  - host: a.example.com
    http: {paths: [{path: /details/0, pathType: Exact, backend: {service: {name: details, port: {number: 9080}}}}]}
  - host: "*.b.example.com"
    http: {paths: [{path: /details, pathType: Prefix, backend: {service: {name: details, port: {name: http}}}}]}
---
apiVersion: config.istio.io/v1alpha2
kind: IngressRule
metadata: {name: books}
spec:
  destination: {name: details}
  precedence: 1
  match: {request: {headers: {authority: {exact: books.example.com}, uri: {prefix: /}}}}
---
apiVersion: config.istio.io/v1alpha2
kind: IngressRule
metadata: {name: books-status}
spec:
  destination: {name: httpbin}
  destinationPortName: http
  precedence: 5
  match: {request: {headers: {authority: {exact: books.example.com}, uri: {prefix: /status/}}}}
"""


def test_hosts_exact_paths_a_default_and_precedence(lab: Lab) -> None:
    with rules(lab, HOSTS):
        wait_for(lambda: ask(lab, "http://a.example.com/details/0")[0] == 200, "the ingress serves")
        assert json.loads(ask(lab, "http://a.example.com/details/0")[1])["id"] == 0
        assert ask(lab, "http://a.example.com/details/1")[0] == 404, "httpbin has no such path"
        assert ask(lab, "http://x.b.example.com/details/1")[0] == 200
        for host in ("a.example.com", "x.b.example.com", "other.example.com"):
            assert "headers" in json.loads(ask(lab, f"http://{host}/headers")[1])
        assert ask(lab, "http://books.example.com/details/7")[0] == 200
        assert ask(lab, "http://books.example.com/status/418")[0] == 418


def faults(lab: Lab, host: str, subject: str) -> list[str]:
    return [fault.reason for fault in node_status(lab[host]).faults if fault.subject.startswith(subject)]


def test_certificates_by_file_are_served_as_soon_as_they_are_there_and_anew(lab: Lab, tmp_path: Path) -> None:
    name, folder = "files.example.com", lab["edge"].path("etc/by-file")
    folder.mkdir()
    gateway = f"""
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: by-file}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
  - port: {{number: 443, name: https, protocol: HTTPS}}
    hosts: [{name}]
    tls: {{mode: SIMPLE, serverCertificate: {folder}/tls.crt, privateKey: {folder}/tls.key}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: by-file}}
spec:
  hosts: [{name}]
  gateways: [by-file]
  http: [{{route: [{{destination: {{host: httpbin, port: {{number: 8000}}}}}}]}}]
"""
    with rules(lab, gateway):
        wait_for(lambda: faults(lab, "edge", "Gateway/by-file"), "the files are missed")
        wait_for(lambda: "HM0108" in hostmesh(lab, "analyze", check=False), "analyze hears of it")
        for certificates in ("first", "second"):
            files = TestAuthority().write_secret(tmp_path / certificates, name)
            for file in ("tls.key", "tls.crt"):
                (folder / file).write_bytes((files / file).read_bytes())
                os.chown(folder / file, AGENT_UID, AGENT_UID)
            wait_for(partial(is_served, lab, f"https://{name}/status/200", files / "ca.crt"), certificates)


def is_served(lab: Lab, url: str, authority: Path) -> bool:
    return ask(lab, url, "--cacert", str(authority))[0] == 200


def requests_through(lab: Lab, cluster: str, counted: str) -> int:
    """Return how much the egress gateway's Envoy has sent to a cluster."""
    pattern = re.escape(f"cluster.{cluster.replace('.', '_')}.{counted}")
    text = envoy_admin(lab["exit"], f"/stats?filter={quote(f'^{pattern}$')}")
    return sum(int(line.rpartition(": ")[2]) for line in text.splitlines())


@pytest.mark.parametrize("text", [PLAIN, MUTUAL], ids=["plain", "ISTIO_MUTUAL"])
def test_http_leaves_the_mesh_by_the_egress_gateway(lab: Lab, text: str) -> None:
    counted = ("outbound|80||outside.example", "upstream_rq_completed")
    with rules(lab, text):
        seen = wait_for_call(lab["client"], "http://outside.example/headers", "200")
        assert seen == {"host": "outside.example", "path": "/headers", "sni": None}
        wait_for(lambda: through(lab, counted, "http://outside.example/x"), "it goes through the gateway")
        assert call(lab["exit"], "http://127.0.0.1/", "-H", "Host: other.example")[0] in ("404", "000")


def through(lab: Lab, counted: tuple[str, str], url: str, *options: str) -> bool:
    """Tell whether an answered request went through the egress gateway."""
    before = requests_through(lab, *counted)
    status, _ = call(lab["client"], url, *options)
    return status == "200" and requests_through(lab, *counted) > before


def test_only_callers_of_the_mesh_come_in_where_the_gateway_wants_mutual_tls(lab: Lab) -> None:
    with rules(lab, MUTUAL):
        wait_for_call(lab["client"], "http://outside.example/", "200")
        plain = lab["consul"].exec(
            "curl", "-s", "-m", "5", "-H", "Host: outside.example", f"http://{lab['exit'].address}/", check=False
        )
        assert plain.returncode != 0
        identity = "spiffe://cluster.local/ns/istio-system/sa/egress"
        assert identity in {held.identity for held in node_status(lab["exit"]).certificates}


def test_tls_leaves_the_mesh_by_the_egress_gateway_unopened(lab: Lab) -> None:
    counted = ("outbound|443||outside.example", "upstream_cx_total")
    trust = ("--cacert", str(lab["client"].path("etc/outside-root.pem")))
    with rules(lab, PASSED):
        seen = wait_for_call(lab["client"], "https://outside.example/headers", "200", *trust)
        assert seen["sni"] == "outside.example"
        wait_for(lambda: through(lab, counted, "https://outside.example/x", *trust), "it goes through the gateway")


def test_the_egress_gateway_makes_it_tls(lab: Lab) -> None:
    root = lab["exit"].path("etc/outside-root.pem")
    origination = MUTUAL.replace(
        "host: outside.example, port: {number: 80}", "host: outside.example, port: {number: 443}"
    ).replace("name: tls, protocol: TLS", "name: http-tls, protocol: HTTP")
    rule = f"""---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: originate-tls-for-outside}}
spec:
  host: outside.example
  trafficPolicy:
    portLevelSettings:
    - {{port: {{number: 443}}, tls: {{mode: SIMPLE, sni: outside.example, caCertificates: {root}}}}}
"""
    with rules(lab, origination + rule):
        wait_for(lambda: sni_seen(lab) == "outside.example", "TLS from the gateway on")


def sni_seen(lab: Lab) -> str:
    status, body = call(lab["client"], "http://outside.example/headers")
    answer: Mapping[str, str] = body if status == "200" else {}
    return answer.get("sni") or json.dumps(body)
