"""Attacks on a real hostmesh-ca: each gets the right status and one line; nothing is signed, no secret is logged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.adapters.identity import IssuedChain, new_csr, new_key
from agent.adapters.identity.administration import CaAdministration
from agent.mesh.service import Identity
from node_ca.identity import WorkloadIdentity
from node_ca.proto import ca_pb2, istio_ca_pb2
from node_ca.proto.challenge import proof_payload
from node_ca.proto.token import JoinToken
from node_ca.request import CertificateRequest
from node_ca.signer import Signer
from node_ca.template import Validity, workload_template
from tests.integration.ca_process import CaProcess
from tests.integration.hostile_csrs import as_text, malformed, mismatched
from tests.unit.ca_files import key_file
from tests.unit.ca_requests import SPIFFE_ID, csr, p256
from tests.waiting import wait_for

REVIEWS = Identity("default", "reviews")
Code = grpc.StatusCode
_MANY = {"perSecond": 100_000, "burst": 1_000_000}
_ENROL = "/hostmesh.ca.v1.Enrolment/Enrol"
_LATE = "/hostmesh.ca.v1.Enrolment/RenewExpired"
_JWT = "/hostmesh.ca.v1.JwtIdentity/IssueJwt"
_ISTIO = "/istio.v1.auth.IstioCertificateService/CreateCertificate"


@dataclass
class Target:
    """A CA, and what its attacker has got hold of."""

    ca: CaProcess
    issued: IssuedChain
    revoked: IssuedChain
    spent_token: str
    foreign: CaProcess
    foreign_issued: IssuedChain

    async def call(self, method: str, request: bytes, *metadata: tuple[str, Any], compression: Any = None) -> bytes:
        """Make any call on the enrolment port."""
        credentials = grpc.ssl_channel_credentials(self.ca.root_path.read_bytes())
        async with grpc.aio.secure_channel(f"127.0.0.1:{self.ca.enrolment_port}", credentials) as channel:
            call = channel.unary_unary(method)(request, metadata=metadata, timeout=15, compression=compression)
            answer: bytes = await call
            return answer

    async def enrol(self, csr_pem: bytes, token: str | None = None, wanted: str = "", consul: str = "") -> bytes:
        token = self.ca.token() if token is None else token
        request = ca_pb2.EnrolRequest(csr_pem=csr_pem, token=token, identity=wanted, consul_token=consul)
        return await self.call(_ENROL, request.SerializeToString())

    async def istio(self, csr_text: str, *metadata: tuple[str, Any], seconds: int = 0) -> bytes:
        request = istio_ca_pb2.IstioCertificateRequest(csr=csr_text, validity_duration=seconds)
        return await self.call(_ISTIO, request.SerializeToString(), *metadata)

    async def renew(self, csr_pem: bytes, key: bytes | None, chain: bytes | None) -> Any:
        request = ca_pb2.RenewRequest(csr_pem=csr_pem)
        return await self.certified("/hostmesh.ca.v1.Renewal/Renew", request.SerializeToString(), key, chain)

    async def jwt(self, key: bytes | None, chain: bytes | None, *audience: str) -> Any:
        return await self.certified(_JWT, ca_pb2.IssueJwtRequest(audience=audience).SerializeToString(), key, chain)

    async def certified(self, method: str, request: bytes, key: bytes | None, chain: bytes | None) -> Any:
        """Make any call on the renewal port."""
        credentials = grpc.ssl_channel_credentials(self.ca.root_path.read_bytes(), key, chain)
        options = (("grpc.use_local_subchannel_pool", 1),)
        async with grpc.aio.secure_channel(
            f"127.0.0.1:{self.ca.renewal_port}", credentials, options=options
        ) as channel:
            return await channel.unary_unary(method)(request, timeout=5)

    async def nonce(self) -> bytes:
        answer = await self.call("/hostmesh.ca.v1.Enrolment/Challenge", b"")
        return ca_pb2.ChallengeResponse.FromString(answer).nonce

    async def late(self, chain: bytes, key: bytes, nonce: bytes, /, **changed: bytes) -> bytes:
        """Renew late, with everything in order but what is changed."""
        csr_pem = csr()
        signing = serialization.load_pem_private_key(key, None)
        assert isinstance(signing, ec.EllipticCurvePrivateKey)
        signature = signing.sign(proof_payload(nonce, csr_pem), ec.ECDSA(hashes.SHA256()))
        fields = {"csr_pem": csr_pem, "chain_pem": chain, "nonce": nonce, "signature": signature}
        return await self.call(_LATE, ca_pb2.RenewExpiredRequest(**(fields | changed)).SerializeToString())


Attack = Callable[[Target], Awaitable[object]]
ATTACKS: list[Any] = []


def attack(name: str, code: grpc.StatusCode, make: Attack) -> None:
    ATTACKS.append(pytest.param(make, code, id=name))


def with_csr(pem: bytes) -> Attack:
    return lambda target: target.enrol(pem)


def with_token(make: Callable[[Target], str]) -> Attack:
    return lambda target: target.enrol(csr(), make(target))


def with_bearer(make: Callable[[Target], str], pem: bytes | None = None) -> Attack:
    return lambda t: t.istio(as_text(pem or csr()), ("authorization", f"Bearer {make(t)}"))


MALFORMED, MISMATCHED = malformed(), mismatched()
for name in MALFORMED:
    attack(f"CSR: {name}", Code.INVALID_ARGUMENT, with_csr(MALFORMED[name]))
for name in MISMATCHED:
    attack(f"CSR for {name}", Code.PERMISSION_DENIED, with_csr(MISMATCHED[name]))
for name in ("noise", "text", "a key swapped in", "nested 2,000 deep"):
    attack(f"Istio's CSR: {name}", Code.INVALID_ARGUMENT, with_bearer(lambda t: t.ca.token(), MALFORMED[name]))

UNKNOWN = JoinToken.new(bytes(32)).text()
TOKENS: dict[str, Callable[[Target], str]] = {
    "none": lambda t: "",
    "noise": lambda t: "\x00\x01\x7f",
    "unknown": lambda t: UNKNOWN,
    "another CA's": lambda t: t.foreign.token(),
    "cut off": lambda t: t.ca.token()[:-1],
    "longer": lambda t: t.ca.token() + "A",
    "of another version": lambda t: t.ca.token().replace("hmt1", "hmt2"),
    "without its secret": lambda t: ".".join((*t.ca.token().split(".")[:2], "", t.ca.token().split(".")[3])),
    "with another's secret": lambda t: t.ca.token()[:18] + t.ca.token()[18:],
    "with SQL": lambda t: t.ca.token().replace("hmt1.", "hmt1.' OR 1=1 --"),
    "with a line break": lambda t: t.ca.token().replace(".", ".\n", 1),
    "other alphabet": lambda t: t.ca.token().translate(str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")),
    "5,000 characters": lambda t: "hmt1." + "a" * 5000,
    "used up": lambda t: t.spent_token,
    "expired": lambda t: _expired_token(t),
    "revoked": lambda t: _revoked_token(t),
}
for name in TOKENS:
    attack(f"token {name}", Code.UNAUTHENTICATED, with_token(TOKENS[name]))
    if name not in ("noise", "with a line break", "other alphabet"):  # which cannot be metadata
        attack(f"Istio's bearer {name}", Code.UNAUTHENTICATED, with_bearer(TOKENS[name]))
attack("token for another identity", Code.PERMISSION_DENIED, lambda t: t.enrol(csr(), None, "ns/default/sa/ratings"))
attack("two kinds of token", Code.INVALID_ARGUMENT, lambda t: t.enrol(csr(), None, consul="x"))
attack("Consul's token where none is taken", Code.UNAUTHENTICATED, lambda t: t.enrol(csr(), "", consul="x"))
attack("Istio: no bearer", Code.UNAUTHENTICATED, lambda t: t.istio(csr().decode()))
attack("Istio: Basic", Code.UNAUTHENTICATED, lambda t: t.istio(csr().decode(), ("authorization", "Basic eDp5")))
attack(
    "Istio: two bearers",
    Code.UNAUTHENTICATED,
    lambda t: t.istio(csr().decode(), *[("authorization", f"Bearer {t.ca.token()}")] * 2),
)
attack(
    "Istio: less than no time",
    Code.INVALID_ARGUMENT,
    lambda t: t.istio(csr().decode(), ("authorization", f"Bearer {t.ca.token()}"), seconds=-1),
)

attack("renewal without a certificate", Code.UNAVAILABLE, lambda t: t.renew(csr(), None, None))
attack("renewal by another CA's", Code.UNAVAILABLE, lambda t: t.renew(csr(), *_pair(t.foreign_issued)))
attack("renewal by a certificate of its own making", Code.UNAVAILABLE, lambda t: t.renew(csr(), *_self_made()))
attack("renewal by a workload's issue", Code.UNAVAILABLE, lambda t: t.renew(csr(), *_issued_by_workload(t)))
attack("renewal by a revoked certificate", Code.PERMISSION_DENIED, lambda t: t.renew(csr(), *_pair(t.revoked)))
attack("renewal with noise", Code.INVALID_ARGUMENT, lambda t: t.renew(b"\0", *_pair(t.issued)))
attack(
    "renewal for another identity",
    Code.PERMISSION_DENIED,
    lambda t: t.renew(csr(uris=("spiffe://cluster.local/ns/default/sa/ratings",)), *_pair(t.issued)),
)

attack("token without a certificate", Code.UNAVAILABLE, lambda t: t.jwt(None, None, "db"))
attack("token by another CA's", Code.UNAVAILABLE, lambda t: t.jwt(*_pair(t.foreign_issued), "db"))
attack("token by a workload's issue", Code.UNAVAILABLE, lambda t: t.jwt(*_issued_by_workload(t), "db"))
attack("token by a revoked certificate", Code.PERMISSION_DENIED, lambda t: t.jwt(*_pair(t.revoked), "db"))
attack("token on the enrolment port", Code.UNIMPLEMENTED, lambda t: t.call(_JWT, b"\x0a\x02db"))
attack("token for nobody", Code.INVALID_ARGUMENT, lambda t: t.jwt(*_pair(t.issued)))
attack("token for too many", Code.INVALID_ARGUMENT, lambda t: t.jwt(*_pair(t.issued), *map(str, range(1000))))
attack("token for a long name", Code.INVALID_ARGUMENT, lambda t: t.jwt(*_pair(t.issued), "x" * 10_000))
attack("token with a line in its audience", Code.INVALID_ARGUMENT, lambda t: t.jwt(*_pair(t.issued), "db\n{}"))
attack("token with noise", Code.INVALID_ARGUMENT, lambda t: t.certified(_JWT, b"\xff\xff", *_pair(t.issued)))


async def late_with(target: Target, **changed: bytes) -> bytes:
    key, chain = _pair(target.issued)
    return await target.late(chain, key, await target.nonce(), **changed)


async def late_by(target: Target, key: bytes, chain: bytes) -> bytes:
    return await target.late(chain, key, await target.nonce())


attack("late: no nonce", Code.UNAUTHENTICATED, lambda t: late_with(t, nonce=b""))
attack("late: a nonce of its own", Code.UNAUTHENTICATED, lambda t: late_with(t, nonce=bytes(56)))
attack("late: no signature", Code.UNAUTHENTICATED, lambda t: late_with(t, signature=b""))
attack("late: signature of noughts", Code.UNAUTHENTICATED, lambda t: late_with(t, signature=bytes(72)))
attack("late: signed for another CSR", Code.UNAUTHENTICATED, lambda t: late_with(t, csr_pem=csr()))
attack("late: no certificate", Code.INVALID_ARGUMENT, lambda t: late_with(t, chain_pem=b""))
attack("late: 40 KB of certificates", Code.INVALID_ARGUMENT, lambda t: late_with(t, chain_pem=b"x" * 40_000))
attack("late: another's certificate", Code.UNAUTHENTICATED, lambda t: late_with(t, chain_pem=_pair(t.revoked)[1]))
attack("late: not late", Code.PERMISSION_DENIED, lambda t: late_by(t, *_pair(t.issued)))
attack("late: revoked", Code.PERMISSION_DENIED, lambda t: late_by(t, *_pair(t.revoked)))
attack("late: another CA's", Code.PERMISSION_DENIED, lambda t: late_by(t, *_pair(t.foreign_issued)))
attack("late: of its own making", Code.PERMISSION_DENIED, lambda t: late_by(t, *_self_made()))

attack("message: no message", Code.INVALID_ARGUMENT, lambda t: t.call(_ENROL, b"\xff\xff\xff\xff"))
attack("message: text that is none", Code.INVALID_ARGUMENT, lambda t: t.call(_ENROL, b"\x12\x02\xff\xfe"))
attack("message: longer than itself", Code.INVALID_ARGUMENT, lambda t: t.call(_ENROL, b"\x0a\x7fabc"))
attack("message: empty", Code.UNAUTHENTICATED, lambda t: t.call(_ENROL, b""))
attack("message: 100 KB", Code.RESOURCE_EXHAUSTED, lambda t: t.call(_ENROL, b"\x0a\xa0\x8d\x06" + bytes(100_000)))
attack(
    "message: 30 MB in a small one",
    Code.RESOURCE_EXHAUSTED,
    lambda t: t.call(_ENROL, bytes(30_000_000), compression=grpc.Compression.Gzip),
)
attack("metadata: 20 KB", Code.RESOURCE_EXHAUSTED, lambda t: t.call(_ENROL, b"", ("x-long", "a" * 20_000)))
attack(
    "method: administration", Code.UNIMPLEMENTED, lambda t: t.call("/hostmesh.ca.v1.Administration/CreateToken", b"")
)
attack("method: renewal", Code.UNIMPLEMENTED, lambda t: t.call("/hostmesh.ca.v1.Renewal/Renew", b""))
attack("method: none", Code.UNIMPLEMENTED, lambda t: t.call("/a/b", b""))


def test_there_are_enough_attacks() -> None:
    assert len(ATTACKS) >= 60


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder, limits = tmp_path_factory.mktemp("ca"), {"perCaller": _MANY, "total": _MANY}
    jwt = {"keyFile": key_file(folder, "jwt-key")}
    with CaProcess(folder / "ca", lifetime="1h", limits=limits, jwt=jwt) as ca, CaProcess(folder / "other") as foreign:
        spent = ca.token()
        asyncio.run(ca.client().enrol(REVIEWS, new_key(), spent))
        revoked = asyncio.run(_enrolled(ca))
        CaAdministration(str(ca.socket)).revoke(revoked.leaf.serial, "", "")
        yield Target(ca, asyncio.run(_enrolled(ca)), revoked, spent, foreign, asyncio.run(_enrolled(foreign)))


async def _enrolled(ca: CaProcess) -> IssuedChain:
    return await ca.client().enrol(REVIEWS, new_key(), ca.token())


@asynccontextmanager
async def nothing_signed(ca: CaProcess) -> AsyncIterator[None]:
    before = _signed(ca)
    yield
    assert _signed(ca) == before


def _signed(ca: CaProcess) -> tuple[set[str], int]:
    """Return the serial numbers of all certificates, and how many tokens there have been."""
    serials = {info.serial for info in CaAdministration(str(ca.socket)).certificates(expired=True)}
    return serials, ca.log_path.read_text().count('"jwt issued"')


@pytest.mark.parametrize(("make", "code"), ATTACKS)
async def test_attack(target: Target, make: Attack, code: grpc.StatusCode) -> None:
    async with nothing_signed(target.ca):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await make(target)
        assert caught.value.code() is code, caught.value.details()
        assert len((caught.value.details() or "").splitlines()) == 1


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([_ENROL, _LATE, _ISTIO, "/hostmesh.ca.v1.Bundle/Get"]), st.binary(max_size=300))
def test_fuzzed_messages(target: Target, method: str, request: bytes) -> None:
    answer = asyncio.run(outcome(target.call(method, request)))
    if isinstance(answer, bytes):
        assert method.endswith("/Get")
    else:
        assert answer[0] in (Code.INVALID_ARGUMENT, Code.UNAUTHENTICATED), answer
        assert "\n" not in answer[1]


async def outcome(call: Awaitable[bytes]) -> bytes | tuple[grpc.StatusCode, str]:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 400), st.integers(1, 255), st.booleans())
def test_fuzzed_requests_of_the_entitled(target: Target, at: int, change: int, cut: bool) -> None:
    """A good CSR, damaged: the certificate, if there is one, is still for the caller's own identity and key."""
    pem = new_csr(new_key())
    at %= len(pem)
    damaged = pem[:at] if cut else pem[:at] + bytes([pem[at] ^ change]) + pem[at + 1 :]

    answer = asyncio.run(outcome(target.enrol(damaged)))
    if not isinstance(answer, bytes):
        assert answer[0] in (Code.INVALID_ARGUMENT, Code.PERMISSION_DENIED), answer
        return
    leaf = x509.load_pem_x509_certificate(ca_pb2.IssuedCertificate.FromString(answer).chain_pem)
    assert leaf.public_key() == x509.load_pem_x509_csr(damaged).public_key()
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names == x509.SubjectAlternativeName([x509.UniformResourceIdentifier(SPIFFE_ID)])


