"""Gateways: which hosts select them, which hosts and routes are bound to what, and what a port cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agent.api.analysis.analyze import analyze
from agent.api.document import read_documents
from agent.api.enforce import enforceable
from agent.api.lowering.lower import lower
from agent.api.validate import validate
from agent.config import load_config
from agent.mesh.gateway import (
    INGRESS_LABELS,
    BoundRoutes,
    Gateway,
    GatewayServer,
    ServerKind,
    ServerTls,
    common_host,
)
from agent.mesh.routes import ObjectRef
from agent.mesh.service import ServiceKey, labels_of
from agent.translate.facts import HeldCredential
from agent.translate.open_ports import HostCertificates, OpenPort, OpenServer, ServerIndex, hosts_for, open_ports
from tests.unit.api_samples import mutated, one

REVIEWS = ServiceKey("default", "reviews")
HELD = HostCertificates({"held": HeldCredential("held")})
EDGE = ObjectRef("Gateway", "default", "edge")
VS = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: x}
spec:
"""
GATEWAY = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  servers:
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}
"""
FULL = """
  - port: {number: 443, name: a, protocol: HTTPS}
    hosts: ["*/a.example.com", ./b.example.com]
    bind: 10.0.0.1
    tls:
      mode: MUTUAL
      credentialNames: [a, b]
      caCertCredentialName: c
      subjectAltNames: [x]
      cipherSuites: [AES128-SHA]
  - port: {number: 443, name: b, protocol: TLS}
    hosts: ["*"]
    tls: {mode: SIMPLE, serverCertificate: /a, privateKey: /b, minProtocolVersion: TLSV1_1}
  - port: {number: 443, name: c, protocol: TLS}
    hosts: ["*"]
    tls:
      mode: OPTIONAL_MUTUAL
      tlsCertificates: [{serverCertificate: /a, privateKey: /b}]
      caCertificates: /c
      caCrl: /d
  - {port: {number: 443, name: d, protocol: TLS}, hosts: ["*.local"], tls: {mode: AUTO_PASSTHROUGH}}
  - {port: {number: 0, name: e, protocol: HTTP}, hosts: ["*"], bind: "unix:///x", tls: {httpsRedirect: true}}
  - {port: {number: 443, name: f, protocol: HTTPS}, hosts: ["*"], tls: {mode: ISTIO_MUTUAL}}
