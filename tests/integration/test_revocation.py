"""A revoked identity loses its connections within seconds, HTTP and TCP; others notice nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest

from agent.lab.hostfiles import AGENT_UID
from agent.lab.lab import Lab
from agent.lab.plan import CONSUL_HOST, App, HostPlan, bookinfo_app, python_app
from tests.integration.meshlab import APP_UID, bookinfo, hostmesh, load, node_status, wait_settled
from tests.mesh_certificates import TestAuthority
from tests.unit.ca_files import Shape, files_of, key_file, make_ca, rsa_key, write_files
from tests.waiting import wait_for

HERE = Path(__file__).parent
DETAILS = "http://details:9080/details/0"
SECONDS = 20.0
"""Five are promised, and seen on a quiet machine; a crowded one takes its time."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A server with HTTP and TCP, two clients with identities of their own; a plugged-in CA below a root."""
    greeter = (*python_app(HERE / "greeter.py", 3307), "greeter")
    hosts = (
        CONSUL_HOST,
        HostPlan("alice", (_page("alice"),)),
        HostPlan("bob", (_page("bob"),)),
        HostPlan(
            "server",
            (
                bookinfo_app("details", "v1", {}),
                App("greeter", greeter, 3307, "mysql", service_account="greeter", health_path=""),
            ),
        ),
        HostPlan("edge", settings={"role": "gateway"}),
    )
    with TemporaryDirectory() as folder:
        given = _plugged_in(Path(folder))
        plan = bookinfo("10.78.9.0/24", {"caFiles": given, "jwt": {"keyFile": f"{given}/jwt-key.pem"}})
        with Lab(msgspec.structs.replace(plan, hosts=hosts, page_host="")) as lab:
            hostmesh(lab, "mesh", "set", "mtls=strict")
            wait_settled(lab)
            _open_the_gateway(lab, Path(folder))
            for name in ("alice", "bob"):
                wait_for(lambda name=name: call(lab, name) == "200", f"{name} gets details")  # type: ignore[misc]
            yield lab


def _plugged_in(folder: Path) -> str:
    root = make_ca("their root", key=rsa_key())
    write_files(folder, files_of(make_ca("their issuer", root, Shape(path_length=0)), root))
    key_file(folder, "jwt-key.pem")
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755)  # hostmesh-ca runs as its own user
    return str(folder)


GATEWAY = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 8443, name: mesh, protocol: HTTPS}, hosts: ["*"], tls: {mode: ISTIO_MUTUAL}}
  - {port: {number: 9443, name: own, protocol: HTTPS}, hosts: ["*"], tls: {mode: MUTUAL, credentialName: edge}}
  - {port: {number: 443, name: open, protocol: HTTPS}, hosts: ["*"], tls: {mode: SIMPLE, credentialName: edge}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge}
spec: {hosts: ["*"], gateways: [edge], http: [{route: [{destination: {host: details}}]}]}
"""
MESH, OWN, OPEN = 8443, 9443, 443


def _open_the_gateway(lab: Lab, folder: Path) -> None:
    """Have a gateway with ports for the mesh's certificates, by its own means and by a secret's; and one for all."""
    cert(lab, "bob", "export", "--out", str(folder / "bob"))
    files = TestAuthority().write_secret(folder / "edge", "edge.example")
    given = ["--cert", str(files / "tls.crt"), "--key", str(files / "tls.key")]
    given += ["--ca", str(folder / "bob" / "root-cert.pem")]
    secrets = lab["edge"].path("etc/secrets")
    hostmesh(lab, "secret", "install", "edge", "--secrets-dir", str(secrets), *given)
    for path in (secrets, *secrets.rglob("*")):
        os.chown(path, AGENT_UID, AGENT_UID)
    hostmesh(lab, "apply", "-f", "-", stdin=GATEWAY)


def _page(name: str) -> App:
    return msgspec.structs.replace(bookinfo_app("productpage", "v1", {}), service_account=name)


def call(lab: Lab, host: str) -> str:
    argv = ["curl", "-s", "-m", "3", "-o", "/dev/null", "-w", "%{http_code}", DETAILS]
    return lab[host].exec(*argv, uid=APP_UID, check=False).stdout


class Talker:
    """A connection to the greeter."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @property
    def is_open(self) -> bool:
        return self._process.poll() is None

    def ended(self) -> float:
        """Return when it ended (Unix time)."""
        output, _ = self._process.communicate(timeout=10)
        return float(output)


