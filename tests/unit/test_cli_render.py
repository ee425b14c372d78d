"""`hostmesh render`: the catalog file's faults, what is refused or warned of. Traffic: tests/integration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent.cli.catalog_file import read_catalog
from agent.cli.main import cli
from agent.errors import ConfigError
from agent.mesh.settings import MtlsMode
from tests.mesh_certificates import TestAuthority

CATALOG = """\
mesh: {mtls: MODE}
nodes: [{name: vm-1, address: 10.0.0.1}, {name: vm-2, address: 10.0.0.2}]
services:
- name: reviews
  serviceAccount: bookinfo-reviews
  ports: [{name: http, port: 9080, protocol: http}]
  instances:
  - {node: vm-1, address: 10.0.0.1, port: 9080, labels: {app: reviews, version: v1}, proxied: true}
- name: mysql
  ports: [{port: 3306, name: mysql}]
- name: other
  ports: [{port: 3306}]
"""


def run(folder: Path, *arguments: str, mode: str = "disabled", catalog: str = CATALOG) -> Result:
    (folder / "catalog.yaml").write_text(catalog.replace("MODE", mode))
    return CliRunner().invoke(cli, ["render", "--catalog", str(folder / "catalog.yaml"), "--node", *arguments])


def problems(content: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_catalog(content, "c.yaml")
    return list(caught.value.problems)


def test_catalog_of_the_documentation() -> None:
    catalog = read_catalog(CATALOG.replace("MODE", "strict"), "c.yaml")
    assert catalog.settings.mtls is MtlsMode.STRICT
    (workload,) = catalog.workloads("vm-1")
    assert workload.identity.spiffe_id("cluster.local") == "spiffe://cluster.local/ns/default/sa/bookinfo-reviews"
    assert dict(workload.labels) == {"app": "reviews", "version": "v1"}
    assert catalog.workloads("vm-2") == ()


def test_every_fault_of_a_catalog_is_named_at_once_with_its_line() -> None:
    found = problems(
        """\
mesh: {mtls: strikt, trust: x}
nodes: [{name: vm-1, address: ten}, {name: vm-1}]
services:
- name: Reviews
  ports: [{port: 0}, {port: 80, protocol: udp}]
  instances:
  - {nod: vm-1, port: "9080", proxied: yes please}
color: red
"""
    )
    assert [line.split(" ")[0] for line in found] == [
        "c.yaml:1:", "c.yaml:1:", "c.yaml:2:", "c.yaml:2:", "c.yaml:4:", "c.yaml:5:", "c.yaml:5:",
        "c.yaml:7:", "c.yaml:7:", "c.yaml:7:", "c.yaml:7:", "c.yaml:8:",
    ]  # fmt: skip
    assert "mesh.mtls" in found[0]
    assert "did you mean node?" in "\n".join(found)


def test_parts_of_a_catalog_must_fit_together() -> None:
    found = problems(
        """\
