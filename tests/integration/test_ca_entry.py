"""The CA's other ways in and out: operators' commands, Istio's clients, late renewal, health, reflection, metrics."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from agent.adapters.identity import IssuedChain, new_csr, new_key
from agent.cli.main import cli
from agent.mesh.service import Identity
from node_ca.proto import ca_pb2, ca_pb2_grpc, istio_ca_pb2, istio_ca_pb2_grpc
from node_ca.proto.challenge import proof_payload
from tests.integration.ca_process import CaProcess
from tests.unit.ca_requests import csr
from tests.waiting import wait_for

REVIEWS = Identity("default", "reviews")
Code = grpc.StatusCode


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CaProcess]:
    with CaProcess(tmp_path_factory.mktemp("ca"), lifetime="60s", limits={"perCaller": {"burst": 2000}}) as process:
        yield process


def enrolment_channel(ca: CaProcess) -> Any:
    credentials = grpc.ssl_channel_credentials(ca.root_path.read_bytes())
    return grpc.aio.secure_channel(f"127.0.0.1:{ca.enrolment_port}", credentials)


async def status_of(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert "\n" not in caught.value.details()
    return caught.value.code(), caught.value.details()


def command(ca: CaProcess, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["ca", *arguments, "--socket", str(ca.socket)])
    return result.exit_code, result.output


async def enrol(ca: CaProcess, identity: Identity = REVIEWS) -> IssuedChain:
    return await ca.client().enrol(identity, new_key(), ca.token(identity.path))


def records(ca: CaProcess, *arguments: str) -> list[dict[str, Any]]:
    status, text = command(ca, "cert", "list", "-o", "json", *arguments)
    assert status == 0, text
    found: list[dict[str, Any]] = json.loads(text)
    return found


def verify(root: Path, chain: Path) -> None:
    command = ["openssl", "verify", "-x509_strict", "-CAfile", str(root), str(chain)]
    assert subprocess.run(command, capture_output=True, check=True, timeout=20).stdout.endswith(b": OK\n")


async def ended(issued: IssuedChain) -> None:
    """Wait until the certificate has ended; the CA's clock is ours."""
    await asyncio.sleep(max(0.0, issued.leaf.not_after - time.time()) + 0.01)


