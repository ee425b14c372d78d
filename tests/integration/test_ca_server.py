"""hostmesh-ca as a process, spoken to by the agent's client, by raw gRPC and by openssl."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import ssl
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent.adapters.identity import CaClient, IssuedChain, new_csr, new_key
from agent.cli.main import cli
from agent.errors import CaRefused, CaUnavailable
from agent.mesh.service import Identity
from agent.mesh.snapshot import Certificate
from node_ca.authority import Authority
from node_ca.proto import ca_pb2, ca_pb2_grpc
from node_ca.proto.token import JoinToken
from node_ca.template import Validity, server_template
from tests.integration.ca_process import CaProcess
from tests.unit.ca_requests import csr, forged_csr, greedy_csr, p256

REVIEWS, RATINGS = Identity("default", "reviews"), Identity("default", "ratings")


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CaProcess]:
    with CaProcess(tmp_path_factory.mktemp("ca"), serverLifetime="4s") as process:
        yield process


async def enrol(ca: CaProcess, identity: Identity = REVIEWS) -> IssuedChain:
    return await ca.client().enrol(identity, new_key(), ca.token(identity.path))


def openssl(*arguments: str | Path, text: str = "") -> str:
    command = ["openssl", *arguments]  # s_client prints the peer's bytes as they are
    done = subprocess.run(command, input=text, capture_output=True, encoding="latin-1", timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_enrolment_verified_by_openssl(ca: CaProcess, tmp_path: Path) -> None:
    issued = await enrol(ca)
    assert issued.trust_bundle_pem == ca.root_path.read_bytes()
    chain = tmp_path / "chain.pem"
    chain.write_bytes(issued.certificate.chain_pem)
    for purpose in ("sslserver", "sslclient"):
        assert ": OK" in openssl("verify", "-x509_strict", "-purpose", purpose, "-CAfile", ca.root_path, chain)
    text = openssl("x509", "-in", chain, "-noout", "-text")
    assert "URI:spiffe://cluster.local/ns/default/sa/reviews" in text
    assert "CA:FALSE" in text


def test_the_servers_chain_verified_by_openssl(ca: CaProcess) -> None:
    target = ("-connect", f"127.0.0.1:{ca.enrolment_port}", "-alpn", "h2")
    trust = ("-CAfile", ca.root_path, "-verify_return_error", "-verify_ip", "127.0.0.1")
    text = openssl("s_client", *target, *trust, "-showcerts")
    assert "Verify return code: 0 (ok)" in text
    assert text.count("BEGIN CERTIFICATE") >= 2, "the root goes along"


async def test_renewal_gives_a_new_key_the_same_identity(ca: CaProcess) -> None:
    first = await enrol(ca)
    second = await ca.client().renew(REVIEWS, new_key(), first.certificate, first.trust_bundle_pem)
    assert second.leaf.uris == first.leaf.uris
    assert second.leaf.serial != first.leaf.serial
    assert second.certificate.key_pem != first.certificate.key_pem
    third = await ca.client().renew(REVIEWS, new_key(), second.certificate, second.trust_bundle_pem)
    events = [line for line in ca.log() if line["message"] == "issued" and line["serial"] == third.leaf.serial]
    assert [event["by"] for event in events] == [f"certificate:{second.leaf.serial}"]


async def test_a_token_with_another_fingerprint_is_not_shown_to_the_ca(ca: CaProcess) -> None:
    token = JoinToken.from_text(ca.token())
    wrong = JoinToken(token.id, token.secret, b"\x55" * 32)
    with pytest.raises(CaRefused, match="another fingerprint"):
        await ca.client().enrol(REVIEWS, new_key(), wrong.text())
    await ca.client().enrol(REVIEWS, new_key(), token.text())


async def test_an_impostor_who_shows_the_real_root_is_refused(ca: CaProcess, tmp_path: Path) -> None:
    """The root is no secret: its presence in the chain proves nothing unless the chain verifies."""
    token = ca.token()
    with impostor(tmp_path, ca.root_path.read_bytes()) as port:
        client = CaClient("127.0.0.1", port, port)
        with pytest.raises(CaRefused, match="not by the root it shows"):
            await client.enrol(REVIEWS, new_key(), token)
    await ca.client().enrol(REVIEWS, new_key(), token)


async def test_an_impostor_on_the_renewal_port_is_refused(ca: CaProcess, tmp_path: Path) -> None:
    issued = await enrol(ca)
    with impostor(tmp_path, b"") as port, pytest.raises(CaUnavailable):
        await CaClient("127.0.0.1", port, port).renew(REVIEWS, new_key(), issued.certificate, issued.trust_bundle_pem)


@contextmanager
def impostor(directory: Path, appended: bytes) -> Iterator[int]:
    """A TLS server for 127.0.0.1 with a good certificate by its own authority, then whatever is appended."""
    authority, key = Authority.open(directory, "cluster.local", time.time()), p256()
    names = (ipaddress.ip_address("127.0.0.1"),)
    certificate = authority.sign(server_template(key.public_key(), ("localhost",), names, Validity(60), time.time()))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = directory / "impostor.pem"
    path.write_bytes(pem + certificate.public_bytes(Encoding.PEM) + appended)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    context.set_alpn_protocols(["h2"])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_serve, args=(listener, context))
        thread.start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def _serve(listener: socket.socket, context: ssl.SSLContext) -> None:
    while True:
        try:
            plain, _ = listener.accept()
        except OSError:
            return
        try:
            with plain, context.wrap_socket(plain, server_side=True) as connection:
                connection.recv(1)
        except OSError:
            continue


async def test_no_tls_server_is_unavailable_not_refused(ca: CaProcess) -> None:
    token = ca.token()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(CaUnavailable, match="refused"):
            await CaClient("127.0.0.1", port, port).enrol(REVIEWS, new_key(), token)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(CaUnavailable, match="timed out"):
            await CaClient("127.0.0.1", port, port, timeout=0.3).enrol(REVIEWS, new_key(), token)


async def test_a_token_for_another_identity_is_refused_unspent(ca: CaProcess) -> None:
    token = ca.token(RATINGS.path)
    with pytest.raises(CaRefused, match="may only have ns/default/sa/ratings"):
        await ca.client().enrol(REVIEWS, new_key(), token)
    await ca.client().enrol(RATINGS, new_key(), token)


Code = grpc.StatusCode


def raw_channel(ca: CaProcess, port: int, certificate: Certificate | None = None) -> Any:
    root = ca.root_path.read_bytes()
    own = (certificate.key_pem, certificate.chain_pem) if certificate else (None, None)
    options = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.secure_channel(f"127.0.0.1:{port}", grpc.ssl_channel_credentials(root, *own), options=options)


async def status_of(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    details = caught.value.details() or ""
    assert "\n" not in details
    return caught.value.code(), details


@pytest.mark.parametrize(
    ("csr_pem", "token", "code"),
    [
        pytest.param(csr(), "", Code.UNAUTHENTICATED, id="no token"),
        pytest.param(csr(), "hmt1." + "0" * 12 + "." + "A" * 22 + "." + "A" * 43, Code.UNAUTHENTICATED, id="unknown"),
        pytest.param(csr(), "x" * 10_000, Code.UNAUTHENTICATED, id="long token"),
        pytest.param(b"", None, Code.INVALID_ARGUMENT, id="no CSR"),
        pytest.param(forged_csr(), None, Code.INVALID_ARGUMENT, id="forged CSR"),
        pytest.param(csr() + b"\n" * 20_000, None, Code.INVALID_ARGUMENT, id="long CSR"),
        pytest.param(b"\n" * 100_000, None, Code.RESOURCE_EXHAUSTED, id="long message"),
        pytest.param(csr(uris=("spiffe://x/y",)), None, Code.PERMISSION_DENIED, id="other identity"),
    ],
)
async def test_statuses(ca: CaProcess, csr_pem: bytes, token: str | None, code: grpc.StatusCode) -> None:
    request = ca_pb2.EnrolRequest(csr_pem=csr_pem, token=ca.token() if token is None else token)
    async with raw_channel(ca, ca.enrolment_port) as channel:
        assert (await status_of(ca_pb2_grpc.EnrolmentStub(channel).Enrol(request)))[0] is code


async def test_renewal_never_gives_another_identity(ca: CaProcess) -> None:
    issued = await enrol(ca)
    other = csr(uris=("spiffe://cluster.local/ns/default/sa/ratings",))
    async with raw_channel(ca, ca.renewal_port, issued.certificate) as channel:
        stub = ca_pb2_grpc.RenewalStub(channel)
        code, reason = await status_of(stub.Renew(ca_pb2.RenewRequest(csr_pem=other)))
        assert code is Code.PERMISSION_DENIED
        assert "ratings" in reason
        answer = await stub.Renew(ca_pb2.RenewRequest(csr_pem=greedy_csr()))
    text = openssl("x509", "-noout", "-text", text=answer.chain_pem.decode())
    assert "URI:spiffe://cluster.local/ns/default/sa/reviews" in text
    assert "bank.example" not in text


async def test_renewal_needs_a_certificate_of_this_ca(ca: CaProcess, tmp_path: Path) -> None:
    request = ca_pb2.RenewRequest(csr_pem=new_csr(new_key()))
    with CaProcess(tmp_path / "other") as other:
        foreign = (await enrol(other)).certificate
    for certificate in (None, foreign):
        async with raw_channel(ca, ca.renewal_port, certificate) as channel:
            code, _ = await status_of(ca_pb2_grpc.RenewalStub(channel).Renew(request, timeout=5))
            assert code is Code.UNAVAILABLE, "the handshake fails"


async def test_each_door_offers_its_own_service_only(ca: CaProcess) -> None:
    async with raw_channel(ca, ca.enrolment_port) as channel:
        renewal = ca_pb2_grpc.RenewalStub(channel).Renew(ca_pb2.RenewRequest(csr_pem=csr()))
        assert (await status_of(renewal))[0] is Code.UNIMPLEMENTED
        administration = ca_pb2_grpc.AdministrationStub(channel).ListTokens(ca_pb2.ListTokensRequest())
        assert (await status_of(administration))[0] is Code.UNIMPLEMENTED


def run_cli(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["ca", *arguments])
    return result.exit_code, result.output


async def test_tokens_by_the_command(ca: CaProcess) -> None:
    assert stat.S_IMODE(os.stat(ca.socket).st_mode) == 0o600
    socket_option = ("--socket", str(ca.socket))
    status, text = run_cli("token", "create", "--identity", RATINGS.path, "--ttl", "1h30m", *socket_option)
    assert status == 0
    token = JoinToken.from_text(text)
    await ca.client().enrol(RATINGS, new_key(), text)
    status, text = run_cli("token", "list", *socket_option)
    assert status == 0
    (line,) = [line for line in text.splitlines() if line.startswith(token.id)]
    assert line.split()[1:4] == [RATINGS.path, "used", "1/1"]
    assert run_cli("token", "create", "--identity", "ratings", *socket_option) == (
        1,
        "Error: identity: 'ratings' is not an identity: write ns/NAMESPACE/sa/ACCOUNT in small letters\n",
    )


def test_an_absent_socket_is_one_line(tmp_path: Path) -> None:
    status, text = run_cli("token", "list", "--socket", str(tmp_path / "none.sock"))
    assert status == 1
    assert len(text.splitlines()) == 1
    assert "run this on the machine where hostmesh-ca runs" in text


async def test_the_audit_log_has_a_line_for_each_event_and_no_secret(ca: CaProcess) -> None:
    text = ca.token()
    await ca.client().enrol(REVIEWS, new_key(), text)
    with pytest.raises(CaRefused, match="used up"):
        await ca.client().enrol(REVIEWS, new_key(), text)
    token_id, secret = text.split(".")[1:3]
    events = [line for line in ca.log() if token_id in str(line)]
    assert [event["message"] for event in events] == ["token created", "issued", "refused"]
    assert events[2]["status"] == "UNAUTHENTICATED"
    assert secret not in ca.log_path.read_text()


async def test_the_server_certificate_renews_itself(ca: CaProcess) -> None:
    """After more than its 4 s since start (other tests took part of them) both ports still answer."""
    records = [line for line in ca.log() if "server certificate" in line["message"]]
    assert not records, "nothing failed"
    issued = await enrol(ca)
    serials: set[str] = set()
    async with asyncio.timeout(15):
        while len(serials) < 3:
            issued = await ca.client().renew(REVIEWS, new_key(), issued.certificate, issued.trust_bundle_pem)
            serials.add(ssl.get_server_certificate(("127.0.0.1", ca.enrolment_port)))
            await asyncio.sleep(0.2)


async def test_the_trust_bundle_is_there_for_everybody(ca: CaProcess) -> None:
    credentials = grpc.ssl_channel_credentials(ca.root_path.read_bytes())
    async with grpc.aio.secure_channel(f"127.0.0.1:{ca.enrolment_port}", credentials) as channel:
        stub = ca_pb2_grpc.BundleStub(channel)
        bundle = await stub.Get(ca_pb2.GetBundleRequest(), timeout=10)
        assert bundle.roots_pem == ca.root_path.read_bytes()
        assert bundle.trust_domain == "cluster.local"
        first = await stub.Watch(ca_pb2.WatchBundleRequest(), timeout=10).read()
        assert first == bundle
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Watch(ca_pb2.WatchBundleRequest(version=bundle.version), timeout=1).read()
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED, "nothing new, so nothing is sent"
