"""`hostmesh doctor`: each check is shown with its fault made in a network namespace, and is silent without it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent.cli.checkup.finding import Level, Patient
from agent.cli.checkup.outside import check_ca
from agent.config import load_config
from agent.mesh.routes import Fault
from agent.mesh.status import CertificateStatus, NodeStatus, ProxyStatus
from node_ca.proto.token import JoinToken
from tests.integration.ca_process import CaProcess
from tests.integration.netns import Host, lan
from tests.integration.test_node_commands import agent_answers
from tests.programs import CONSUL, ENVOY
from tests.waiting import wait_for

HOSTMESH = Path(sys.executable).with_name("hostmesh")
LISTEN = "import socket,time;s=socket.create_server(('{}',{}));print('up',flush=True);time.sleep(600)"


@pytest.fixture(scope="module")
def hosts() -> Iterator[dict[str, Host]]:
    with lan("sick", "peer", subnet=83) as made:
        yield made


@pytest.fixture
def sick(hosts: dict[str, Host], tmp_path: Path) -> Sick:
    return Sick(hosts["sick"], tmp_path)


class Sick:
    """A host with a configuration of its own."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.host, self.folder = host, folder
        for name in ("etc/services.d", "var", "run"):
            (folder / name).mkdir(parents=True)
        self.resolv = folder / "resolv.conf"
        self.resolv.write_text("nameserver 127.0.0.1\n")
        self.before = ""
        self.configure()

    def configure(self, **settings: Any) -> None:
        text = json.dumps({"node": "sick", "address": self.host.v4, "proxy": {"binary": str(ENVOY)}} | settings)
        (self.folder / "etc/agent.yaml").write_text(text)

    def examine(self, check: str) -> list[tuple[str, str]]:
        """Return (level, what was found) of one check, by the command as the operator runs it."""
        places = f"--config-dir {self.folder}/etc --state-dir {self.folder}/var --run-dir {self.folder}/run"
        script = f"mount --bind {self.resolv} /etc/resolv.conf; {self.before} exec {HOSTMESH} doctor {places} -o json"
        done = self.host.run("unshare", "--mount", "sh", "-c", script, check=False, timeout=60)
        findings = json.loads(done.stdout)
        assert done.returncode == int(any(one["level"] == "error" for one in findings)), done.stderr
        assert all(one["mend"] for one in findings if one["level"] != "ok")
        return [(one["level"], one["found"]) for one in findings if one["check"] == check]