async def test_a_certificate_without_an_agent(ca: CaProcess, tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    arguments = ("cert", "issue", "--identity", "ns/default/sa/printer", "--lifetime", "2h", "--out", str(folder))
    status, text = command(ca, *arguments)
    assert status == 0, text
    for name in ("key.pem", "cert-chain.pem", "root-cert.pem"):
        assert stat.S_IMODE(os.stat(folder / name).st_mode) == 0o600
    verify(folder / "root-cert.pem", folder / "cert-chain.pem")
    leaf = x509.load_pem_x509_certificate((folder / "cert-chain.pem").read_bytes())
    assert 7190 < leaf.not_valid_after_utc.timestamp() - time.time() < 7210
    key = serialization.load_pem_private_key((folder / "key.pem").read_bytes(), None)
    assert key.public_key() == leaf.public_key()
    (record,) = records(ca, "--identity", "ns/default/sa/printer")
    assert (record["issuedBy"], int(record["serial"], 16)) == ("admin", leaf.serial_number)
    assert record["fingerprint"] == leaf.fingerprint(hashes.SHA256()).hex()
    status, text = command(ca, *arguments)
    assert status == 1
    assert "--force" in text
    assert command(ca, *arguments, "--force")[0] == 0


async def test_a_revoked_certificate_is_in_the_bundle_at_once_and_cannot_renew(ca: CaProcess) -> None:
    kept, lost = await enrol(ca), await enrol(ca)
    async with enrolment_channel(ca) as channel:
        stub = ca_pb2_grpc.BundleStub(channel)
        before = await stub.Get(ca_pb2.GetBundleRequest(), timeout=10)
        watch = stub.Watch(ca_pb2.WatchBundleRequest(version=before.version), timeout=30)
        changed = asyncio.ensure_future(watch.read())
        text = ":".join(lost.leaf.serial[i : i + 2] for i in range(0, 32, 2)).upper()  # as openssl writes it
        status, output = await asyncio.to_thread(command, ca, "cert", "revoke", text, "--reason", "stolen")
        assert status == 0, output
        began = time.monotonic()
        after = await changed
        assert time.monotonic() - began < 5
    (entry,) = [entry for entry in after.revoked if entry.serial == lost.leaf.serial]
    assert entry.identity == REVIEWS.path
    leaf = x509.load_pem_x509_certificate(lost.certificate.chain_pem)
    assert entry.fingerprint == leaf.fingerprint(hashes.SHA256()).hex()
    code, reason = await status_of(renewal(ca, lost))
    assert code is Code.PERMISSION_DENIED
    assert "revoked" in reason
    await renewal(ca, kept)
    assert command(ca, "cert", "revoke", lost.leaf.serial) == (0, "Nothing to do: revoked before\n")
    status, text = command(ca, "cert", "show", lost.leaf.serial, "-o", "json")
    assert json.loads(text)["revokedFor"] == "stolen"


async def renewal(ca: CaProcess, issued: IssuedChain) -> Any:
    present = issued.certificate
    credentials = grpc.ssl_channel_credentials(issued.trust_bundle_pem, present.key_pem, present.chain_pem)
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.secure_channel(f"127.0.0.1:{ca.renewal_port}", credentials, options=options) as channel:
        request = ca_pb2.RenewRequest(csr_pem=new_csr(new_key()))
        return await ca_pb2_grpc.RenewalStub(channel).Renew(request, timeout=10)


async def test_revoking_an_identity_takes_all_its_certificates_and_tokens(ca: CaProcess) -> None:
    thief, other = Identity("default", "thief"), Identity("default", "honest")
    mine, token = [await enrol(ca, thief) for _ in range(3)], ca.token(thief.path)
    await enrol(ca, other)
    status, text = command(ca, "cert", "revoke", "--identity", thief.path)
    assert status == 0
    assert text.count("Revoked certificate") == len(mine)
    assert text.count("Revoked join token") == len(mine) + 1, "used ones, too: their keys might come again"
    assert {record["serial"] for record in records(ca, "--revoked", "--identity", thief.path)} == {
        issued.leaf.serial for issued in mine
    }
    assert not records(ca, "--revoked", "--identity", other.path)
    request = ca_pb2.EnrolRequest(csr_pem=csr(), token=token)
    async with enrolment_channel(ca) as channel:
        code, reason = await status_of(ca_pb2_grpc.EnrolmentStub(channel).Enrol(request, timeout=10))
    assert (code, "revoked" in reason) == (Code.UNAUTHENTICATED, True)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("cert", "revoke", "ab" * 16), "no such certificate"),
        (("cert", "revoke", "nonsense"), "not a serial number"),
        (("cert", "revoke"), "one of the two"),
        (("cert", "revoke", "--identity", "ns/default/sa/nobody-yet"), "no such certificate"),
        (("cert", "show", "ab" * 16), "no such certificate"),
        (("cert", "list", "--identity", "reviews"), "write ns/NAMESPACE/sa/ACCOUNT"),
        (("cert", "issue", "--identity", "reviews", "--out", "unwritten"), "write ns/NAMESPACE/sa/ACCOUNT"),
        (("cert", "issue", "--identity", REVIEWS.path, "--lifetime", "900d", "--out", "unwritten"), "lifetime"),
        (("token", "revoke", "000000000000"), "there is none"),
    ],
)
def test_mistaken_commands_are_one_line(ca: CaProcess, arguments: tuple[str, ...], reason: str) -> None:
    status, text = command(ca, *arguments)
    assert status == 1
    assert len(text.splitlines()) == 1
    assert reason in text
    assert not Path("unwritten").exists()


def test_a_revoked_token_is_listed_so(ca: CaProcess) -> None:
    token_id = ca.token().split(".")[1]
    assert command(ca, "token", "revoke", token_id)[0] == 0
    lines = [line.split() for line in command(ca, "token", "list")[1].splitlines()]
    assert [line[2] for line in lines if line[0] == token_id] == ["revoked"]