@contextmanager
def talking(lab: Lab, host: str, *words: str) -> Iterator[Talker]:
    with _running(lab, host, str(HERE / "talker.py"), "greeter", "3307", *words) as talker:
        yield talker


@contextmanager
def idling(lab: Lab, certificates: Path, *words: str, server: str = "server", port: int = 9080) -> Iterator[Talker]:
    """Hold a connection from bob's host with these certificates to details, straight to its Envoy or by a gateway."""
    place = (str(lab[server].address), str(port))
    with _running(lab, "bob", str(HERE / "tls_idler.py"), *place, str(certificates), *words) as talker:
        yield talker


def comes_in(lab: Lab, certificates: Path, port: int) -> bool:
    """Tell whether the gateway serves somebody with these certificates."""
    try:
        with idling(lab, certificates, server="edge", port=port):
            return True
    except AssertionError:
        return False


@contextmanager
def _running(lab: Lab, host: str, *words: str) -> Iterator[Talker]:
    argv = [sys.executable, *words]
    process = subprocess.Popen(lab[host].argv(argv), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        yield Talker(process)
    finally:
        process.kill()
        process.wait()


def cert(lab: Lab, host: str, *words: str) -> str:
    """Run `hostmesh cert` for a host's agent."""
    return hostmesh(lab, "cert", words[0], "--run-dir", str(lab[host].path("run")), *words[1:])


def test_an_operator_shows_renews_and_exports_a_host_s_certificate(lab: Lab, tmp_path: Path) -> None:
    (shown,) = json.loads(cert(lab, "bob", "show", "-o", "json"))
    assert shown["identity"] == "spiffe://cluster.local/ns/default/sa/bob"
    assert time.time() < shown["renewAt"] < shown["notAfter"]
    assert shown["issuer"]
    assert "ns/default/sa/bob" in cert(lab, "bob", "show")
    (renewed,) = json.loads(cert(lab, "bob", "renew", "-o", "json"))
    assert renewed["serial"] != shown["serial"]
    folder = tmp_path / "exported"
    cert(lab, "bob", "export", "ns/default/sa/bob", "--out", str(folder))
    assert (folder / "key.pem").stat().st_mode & 0o777 == 0o600
    chain = str(folder / "cert-chain.pem")
    verify = ["openssl", "verify", "-CAfile", str(folder / "root-cert.pem"), "-untrusted", chain, chain]
    assert subprocess.run(verify, capture_output=True, text=True, check=True).stdout.endswith("OK\n")
    assert "it holds: ns/default/sa/bob" in hostmesh(
        lab, "cert", "renew", "ns/default/sa/eve", "--run-dir", str(lab["bob"].path("run")), check=False
    )
    assert call(lab, "bob") == "200"


def test_a_local_program_gets_its_identity_by_its_unix_user(lab: Lab) -> None:
    bob = lab["bob"]
    declared = {"name": "tool", "port": 9999, "proxied": False, "serviceAccount": "bob", "user": str(APP_UID)}
    bob.path("etc/services.d/tool.yaml").write_text(json.dumps(declared))
    bob.exec("kill", "-HUP", str(bob.pid("agent")))
    argv = [sys.executable, str(HERE / "spiffe_program.py"), str(bob.path("run/workload.sock")), "1"]
    bob_id = '"id": "spiffe://cluster.local/ns/default/sa/bob"'
    wait_for(lambda: bob_id in bob.exec(*argv, uid=APP_UID, check=False).stdout, "bob's program has bob's identity")
    assert "PERMISSION_DENIED" in bob.exec(*argv, uid=APP_UID + 1, check=False).stdout
    asking = [sys.executable, str(HERE / "spiffe_jwt_program.py"), str(bob.path("run/workload.sock")), "db"]
    said = json.loads(bob.exec(*asking, uid=APP_UID).stdout)
    assert said["api"] == said["library"] == "spiffe://cluster.local/ns/default/sa/bob"
    bob.path("etc/services.d/tool.yaml").unlink()
    bob.exec("kill", "-HUP", str(bob.pid("agent")))
    wait_for(lambda: "PERMISSION_DENIED" in bob.exec(*argv, uid=APP_UID, check=False).stdout, "it is taken back")


def test_a_revoked_identity_loses_its_connections_and_nobody_else(lab: Lab, tmp_path: Path) -> None:
    (certificate,) = node_status(lab["alice"]).certificates
    stolen, own = tmp_path / "alice", tmp_path / "bob"
    cert(lab, "alice", "export", "--out", str(stolen))
    cert(lab, "bob", "export", "--out", str(own))
    for port in (MESH, OWN):
        wait_for(partial(comes_in, lab, stolen, port), f"the gateway's port {port} serves")
    with ExitStack() as stack:
        thieves = [stack.enter_context(idling(lab, stolen))]
        thieves += [stack.enter_context(idling(lab, stolen, server="edge", port=port)) for port in (MESH, OWN)]
        thieves += [stack.enter_context(idling(lab, stolen, "busy", server="edge", port=port)) for port in (MESH, OWN)]
        others = [stack.enter_context(idling(lab, own, "busy", server="edge", port=port)) for port in (MESH, OWN)]
        others += [stack.enter_context(idling(lab, stolen, server="edge", port=OPEN))]
        alice = [stack.enter_context(talking(lab, "alice", *words)) for words in ((), ("silent",))]
        bob = [stack.enter_context(talking(lab, "bob", *words)) for words in ((), ("silent",))]
        running = stack.enter_context(load(lab["bob"], DETAILS))
        hostmesh(lab, "ca", "cert", "revoke", "--identity", "ns/default/sa/alice", "--socket", lab.state.ca_socket)
        revoked_at = time.time()
        took = [round(talker.ended() - revoked_at, 2) for talker in (*alice, *thieves)]
        assert max(took) < SECONDS, (took, lab["server"].log("agent"), lab["edge"].log("agent"))
        wait_for(lambda: call(lab, "alice") != "200", "alice is refused", SECONDS)
        with pytest.raises(AssertionError), idling(lab, stolen):
            pass
        assert [comes_in(lab, stolen, port) for port in (MESH, OWN, OPEN)] == [False, False, True]
        assert [comes_in(lab, own, port) for port in (MESH, OWN)] == [True, True]
        assert call(lab, "bob") == "200"
        assert all(talker.is_open for talker in (*bob, *others))
        wait_for(lambda: node_status(lab["server"]).trust_bundle == node_status(lab["bob"]).trust_bundle, "all know")
        assert certificate.identity.endswith("alice")
    assert running.failures == []
    assert running.total > 20


def test_a_revoked_host_says_how_to_mend_it_and_comes_back_by_a_new_token(lab: Lab) -> None:
    alice, identity = lab["alice"], "ns/default/sa/alice"

    def said() -> list[str]:
        return [fault.reason for fault in node_status(alice).faults if "was revoked" in fault.reason]

    (reason,) = wait_for(said, "the fault is told")
    assert f"put a new join token into {alice.path('etc/join-token')}" in reason
    assert f"hostmesh ca token create --identity {identity}" in reason
    assert "was revoked" in hostmesh(lab, "proxy-status")
    token = hostmesh(lab, "ca", "token", "create", "--identity", identity, "--socket", lab.state.ca_socket)
    alice.path("etc/join-token").write_text(f"{identity} {token}")
    wait_for(lambda: call(lab, "alice") == "200", "alice gets details again")
    wait_for(lambda: not said(), "the fault is gone")


def test_clients_leave_a_server_whose_identity_was_revoked(lab: Lab) -> None:
    with talking(lab, "bob") as talker, load(lab["bob"], DETAILS) as running:
        hostmesh(lab, "ca", "cert", "revoke", "--identity", "ns/default/sa/greeter", "--socket", lab.state.ca_socket)
        revoked_at = time.time()
        assert talker.ended() - revoked_at < SECONDS
        with pytest.raises(AssertionError), talking(lab, "bob"):
            pass
        assert call(lab, "bob") == "200"
    assert running.failures == [], "details is on the same host"
    assert (lab["bob"].path("var") / "revoked").read_text().count(" ") == 1, "restarts do not do it all again"