"""
ROUTE = "route: [{destination: {host: reviews}}]"


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        ({}, True),
        ({"istio": "ingress"}, True),
        ({"istio": "ingressgateway"}, True),
        ({"istio": "egressgateway"}, False),
        ({"istio": "ingress", "zone": "a"}, False),
    ],
)
def test_selectors_of_a_gateway_with_the_default_labels(selector: dict[str, str], selected: bool) -> None:
    assert Gateway(EDGE, labels_of(selector), ()).selects(INGRESS_LABELS) is selected


def test_other_labels_answer_their_own_selectors_only() -> None:
    labels = labels_of({"app": "edge"})
    assert Gateway(EDGE, labels, ()).selects(labels)
    assert not Gateway(EDGE, labels_of({"istio": "ingress"}), ()).selects(labels)


@pytest.mark.parametrize(
    ("one_host", "other", "both"),
    [
        ("*", "a.example.com", "a.example.com"),
        ("*.example.com", "a.example.com", "a.example.com"),
        ("*.example.com", "*.a.example.com", "*.a.example.com"),
        ("*.example.com", "example.com", None),
        ("A.example.com", "a.example.com", "a.example.com"),
        ("*", "*", "*"),
        ("a.example.com", "b.example.com", None),
    ],
)
def test_hosts_in_common(one_host: str, other: str, both: str | None) -> None:
    assert common_host(one_host, other) == common_host(other, one_host) == both


def test_routes_are_for_the_mesh_unless_they_name_gateways() -> None:
    inside = one(f"{VS}  hosts: [reviews]\n  http: [{{{ROUTE}}}]\n")
    outside = one(f'{VS}  hosts: ["*"]\n  gateways: [edge]\n  http: [{{{ROUTE}}}]\n')
    assert list(lower([inside], [REVIEWS]).policies) == [REVIEWS]
    assert lower([inside], [REVIEWS]).ingress.bound == ()
    lowered = lower([outside], [REVIEWS])
    assert (lowered.policies, lowered.faults) == ({}, ())
    assert [(bound.gateway, bound.hosts) for bound in lowered.ingress.bound] == [(EDGE, ("*",))]


def test_matches_hold_through_their_gateways_alone() -> None:
    http = (
        f"[{{name: a, match: [{{uri: {{prefix: /a}}, gateways: [edge]}}], {ROUTE}}},"
        f" {{name: b, match: [{{uri: {{prefix: /b}}, gateways: [mesh]}}], {ROUTE}}}, {{name: c, {ROUTE}}}]"
    )
    lowered = lower(
        [one(f"{VS}  hosts: [reviews, a.example.com]\n  gateways: [mesh, default/edge]\n  http: {http}\n")], [REVIEWS]
    )
    assert [route.name for route in lowered.policies[REVIEWS].routes] == ["b", "c"]
    assert [route.name for route in lowered.ingress.bound[0].routes] == ["a", "c"]
    assert lowered.faults == (), "a host that only clients of the gateway know is no fault"


def test_tls_and_tcp_routes_are_for_gateways() -> None:
    matches = "[{sniHosts: [a.example.com], port: 443}, {sniHosts: [b.example.com], gateways: [x]}]"
    tls = f"[{{match: {matches}, {ROUTE}}}]"
    rest = f"  tls: {tls}\n  tcp: [{{{ROUTE}}}]\n"
    document = one(f'{VS}  hosts: ["*.example.com"]\n  gateways: [edge]\n{rest}')
    assert validate(document) == []
    (bound,) = lower([document], [REVIEWS]).ingress.bound
    assert [match.connection.server_names for route in bound.tls for match in route.matches] == [("a.example.com",)]
    assert [route.matches for route in bound.tcp] == [()]
    missing = lower([document], [])
    assert missing.ingress.bound == ()
    assert any("service reviews is not in the catalog" in fault.reason for fault in missing.faults)


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ("{port: {number: 1, name: x, protocol: UDP}, hosts: ['*']}", "UDP: known, but not supported yet"),
        ("{port: {number: 1, name: x, protocol: HTTP}, hosts: ['*'], defaultEndpoint: 127.0.0.1:80}", "is ignored by"),
        (
            "{port: {number: 1, name: x, protocol: TLS}, hosts: ['*'], tls: {mode: PASSTHROUGH, credentialName: x}}",
            "means nothing with PASSTHROUGH",
        ),
        (
            "{port: {number: 1, name: x, protocol: TLS}, hosts: ['*'],"
            " tls: {mode: SIMPLE, credentialName: x, subjectAltNames: [a]}}",
            "means nothing with SIMPLE",
        ),
        (
            "{port: {number: 1, name: x, protocol: HTTP}, hosts: ['*'],"
            " tls: {httpsRedirect: true, minProtocolVersion: TLSV1_3}}",
            "means nothing on a server that speaks plain text",
        ),
        (
            "{port: {number: 1, name: x, protocol: HTTPS}, hosts: ['*'],"
            " tls: {mode: ISTIO_MUTUAL, caCertCredentialName: x}}",
            "means nothing with ISTIO_MUTUAL",
        ),
        (
            "{port: {number: 1, name: x, protocol: TLS}, hosts: ['*'],"
            " tls: {mode: OPTIONAL_MUTUAL, credentialName: x, subjectAltNames: [a]}}",
            "would refuse clients without a certificate",
        ),
        (
            "{port: {number: 1, name: x, protocol: TLS}, hosts: ['*'],"
            " tls: {mode: SIMPLE, serverCertificate: crt.pem, privateKey: /key.pem}}",
            "is not the whole path of a file",
        ),
        (
            "{port: {number: 1, name: x, protocol: TLS}, hosts: ['*'],"
            " tls: {mode: SIMPLE, credentialName: x, cipherSuites: [RC4]}}",
            '"RC4" is no cipher suite',
        ),
        (
            "{port: {number: 1, name: x, protocol: TLS}, hosts: ['*'],"
            " tls: {mode: MUTUAL, credentialName: x, verifyCertificateSpki: [abc]}}",
            "is not the SHA-256 of a public key",
        ),
        (
            "{port: {number: 1, name: x, protocol: HTTPS}, hosts: ['*'], tls: {mode: SIMPLE, credentialName: ../x}}",
            "is not the name of a folder",
        ),
    ],
)
def test_a_server_that_cannot_be_had_goes_whole_and_the_others_stay(server: str, said: str) -> None:
    document = one(f"{GATEWAY}  - {server}\n")
    assert any(said in line for line in validate(document))
    kept = enforceable(document).document
    assert kept is not None
    assert [server["port"]["name"] for server in kept.spec["servers"]] == ["http"]


@pytest.mark.parametrize(
    ("low", "high", "contradict"),
    [("", "", False), ("TLSV1_3", "TLSV1_2", True), ("", "TLSV1_1", True), ("TLSV1_0", "TLSV1_1", False)],
)
def test_tls_versions(low: str, high: str, contradict: bool) -> None:
    tls = ServerTls(("held",), min_version=low, max_version=high)
    assert tls.versions_contradict is contradict
    one_server = GatewayServer("a", 443, (("*", "*"),), kind=ServerKind.HTTPS, tls=tls)
    ports, faults = open_ports([Gateway(EDGE, (), (one_server,))], HELD)
    assert (len(ports), len(faults)) == ((0, 1) if contradict else (1, 0)), "Envoy would refuse the whole port"


@given(mutated(yaml.safe_load(GATEWAY + FULL)["spec"]))
def test_whatever_a_gateway_holds_it_is_refused_or_lowered(spec: object) -> None:
    head = {"apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": {"name": "x"}}
    documents, _ = read_documents(json.dumps({**head, "spec": spec}), "x.yaml", "default")
    for document in documents:
        ingress = lower([document], []).ingress
        open_ports(ingress.gateways, HELD)
        analyze([document])


def server(port: int, name: str, host: str, credential: str = "") -> GatewayServer:
    if not credential:
        return GatewayServer(name, port, (("*", host),))
    return GatewayServer(name, port, (("*", host),), kind=ServerKind.HTTPS, tls=ServerTls((credential,)))


def test_what_a_port_cannot_be_is_left_out_and_said() -> None:
    servers = (
        server(80, "http", "*"),
        server(443, "a", "a.example.com", "held"),
        server(443, "again", "a.example.com", "held"),
        server(443, "plain", "*"),
        server(443, "unknown", "b.example.com", "absent"),
        server(15021, "own", "*"),
    )
    ports, faults = open_ports([Gateway(EDGE, (), servers)], HELD)
    assert [(port.number, [opened.server.name for opened in port.servers]) for port in ports] == [
        (80, ["http"]),
        (443, ["a"]),
    ]
    assert [fault.reason.split('"')[1] for fault in faults] == ["again", "plain", "unknown", "own"]


HOSTS = st.lists(st.sampled_from(("*", "*.a.org", "x.a.org", "X.a.org.", "y.a.org", "b.org")), min_size=1, max_size=3)


@given(HOSTS, st.lists(st.tuples(HOSTS, st.sampled_from(("edge", "other"))), max_size=6))
def test_the_servers_that_routes_are_for_are_found_by_host(
    hosts: list[str], servers: list[tuple[list[str], str]]
) -> None:
    bound = BoundRoutes(ObjectRef("VirtualService", "default", "v"), EDGE, tuple(hosts), ())
    opened = [
        OpenServer(
            EDGE,
            GatewayServer(str(at), 80, tuple(("*", host) for host in of)),
            ObjectRef("Gateway", "default", gateway),
        )
        for at, (of, gateway) in enumerate(servers)
    ]
    ports = [OpenPort(80, "", tuple(opened[:2])), OpenPort(81, "", tuple(opened[2:]))]
    index = ServerIndex(port for port in ports if port.servers)
    meant = [one for one in opened if one.routed_as == EDGE and hosts_for(one.server, bound)]
    found = list(index.of(bound))
    assert [port.servers[at] for port, at, _ in found] == meant
    assert all(shared == hosts_for(port.servers[at].server, bound) for port, at, shared in found)
    assert index.has(EDGE) == any(one.routed_as == EDGE for one in opened)


def test_what_several_ingress_objects_want_alike_is_served_once() -> None:
    both = [Gateway(ObjectRef("Ingress", "default", name), (), (server(80, "http", "*"),), EDGE) for name in "ab"]
    ports, faults = open_ports(both, HELD)
    assert ([len(port.servers) for port in ports], faults) == ([1], ())


def test_a_gateways_configuration(tmp_path: Path) -> None:
    (tmp_path / "agent.yaml").write_text("role: gateway\n")
    config = load_config(tmp_path, tmp_path, tmp_path)
    assert config.gateway_labels == INGRESS_LABELS
    assert (config.interception.inbound, config.interception.outbound.value) == (False, "none")
    assert config.notes == ()
    (tmp_path / "agent.yaml").write_text("labels: {app: edge}\n")
    assert "labels have no effect" in load_config(tmp_path, tmp_path, tmp_path).notes[0]
    (tmp_path / "agent.yaml").write_text("role: gateway\ninterception: {outbound: all}\n")
    assert "interception has no effect" in load_config(tmp_path, tmp_path, tmp_path).notes[0]
    (tmp_path / "agent.yaml").write_text("role: gateway\nlabels: {app: edge}\n")
    assert load_config(tmp_path, tmp_path, tmp_path).gateway_labels == (("app", "edge"),)


def test_where_servers_take_their_certificates_from() -> None:
    server = "  - {port: {number: 443, name: x, protocol: HTTPS}, hosts: ['*'], tls: {mode: MUTUAL, %s}}\n"

    def tls(fields: str) -> ServerTls:
        (gateway,) = lower([one(GATEWAY + server % fields)], []).ingress.gateways
        assert gateway.servers[1].tls is not None
        return gateway.servers[1].tls

    assert (tls("credentialName: a").certificates, tls("credentialName: a").authorities) == (("a",), "a")
    several = tls("credentialNames: [a, b], caCertCredentialName: c")
    assert (several.certificates, several.authorities, several.files) == (("a", "b"), "c", ())
    listed = "tlsCertificates: [{serverCertificate: /a, privateKey: /b}, {serverCertificate: /c, privateKey: /d}]"
    by_file = tls(f"{listed}, caCertificates: /ca, caCrl: /crl")
    assert by_file.certificates == ("/a~/b~~", "/c~/d~~")
    assert by_file.authorities == "~~/ca~/crl"
    assert [files.name for files in by_file.files] == [*by_file.certificates, by_file.authorities]