async def istio(ca: CaProcess, csr_pem: bytes, *metadata: tuple[str, str], seconds: int = 0) -> Any:
    async with enrolment_channel(ca) as channel:
        # The message as bytes, by the field numbers of Istio's own definition: it must not matter whose stubs are used.
        request = (
            bytes([0x0A]) + _varint(len(csr_pem)) + csr_pem + (bytes([0x18]) + _varint(seconds) if seconds else b"")
        )
        call = channel.unary_unary("/istio.v1.auth.IstioCertificateService/CreateCertificate")
        answer = await call(request, metadata=metadata, timeout=10)
        return istio_ca_pb2.IstioCertificateResponse.FromString(answer).cert_chain


def _varint(number: int) -> bytes:
    low = bytes([number & 0x7F | (0x80 if number > 0x7F else 0)])
    return low + _varint(number >> 7) if number > 0x7F else low


async def test_istios_clients_get_certificates(ca: CaProcess, tmp_path: Path) -> None:
    token = ca.token()
    uri = "spiffe://cluster.local/ns/default/sa/reviews"
    chain = await istio(ca, csr(uris=(uri,)), ("authorization", f"Bearer {token}"), seconds=20)
    assert chain[-1] == ca.root_path.read_text(), "the root comes last"
    (tmp_path / "leaf.pem").write_text(chain[0])
    verify(ca.root_path, tmp_path / "leaf.pem")
    leaf = x509.load_pem_x509_certificate(chain[0].encode())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [uri]
    assert leaf.not_valid_after_utc.timestamp() - time.time() < 25


@pytest.mark.parametrize("metadata", [(), (("authorization", "Basic eA=="),), (("authorization", "Bearer x"),)])
async def test_istios_clients_need_a_token(ca: CaProcess, metadata: tuple[tuple[str, str], ...]) -> None:
    code, _ = await status_of(istio(ca, csr(), *metadata))
    assert code is Code.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("metadata", "code"),
    [
        ({"CertSigner": ""}, Code.OK),  # as Istio's agent sends it
        ({"CertSigner": None}, Code.OK),
        ({"CertSigner": "other"}, Code.INVALID_ARGUMENT),
        ({"ImpersonatedIdentity": "spiffe://cluster.local/ns/default/sa/ratings"}, Code.INVALID_ARGUMENT),
        ({"a": {"b": ""}}, Code.INVALID_ARGUMENT),
        ({"a": 0}, Code.INVALID_ARGUMENT),
    ],
)
async def test_wishes_in_istios_metadata_are_refused_by_name(
    ca: CaProcess, metadata: dict[str, Any], code: grpc.StatusCode
) -> None:
    request = istio_ca_pb2.IstioCertificateRequest(csr=csr().decode())
    request.metadata.update(metadata)
    async with enrolment_channel(ca) as channel:
        stub = istio_ca_pb2_grpc.IstioCertificateServiceStub(channel)
        call = stub.CreateCertificate(request, metadata=(("authorization", f"Bearer {ca.token()}"),), timeout=10)
        if code is Code.OK:
            assert (await call).cert_chain
        else:
            answer = await status_of(call)
            assert answer == (code, f"metadata.{next(iter(metadata))}: not supported; leave it out")


async def test_a_long_validity_is_cut_down(ca: CaProcess) -> None:
    chain = await istio(ca, csr(), ("authorization", f"Bearer {ca.token()}"), seconds=10**9)
    leaf = x509.load_pem_x509_certificate(chain[0].encode())
    assert leaf.not_valid_after_utc.timestamp() - time.time() <= 62


async def test_health_and_reflection(ca: CaProcess) -> None:
    async with enrolment_channel(ca) as channel:
        checks = health_pb2_grpc.HealthStub(channel)
        for name in ("", "hostmesh.ca.v1.Enrolment", "istio.v1.auth.IstioCertificateService"):
            answer = await checks.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(timeout=10)
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        listed = {service.name for service in (await call.read()).list_services_response.service}
    assert {"hostmesh.ca.v1.Enrolment", "hostmesh.ca.v1.Bundle", "istio.v1.auth.IstioCertificateService"} <= listed
    assert "hostmesh.ca.v1.Administration" not in listed


