"""register, mesh settings, proxy-status, version, completion and permissions against a real Consul."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from agent.adapters.consul.decode import decode_instances
from agent.adapters.consul.store import KvConnection
from agent.mesh.names import status_key
from agent.mesh.service import ActiveCheck, CheckKind, Health, Instance, MtlsMode, Protocol
from agent.mesh.status import CertificateStatus, NodeStatus, ProxyStatus
from tests.integration.cli_consul import CommandLine, command_line, many


@pytest.fixture(scope="module")
def hostmesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    with command_line(tmp_path_factory.mktemp("cli") / "contexts.yaml") as running:
        yield running


def instances(hostmesh: CommandLine, name: str) -> tuple[Instance, ...]:
    """Return what an agent would see of a service."""
    return decode_instances(
        name, KvConnection(hostmesh.address).send("get", f"/v1/health/service/{name}").body.encode()
    ).instances


def test_an_instance_without_an_agent_is_registered_and_seen_as_agents_see_it(hostmesh: CommandLine) -> None:
    options = ["-l", "version=v2,example.com/tier=db", "-a", "note=x", "-s", "dba"]
    printed = hostmesh.ok("-n", "onprem", "register", "mysql", "1.2.3.4", "3306", "http:8000", *options)
    assert printed == (
        "Registered service mysql.onprem at 1.2.3.4, ports 3306 (mysql), 8000 (http), "
        "on node hostmesh-external-1-2-3-4\n"
    )
    (instance,) = instances(hostmesh, "mysql")
    assert (instance.service.namespace, instance.service_account, instance.address) == ("onprem", "dba", "1.2.3.4")
    assert {port.number: port.protocol for port in instance.ports} == {3306: Protocol.MYSQL, 8000: Protocol.HTTP}
    assert dict(instance.labels) == {"version": "v2", "example.com/tier": "db"}
    assert instance.health is Health.PASSING
    assert not instance.proxied
    assert instance.active_check == ActiveCheck()
    hostmesh.ok("register", "mysql", "1.2.3.4", "3306", "-n", "onprem", "--active-check", "tcp")
    (instance,) = instances(hostmesh, "mysql")
    assert instance.active_check == ActiveCheck(CheckKind.TCP, "", 3306)
    hostmesh.ok("register", "mysql", "1.2.3.4", "3306", "-n", "onprem", "-a", "auth.istio.io/3306=MUTUAL_TLS")
    (instance,) = instances(hostmesh, "mysql")
    assert instance.port_modes == ((3306, MtlsMode.STRICT),)
    assert instance.serves_tls


def test_deregistering(hostmesh: CommandLine) -> None:
    hostmesh.ok("register", "gone", "fd00::1", "80")
    assert "gone.other is not registered at fd00::1" in hostmesh.refused("deregister", "gone", "fd00::1", "-n", "other")
    assert "Deregistered service gone.default at fd00::1" in hostmesh.ok("deregister", "gone", "fd00::1")
    assert instances(hostmesh, "gone") == ()
    nodes = KvConnection(hostmesh.address).send("get", "/v1/catalog/nodes").body
    assert "fd00" not in nodes


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("mysql nowhere 3306", "'nowhere' is not an IP address"),
        ("mysql 1.2.3.4 http", "port 'http'"),
        ("My_SQL! 1.2.3.4 80", "no DNS label"),
        ("mysql 1.2.3.4 80 -l hostmesh-tls=true", "hostmesh itself uses"),
        ("mysql 1.2.3.4 80 -l a=b/c", "not a label value"),
        ("mysql 1.2.3.4 80 -s ../x", "--serviceaccount"),
        ("dns 1.2.3.4 udp:53", "udp cannot go through the mesh"),
        ("web 1.2.3.4 80 --active-check http", "--active-check http:"),
        ("web 1.2.3.4 80 --active-check grpc", "a gRPC check needs one that speaks grpc or http2"),
        ("mysql 1.2.3.4 80 -a a.b/c=x", "annotation 'a.b/c'"),
        ("mysql 1.2.3.4 80 -a auth.istio.io/80=maybe", "'maybe' is not one of NONE, MUTUAL_TLS"),
    ],
)
def test_a_wrong_registration_is_refused(hostmesh: CommandLine, arguments: str, reason: str) -> None:
    assert reason in hostmesh.refused("register", *arguments.split())


def test_mesh_settings(hostmesh: CommandLine) -> None:
    assert hostmesh.ok("mesh", "get", "mtls") == "permissive\n"
    assert "Updated mesh settings mtls, excludedServices to revision" in hostmesh.ok(
        "mesh", "set", "mtls=strict", "excludedServices=consul,vault"
    )
    assert json.loads(hostmesh.ok("mesh", "get", "-o", "json")) == {
        "trustDomain": "cluster.local",
        "authPolicy": "MUTUAL_TLS",
        "mtlsExcludedServices": [],
        "rootNamespace": "istio-system",
        "extensionProviders": [],
        "trustDomainAliases": [],
        "outboundTrafficPolicy": "ALLOW_ANY",
        "proxied": True,
        "accessLogFile": "",
        "accessLogEncoding": "TEXT",
        "accessLogFormat": "",
        "defaultMetrics": True,
        "tracing": {},
        "excludedServices": ["consul", "vault"],
        "warningInstances": "serve",
    }
    assert '"never" is not one of disabled, permissive, strict' in hostmesh.refused("mesh", "set", "mtls=never")
    assert "unknown setting" in hostmesh.refused("mesh", "set", "mtsl=strict")
    provider = '[{"name": "who", "envoyExtAuthzGrpc": {"service": "authz", "port": 9000}}]'
    hostmesh.ok("mesh", "set", f"extensionProviders={provider}")
    assert json.loads(hostmesh.ok("mesh", "get", "extensionProviders")) == json.loads(provider)
    hostmesh.ok("mesh", "set", "extensionProviders=")
    assert "missing required field `service`" in hostmesh.refused(
        "mesh", "set", 'extensionProviders=[{"name": "x", "envoyExtAuthzGrpc": {}}]'
    )
    assert hostmesh.run("mesh", "set", "mtls").exit_code == 2
    assert hostmesh.run("mesh", "set", "mtls", "permissive").exit_code == 0
    assert hostmesh.ok("mesh", "get", "mtls") == "permissive\n"


def test_stored_settings_that_are_none_are_told_with_the_way_out(hostmesh: CommandLine) -> None:
    kv = KvConnection(hostmesh.address)
    kv.send("put", "/v1/kv/hostmesh/mesh", data="[]")
    for arguments in (("get",), ("set", "mtls=strict")):
        said = hostmesh.refused("mesh", *arguments)
        assert "must be a mapping" in said
        assert "consul kv delete hostmesh/mesh" in said
    kv.send("delete", "/v1/kv/hostmesh/mesh")
    assert hostmesh.ok("mesh", "get", "mtls") == "permissive\n"


def test_proxy_status_and_version_tell_of_every_node(hostmesh: CommandLine) -> None:
    consul = KvConnection(hostmesh.address)
    certificate = CertificateStatus("spiffe://cluster.local/ns/default/sa/x", "1", time.time() + 7230)
    proxy = ProxyStatus(connected=True, version="1.40.0", config_revision=7, acked_revision=7)
    status = NodeStatus("vm-1", "10.0.0.1", "0.1.0", proxy, (certificate,), updated_at=time.time())
    consul.send("put", f"/v1/kv/{status_key('vm-1')}", data=msgspec.json.encode(status))
    consul.send("put", f"/v1/kv/{status_key('vm-3')}", data=b"garbage")
    silent = {"Service": "details", "Port": 9080, "Meta": {"hostmesh-tls": "true"}}
    body = {"Node": "vm-2", "Address": "10.0.0.2", "Service": silent}
    consul.send("put", "/v1/catalog/register", data=json.dumps(body))
    lines = hostmesh.ok("ps").splitlines()
    assert lines[0].split() == ["NODE", "PROXY", "REVISION", "ENVOY", "CERTIFICATE", "FAULTS"]
    assert lines[1].split() == ["vm-1", "SYNCED", "7", "1.40.0", "2h", "-"]
    assert lines[2].split("  ")[:2] == ["vm-2", "NOT CONNECTED"]
    assert "vm-3" in lines[3]
    assert "status document" in lines[3]
    documents = json.loads(hostmesh.ok("proxy-status", "vm-1", "-o", "json"))
    assert [(document["node"], document["state"]) for document in documents] == [("vm-1", "SYNCED")]
    assert "vm-1  0.1.0  1.40.0" in hostmesh.ok("version")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(hostmesh: CommandLine, shell: str) -> None:
    assert "_HOSTMESH_COMPLETE" in hostmesh.ok("completion", shell)


def test_bash_completes_commands_kinds_and_stored_names(hostmesh: CommandLine) -> None:
    hostmesh.ok("create", stdin=many(2))

    def complete(line: str) -> set[str]:
        script = (
            "source <(hostmesh completion bash); read -ra COMP_WORDS <<<\"$1\"; [[ $1 == *' ' ]] && COMP_WORDS+=('');"
            'COMP_CWORD=$((${#COMP_WORDS[@]}-1)); _hostmesh_completion hostmesh; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        env = {
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "CONSUL_HTTP_ADDR": hostmesh.address.url,
            "HOSTMESH_CONFIG": str(hostmesh.config),
        }
        done = subprocess.run(
            ["bash", "-c", script, "bash", line], capture_output=True, text=True, env=env, timeout=30, check=True
        )
        return set(done.stdout.split())

    assert {"get", "proxy-status"} <= complete("hostmesh ")
    assert complete("hostmesh get rou") == {"routerule"}
    assert complete("hostmesh delete routerule ") == {"rule-000", "rule-001"}
    consul = KvConnection(hostmesh.address)
    consul.send("put", f"/v1/kv/{status_key('seldom-named')}", data=msgspec.json.encode(NodeStatus("seldom-named")))
    assert complete("hostmesh proxy-config routes sel") == {"seldom-named"}
    consul.send("delete", f"/v1/kv/{status_key('seldom-named')}")


def test_no_permission_is_one_line_that_says_how_to_give_a_token(tmp_path: Path) -> None:
    (tmp_path / "good").write_text("root-token\n")
    (tmp_path / "bad").write_text("unknown-token\n")
    # A token nobody made is refused under any policy; under "deny" the fixture's own probe would be refused as well.
    acl = {"enabled": True, "default_policy": "allow", "tokens": {"master": "root-token"}}
    with command_line(tmp_path / "contexts.yaml", {"acl": acl, "primary_datacenter": "dc1"}) as locked:
        refusal = locked.refused("create", "--token-file", f"{tmp_path}/bad", stdin=many(1))
        assert refusal.count("\n") == 1
        assert "403" in refusal
        assert "--token-file" in refusal
        assert "unknown-token" not in refusal
        assert "Created" in locked.ok("create", "--token-file", f"{tmp_path}/good", stdin=many(1))
        assert f"{tmp_path}/absent" in locked.refused("get", "all", "--token-file", f"{tmp_path}/absent")