async def test_after_all_attacks_it_serves_and_has_told_no_secret(target: Target) -> None:
    await _enrolled(target.ca)
    assert await target.jwt(*_pair(target.issued), "db")
    target.ca.log()  # every line is JSON
    text = target.ca.log_path.read_text()
    assert target.spent_token.split(".")[2] not in text
    assert "PRIVATE KEY" not in text
    assert "Traceback" not in text
    assert all(len(line) < 1000 for line in text.splitlines())


def _pair(issued: IssuedChain) -> tuple[bytes, bytes]:
    return issued.certificate.key_pem, issued.certificate.chain_pem


def _expired_token(target: Target) -> str:
    token, record = CaAdministration(str(target.ca.socket)).create_token("ns/default/sa/reviews", 1, 1)
    wait_for(lambda: time.time() > record.expires_at + 0.01, "the token has ended (the CA's clock is ours)")
    return token


def _revoked_token(target: Target) -> str:
    token = target.ca.token()
    CaAdministration(str(target.ca.socket)).revoke_token(token.split(".")[1])
    return token


def _self_made() -> tuple[bytes, bytes]:
    """A certificate with the right name by an authority with the right name, and none of ours."""
    key = p256()
    return _pem(key), _made(key, Signer(key, (_root(key),)))


def _root(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hostmesh root cluster.local")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=365))
    return builder.sign(key, hashes.SHA256())


def _issued_by_workload(target: Target) -> tuple[bytes, bytes]:
    """A certificate that a workload signed with its own key, as if it were an authority."""
    key_pem, chain = _pair(target.issued)
    signing = serialization.load_pem_private_key(key_pem, None)
    assert isinstance(signing, ec.EllipticCurvePrivateKey)
    key = p256()
    return _pem(key), _made(key, Signer(signing, (x509.load_pem_x509_certificate(chain),))) + chain


def _made(key: ec.EllipticCurvePrivateKey, authority: Signer) -> bytes:
    request = CertificateRequest.from_pem(csr(key))
    identity = WorkloadIdentity("default", "reviews")
    template = workload_template(request, identity, "cluster.local", Validity(3600), time.time())
    return authority.sign(template).public_bytes(Encoding.PEM)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