def metrics(ca: CaProcess) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{ca.metrics_port}/metrics", timeout=10) as answer:
        lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


async def test_metrics(ca: CaProcess) -> None:
    before = metrics(ca)
    await enrol(ca)
    with pytest.raises(grpc.aio.AioRpcError):
        await istio(ca, csr())

    def counted(name: str) -> bool:
        return metrics(ca).get(name, 0.0) - before.get(name, 0.0) == 1

    for name in (
        'hostmesh_ca_issued_total{by="token"}',
        'hostmesh_ca_refused_total{call="CreateCertificate",reason="unauthenticated"}',
        'hostmesh_ca_call_seconds_count{call="Enrol",status="OK"}',
        'hostmesh_ca_call_seconds_count{call="CreateCertificate",status="UNAUTHENTICATED"}',
    ):
        # A call is counted once it is over, a moment after its answer.
        wait_for(partial(counted, name), name)
    assert 3649 < metrics(ca)["hostmesh_ca_issuer_days_left"] < 3651


async def test_late_renewal_is_for_once(tmp_path: Path) -> None:
    with CaProcess(tmp_path / "ca", lifetime="2s", graceRenewal="1h") as ca:
        issued, neighbour = await enrol(ca), await enrol(ca)
        early = await status_of(late(ca, issued, new_key()))
        assert early == (Code.PERMISSION_DENIED, "certificate: has not ended; renew it on the renewal port")
        await ended(issued)
        code, _ = await status_of(late(ca, issued, new_key(), signer=neighbour))
        assert code is Code.UNAUTHENTICATED, "another key's signature"
        key = new_key()
        answer = await late(ca, issued, key)
        renewed = x509.load_pem_x509_certificate(answer.chain_pem)
        names = renewed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.UniformResourceIdentifier) == list(issued.leaf.uris)
        await late(ca, issued, key)  # its answer may have been lost: the same new key may come again
        code, reason = await status_of(late(ca, issued, new_key()))
        assert (code, "once" in reason) == (Code.PERMISSION_DENIED, True)
        command(ca, "cert", "revoke", neighbour.leaf.serial)
        assert (await status_of(late(ca, neighbour, new_key())))[0] is Code.PERMISSION_DENIED
        events = [line for line in ca.log() if line["message"] == "issued late"]
        assert [event["by"] for event in events] == [f"expired:{issued.leaf.serial}"] * 2
    with CaProcess(tmp_path / "strict", lifetime="2s", graceRenewal="0s") as ca:
        issued = await enrol(ca)
        await ended(issued)
        code, reason = await status_of(late(ca, issued, new_key()))
        assert (code, "graceRenewal" in reason) == (Code.PERMISSION_DENIED, True)


async def late(ca: CaProcess, issued: IssuedChain, key: bytes, signer: IssuedChain | None = None) -> Any:
    csr_pem = new_csr(key)
    signing = serialization.load_pem_private_key((signer or issued).certificate.key_pem, None)
    assert isinstance(signing, ec.EllipticCurvePrivateKey)
    async with enrolment_channel(ca) as channel:
        stub = ca_pb2_grpc.EnrolmentStub(channel)
        nonce = (await stub.Challenge(ca_pb2.ChallengeRequest(), timeout=10)).nonce
        request = ca_pb2.RenewExpiredRequest(
            csr_pem=csr_pem,
            chain_pem=issued.certificate.chain_pem,
            nonce=nonce,
            signature=signing.sign(proof_payload(nonce, csr_pem), ec.ECDSA(hashes.SHA256())),
        )
        answer = await stub.RenewExpired(request, timeout=10)
        replayed = await status_of(stub.RenewExpired(request, timeout=10))
        assert replayed[0] is Code.UNAUTHENTICATED, "a nonce counts once"
        return answer