nodes: [{name: vm-1, address: 10.0.0.1}, {name: vm-1, address: 10.0.0.2}]
services:
- {name: a, ports: [{port: 80}], instances: [{node: vm-2}]}
- {name: a, namespace: default, ports: [{port: 80}, {port: 81}]}
- {name: a, namespace: shop, ports: [{port: 80}]}
"""
    )
    assert [line.split(" ")[0] for line in found] == ["c.yaml:1:", "c.yaml:4:", "c.yaml:3:"]
    assert '"vm-2" is not one of nodes (did you mean vm-1?)' in found[2]
    doubled = problems('nodes: [{name: a, address: "::1"}]\nservices: [{name: b, ports: [{port: 1}, {port: 1}]}]')
    assert doubled == ["c.yaml:2: services[0].ports[1]: port 1 is given twice (first as services[0].ports[0])"]


@pytest.mark.parametrize("content", ["", "[]", "a: [", "nodes: []", "{}\n---\n{}", "nodes: 7"])
def test_what_is_no_catalog_is_refused_with_a_line(content: str) -> None:
    assert all(line.startswith("c.yaml:") for line in problems(content))


def test_instance_port_that_is_not_the_service_s(tmp_path: Path) -> None:
    catalog = CATALOG.replace("port: 9080, labels", "port: 18080, labels")
    result = run(tmp_path, "vm-1", "--bind-outbound", "127.0.0.2", "--bind-inbound", "127.0.0.3", catalog=catalog)
    static = json.loads(result.stdout)["static_resources"]
    ports = {listener["address"]["socket_address"]["port_value"] for listener in static["listeners"]}
    assert {9080, 18080} <= ports
    cluster = next(c for c in static["clusters"] if c["name"] == "outbound|9080||reviews.service.consul")
    assert '"port_value": 18080' in json.dumps(cluster)


def test_unknown_node_names_the_known_ones(tmp_path: Path) -> None:
    result = run(tmp_path, "vm-3")
    assert result.exit_code == 1
    assert "there is no node 'vm-3' (nodes: vm-1, vm-2)" in result.stderr


def test_two_tcp_services_on_one_bound_port_are_told_apart(tmp_path: Path) -> None:
    result = run(tmp_path, "vm-2", "--bind-outbound", "127.0.0.2")
    assert result.exit_code == 0
    said = "service other.default: TCP port 3306 has no listener: 127.0.0.2:3306 is bound for mysql.default"
    assert said in result.stderr


@pytest.mark.parametrize(
    ("arguments", "mode", "said"),
    [
        (["vm-1"], "strict", "mesh.authPolicy is MUTUAL_TLS: give --certs DIR"),
        (["vm-1", "--bind-inbound", "10.0.0.1", "--bind-outbound", "10.0.0.1"], "disabled", "both need port 9080"),
        (["vm-1", "--certs", "/nowhere"], "strict", "/nowhere/cert-chain.pem: cannot be read"),
        (["vm-1", "--admin", "here"], "disabled", "neither the path of a socket"),
        (["vm-1", "-f", "/nowhere.yaml"], "disabled", "/nowhere.yaml: cannot be read"),
        (["vm-1", "-o", "/nowhere/x"], "disabled", "/nowhere/x: cannot be written"),
    ],
)
def test_refusals(tmp_path: Path, arguments: list[str], mode: str, said: str) -> None:
    result = run(tmp_path, *arguments, mode=mode)
    assert result.exit_code == 1
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_bind_inbound_to_the_application_s_own_place_is_refused(tmp_path: Path) -> None:
    catalog = CATALOG.replace("10.0.0.1", "127.0.0.1")
    result = run(tmp_path, "vm-1", "--bind-inbound", "127.0.0.1", catalog=catalog)
    assert result.exit_code == 1
    assert "choose another address" in result.stderr


def test_permissive_without_certificates_says_that_it_is_plain(tmp_path: Path) -> None:
    result = run(tmp_path, "vm-1", mode="permissive")
    assert result.exit_code == 0
    assert "everything is plain text" in result.stderr


def test_certificate_for_somebody_else_is_warned_of(tmp_path: Path) -> None:
    certs = TestAuthority().write(tmp_path / "certs", "spiffe://cluster.local/ns/default/sa/other")
    result = run(tmp_path, "vm-1", "--certs", str(certs), mode="strict")
    assert result.exit_code == 0
    assert "its clients will refuse it" in result.stderr
    assert "PRIVATE" not in result.stdout


def test_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    one, other = (
        TestAuthority().write(tmp_path / "1", "spiffe://a/b"),
        TestAuthority().write(tmp_path / "2", "spiffe://a/b"),
    )
    (one / "key.pem").write_bytes((other / "key.pem").read_bytes())
    assert "is not the key of" in run(tmp_path, "vm-1", "--certs", str(one), mode="strict").stderr


def test_unusable_rule_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "rule.yaml").write_text(
        "apiVersion: config.istio.io/v1alpha2\nkind: RouteRule\nmetadata: {name: r}\n"
        "spec: {destination: {name: nobody}, route: [{labels: {version: v1}}]}\n"
    )
    result = run(tmp_path, "vm-1", "-f", str(tmp_path / "rule.yaml"))
    assert result.exit_code == 0
    assert "Warning: RouteRule/r.default" in result.stderr


def test_what_cannot_be_enforced_is_told_and_the_rest_rendered(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(
        """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: v}
spec:
  hosts: [reviews]
  http:
  - match: [{uri: {prefix: /a}}]
    redirect: {uri: /b, redirectCode: 305}
  - timeout: 3s
    route: [{destination: {host: reviews}}]
"""
    )
    result = run(tmp_path, "vm-1", "-f", str(tmp_path / "rules.yaml"), "-o", str(tmp_path / "out.json"))
    assert result.exit_code == 0
    assert "rules.yaml:8: VirtualService/v: spec.http[0].redirect: redirectCode 305" in result.output
    assert '"timeout": "3s"' in (tmp_path / "out.json").read_text()