@contextmanager
def listening(
    host: Host, port: int, address: str = "127.0.0.1", program: str | Path = sys.executable
) -> Iterator[None]:
    """Have a program listen there."""
    with host.running(program, "-c", LISTEN.format(address, port), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield


def test_a_second_variant_of_iptables_and_none_at_all(sick: Sick) -> None:
    assert [level for level, _ in sick.examine("kernel")] == ["ok", "ok"]
    assert [level for level, _ in sick.examine("iptables")] == ["ok"]
    sick.before = f"PATH={sick.folder};"
    assert ("error", "iptables-restore is not installed") in sick.examine("kernel")
    if sick.host.run("iptables-legacy", "-L", check=False).returncode:
        pytest.skip("this kernel has no legacy iptables")
    sick.before = "iptables-legacy -A INPUT -j ACCEPT;"
    try:
        ((level, found),) = sick.examine("iptables")
    finally:
        sick.host.run("iptables-legacy", "-F")
    assert (level, found) == (
        "warning",
        "iptables is the nft variant, but 1 rules stand in the legacy one, and hold as well",
    )


def test_a_wrong_configuration(sick: Sick) -> None:
    assert sick.examine("configuration") == [
        ("warning", "ca.address is not set: this host gets no certificates and takes part without mutual TLS")
    ]
    (sick.folder / "etc/services.d/web.yaml").write_text("name: web\n")
    assert any("web: port: is missing" in found for level, found in sick.examine("configuration") if level == "error")
    sick.configure(nod="x")
    assert [level for level, _ in sick.examine("configuration")] == ["error"]


def test_ports_that_others_have_and_services_that_nobody_serves(sick: Sick) -> None:
    (sick.folder / "etc/services.d/web.yaml").write_text("name: web\nport: 8088\n")
    assert [level for level, _ in sick.examine("ports")] == ["ok"]
    assert sick.examine("services") == [("warning", "service web.default: nothing listens on its port 8088")]
    with listening(sick.host, 15006), listening(sick.host, 8088):
        ((level, found),) = sick.examine("ports")
        assert (level, "port 15006 of the mesh is taken by python" in found) == ("error", True)
        assert sick.examine("services") == []


def test_who_answers_names(sick: Sick) -> None:
    assert ("error", "no dnsmasq listens on port 53: the mesh's names have no answer") in sick.examine("dns")
    unbound = sick.folder / "unbound"
    shutil.copy(Path("/usr/bin/python3").resolve(), unbound)
    with listening(sick.host, 53, program=unbound):
        assert ("error", "unbound has port 53, so no dnsmasq answers the mesh's names") in sick.examine("dns")
    options = ("--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--listen-address=127.0.0.1", "--bind-interfaces")
    with sick.host.running("dnsmasq", *options, "--user=root", "--pid-file="):
        wait_for(lambda: ("ok", "dnsmasq listens on port 53") in sick.examine("dns"), "dnsmasq is seen", 30)
        assert [level for level, _ in sick.examine("dns")] == ["ok", "ok"]
        sick.resolv.write_text("nameserver 10.0.0.9\nnameserver 127.0.0.1\n")
        assert [level for level, _ in sick.examine("dns")] == ["ok", "error"]
        sick.resolv.write_text("nameserver 127.0.0.53\n")
        assert [level for level, _ in sick.examine("dns")] == ["ok", "warning"]


def test_a_disk_that_is_read_only(sick: Sick) -> None:
    assert [level for level, _ in sick.examine("disk")] == ["ok"]
    sick.before = f"mount -t tmpfs -o ro none {sick.folder}/var;"
    assert [found.partition(": ")[0] for _, found in sick.examine("disk")] == [f"{sick.folder}/var is read-only"]


def test_consul_away_without_a_leader_and_with_a_token_that_may_nothing(sick: Sick) -> None:
    ((level, found),) = sick.examine("consul")
    assert (level, "Connection refused" in found) == ("error", True)
    leaderless = ("error", "the cluster has no leader: nothing can be registered")
    with consul(sick, "-server", "-bootstrap-expect=3", "-data-dir", sick.folder / "consul"):
        wait_for(lambda: leaderless in sick.examine("consul"), "a Consul without a leader", 60, interval=0.5)
    acl = sick.folder / "acl.json"
    acl.write_text('{"acl": {"enabled": true, "default_policy": "deny"}}')
    with consul(sick, "-dev", "-config-file", acl):
        wait_for(
            lambda: any("Permission denied" in it for _, it in sick.examine("consul")), "the ACL", 60, interval=0.5
        )


def test_a_firewall_between_hosts(sick: Sick, hosts: dict[str, Host]) -> None:
    peer = hosts["peer"]
    meta = {"hostmesh-tls": "true", "protocol": "http"}
    entry = {"ID": "hostmesh-web-8088", "Service": "web", "Address": peer.v4, "Port": 8088, "Meta": meta}
    body = json.dumps({"Node": "peer", "Address": peer.v4, "Service": entry})
    register = ("curl", "-sf", "-X", "PUT", "-d", body, "http://127.0.0.1:8500/v1/catalog/register")
    with consul(sick, "-dev"):
        wait_for(lambda: sick.host.run(*register, check=False).returncode == 0, "the peer is registered", 60)
        refused = ("error", f"service web.default on peer: {peer.v4} port 8088: connection refused")
        assert sick.examine("firewall") == [refused]
        with listening(peer, 8088, peer.v4):
            assert sick.examine("firewall") == [("ok", "1 ports of other hosts can be reached")]
            peer.run("iptables", "-A", "INPUT", "-p", "tcp", "--dport", "8088", "-j", "DROP")
            ((level, found),) = sick.examine("firewall")
            assert (level, "timed out after 3 s" in found) == ("error", True)


@contextmanager
def consul(sick: Sick, *options: str | Path) -> Iterator[None]:
    """Run a Consul on the host."""
    with sick.host.running(CONSUL, "agent", "-bind=127.0.0.1", "-log-level=err", *options, stdout=subprocess.DEVNULL):
        yield


def test_a_ca_that_is_away_or_another_one(tmp_path: Path) -> None:
    def levels() -> list[tuple[Level, str]]:
        config = load_config(tmp_path, tmp_path, tmp_path)
        return [(found.level, found.found) for found in check_ca(Patient(config, None))]

    with CaProcess(tmp_path / "ca") as ca:
        ports = {"enrolmentPort": ca.enrolment_port, "renewalPort": ca.renewal_port}
        (tmp_path / "agent.yaml").write_text(json.dumps({"ca": {"address": "127.0.0.1", **ports}}))
        (tmp_path / "join-token").write_text(f"ns/default/sa/web {ca.token()}\n")
        assert levels() == [(Level.OK, "127.0.0.1 is the CA that made the join token")]
        (tmp_path / "join-token").write_text(JoinToken.new(b"x" * 32).text())
        assert [("is not the CA that made the join token" in found, level) for level, found in levels()] == [
            (True, Level.ERROR)
        ]
    assert [level for level, _ in levels()] == [Level.ERROR, Level.ERROR]


@pytest.mark.parametrize(("seconds", "level"), [(0, "ok"), (300, "error"), (-300, "error")])
def test_a_clock_that_is_off(sick: Sick, seconds: int, level: str) -> None:
    sick.configure(ca={"address": "127.0.0.1"})
    assert [found[0] for found in sick.examine("clock")] == ["warning"]
    answer = f"HTTP/1.0 200 OK\\r\\nDate: {formatdate(time.time() + seconds, usegmt=True)}\\r\\n\\r\\n"
    loop = "while True:\n c=s.accept()[0]\n c.recv(999)\n c.sendall(b'{}')\n c.close()"
    server = "import socket\ns=socket.create_server(('127.0.0.1',15014))\n" + loop.format(answer)
    with sick.host.running(sys.executable, "-c", server):
        wait_for(lambda: [found[0] for found in sick.examine("clock")] == [level], "the clock is compared", 30)


def test_what_the_agent_says_of_itself_and_rules_that_drifted(sick: Sick) -> None:
    assert sick.examine("agent") == [("error", "no hostmesh-agent answers on this host")]
    now = time.time()
    certificates = (
        CertificateStatus("spiffe://cluster.local/ns/default/sa/over", "1", now - 60),
        CertificateStatus("spiffe://cluster.local/ns/default/sa/late", "2", now + 3600, renew_at=now - 7200),
        CertificateStatus("spiffe://cluster.local/ns/default/sa/good", "3", now + 3600, renew_at=now + 60),
    )
    proxy = ProxyStatus(True, "1.40", 7, 7, (Fault("listener a", "refused"),))
    status = NodeStatus("sick", sick.host.v4, "0.1", proxy, certificates, (Fault("services.d", "web.yaml: bad"),))
    with agent_answers(sick.folder / "run", msgspec.json.encode(status)):
        assert [found for _, found in sick.examine("agent")] == ["listener a: refused", "services.d: web.yaml: bad"]
        assert [level for level, _ in sick.examine("certificates")] == ["error", "warning", "ok"]
        drifted = sick.examine("drift")
    assert {level for level, _ in drifted} == {"error"}
    assert any("HOSTMESH_" in found for _, found in drifted)


def test_a_support_bundle_holds_no_secret(sick: Sick) -> None:
    join, uuid = JoinToken.new(b"f" * 32).text(), "b1a4b5a5-3c2d-4000-8000-00000000abcd"
    keys = [generate_private_key(SECP256R1()) for _ in range(2)]
    pem, other = (key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode() for key in keys)
    secret_lines = [line for text in (pem, other) for line in text.splitlines() if "-----" not in line]
    log = f"enrolled by {join}\n{secret_lines[0]}\nX-Consul-Token: {uuid}\nan ordinary line\n"
    texts = {
        "etc/join-token": f"ns/default/sa/web {join}\n",
        "etc/consul-token": f"{uuid}\n",
        "etc/secrets/shop/tls.key": pem,
        "etc/sidecar.env": f"# CONSUL_HTTP_TOKEN={uuid}\nDB_PASSWORD=hunter2\n",
        "etc/services.d/web.yaml": f"name: web\nport: 80 # {join}\n",
        "var/certificates/ns_default_sa_web.pem": other,
        "var/envoy.log": log,
    }
    for name, text in texts.items():
        (sick.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (sick.folder / name).write_text(text)
    out = sick.folder / "bundle.tar.gz"
    places = ("--config-dir", sick.folder / "etc", "--state-dir", sick.folder / "var", "--run-dir", sick.folder / "run")
    with agent_answers(sick.folder / "run", json.dumps({"node": "sick", "said": join}).encode()):
        sick.host.run(HOSTMESH, "support-bundle", "--out", out, *places, timeout=120)
    assert out.stat().st_mode & 0o777 == 0o600
    with tarfile.open(out) as archive:
        parts = {entry.name.partition("/")[2]: archive.extractfile(entry) for entry in archive}
        found = {name: file.read().decode() for name, file in parts.items() if file}
    for name, text in found.items():
        for secret in (join, join.split(".")[2], uuid, "hunter2", "PRIVATE KEY-----\n", *secret_lines):
            assert secret not in text, name
    assert "an ordinary line" in found["state/envoy.log"]
    assert "name: web" in found["etc/services.d/web.yaml"]
    assert '"node": "sick"' in found["agent/status.txt"]
    assert {"doctor.json", "envoy/clusters.txt", "system/iptables-save.txt", "system/etc/resolv.conf"} <= found.keys()
