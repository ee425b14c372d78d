"""Plugged-in issuers, revocation lists and root rotation on a real hostmesh-ca, seen from outside: by openssl too."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner, Result
from cryptography import x509

from agent.adapters.identity import CaClient, IssuedChain, new_key
from agent.cli.main import cli
from agent.mesh.service import Identity
from node_ca.proto import ca_pb2, ca_pb2_grpc
from tests.integration.ca_process import CaProcess
from tests.unit.ca_files import Shape, files_of, make_ca, rsa_key, write_files

REVIEWS = Identity("default", "reviews")
PASSPHRASE = b"correct horse"


@pytest.fixture
def ca(tmp_path: Path) -> Iterator[CaProcess]:
    with CaProcess(tmp_path / "ca") as process:
        yield process


def openssl(*arguments: str | Path) -> str:
    """Run openssl; return what it says, failed or not."""
    done = subprocess.run(["openssl", *arguments], input=b"", capture_output=True, timeout=20, check=False)
    return (done.stdout + done.stderr).decode("latin-1")


def operator(ca: CaProcess, *arguments: str) -> Result:
    """Run `hostmesh ca root …`; no Consul is there."""
    environment = {"CONSUL_HTTP_ADDR": "127.0.0.1:1"}
    return CliRunner().invoke(cli, ["ca", "root", *arguments, "--socket", str(ca.socket)], env=environment)


async def bundle_of(ca: CaProcess, roots: bytes) -> ca_pb2.TrustBundle:
    """Ask the Bundle service, trusting these roots."""
    credentials = grpc.ssl_channel_credentials(roots)
    async with grpc.aio.secure_channel(f"127.0.0.1:{ca.enrolment_port}", credentials) as channel:
        bundle: ca_pb2.TrustBundle = await ca_pb2_grpc.BundleStub(channel).Get(ca_pb2.GetBundleRequest(), timeout=5)
        return bundle


async def enrol(ca: CaProcess) -> IssuedChain:
    return await ca.client().enrol(REVIEWS, new_key(), ca.token(REVIEWS.path))


def verified(folder: Path, bundle: ca_pb2.TrustBundle, issued: IssuedChain, seconds_off: int = 0) -> str:
    """Return what `openssl verify` says of a certificate, by the bundle's roots and lists and a clock so far off."""
    (folder / "roots").write_bytes(bundle.roots_pem)
    (folder / "crls").write_bytes(bundle.crls_pem)
    (folder / "chain").write_bytes(issued.certificate.chain_pem)
    trust = ("-CAfile", folder / "roots", "-CRLfile", folder / "crls", "-untrusted", folder / "chain")
    moment = ("-attime", str(int(time.time()) + seconds_off))
    return openssl("verify", "-x509_strict", "-crl_check", *moment, *trust, folder / "chain")


async def test_the_bundle_has_the_list_of_what_was_revoked(ca: CaProcess, tmp_path: Path) -> None:
    gone, stays = await enrol(ca), await enrol(ca)
    root = ca.root_path.read_bytes()
    before = await bundle_of(ca, root)
    assert verified(tmp_path, before, gone).endswith(": OK\n")
    arguments = ["ca", "cert", "revoke", f"{gone.leaf.serial:0>32}", "--socket", str(ca.socket)]
    assert CliRunner().invoke(cli, arguments).exit_code == 0
    after = await bundle_of(ca, root)
    assert after.version != before.version
    assert "certificate revoked" in verified(tmp_path, after, gone)
    assert verified(tmp_path, after, stays).endswith(": OK\n")
    said = openssl("crl", "-in", tmp_path / "crls", "-noout", "-text", "-CAfile", tmp_path / "roots")
    assert "verify OK" in said
    assert f"{gone.leaf.serial:0>32}".upper().lstrip("0") in said
    crl, certificate = x509.load_pem_x509_crl(after.crls_pem), x509.load_pem_x509_certificate(root)
    assert crl.next_update_utc == certificate.not_valid_after_utc
    ca.kill()
    ca.start()
    assert (await bundle_of(ca, root)).version == after.version, "a start changes nothing"


async def test_hosts_whose_clock_is_off_believe_what_is_new(tmp_path: Path) -> None:
    """All of a host's programs: a certificate and a list of this moment, of a root of this moment."""
    with CaProcess(tmp_path / "ca", lifetime="10m") as ca:
        issued, gone = await enrol(ca), await enrol(ca)
        arguments = ["ca", "cert", "revoke", f"{gone.leaf.serial:0>32}", "--socket", str(ca.socket)]
        assert CliRunner().invoke(cli, arguments).exit_code == 0
        bundle = await bundle_of(ca, ca.root_path.read_bytes())
    for seconds_off in (-120, 120):
        assert verified(tmp_path, bundle, issued, seconds_off).endswith(": OK\n")
        assert "certificate revoked" in verified(tmp_path, bundle, gone, seconds_off)


async def test_a_plugged_in_encrypted_rsa_issuer_below_a_root(tmp_path: Path) -> None:
    root = make_ca("their root", key=rsa_key())
    issuer = make_ca("their issuer", root, Shape(path_length=0), key=rsa_key())
    given = write_files(tmp_path / "cacerts", files_of(issuer, root, passphrase=PASSPHRASE))
    (tmp_path / "passphrase").write_bytes(PASSPHRASE + b"\n")
    settings = {"caFiles": str(given), "caKeyPassphraseFile": str(tmp_path / "passphrase")}
    with CaProcess(tmp_path / "ca", **settings) as ca:
        issued = await enrol(ca)
        again = await ca.client().renew(REVIEWS, new_key(), issued.certificate, issued.trust_bundle_pem)
        bundle = await bundle_of(ca, root.pem)
        target = ("-connect", f"127.0.0.1:{ca.renewal_port}", "-alpn", "h2", "-verify_ip", "127.0.0.1")
        seen = openssl("s_client", *target, "-CAfile", given / "root-cert.pem", "-verify_return_error")
        assert PASSPHRASE.decode() not in ca.log_path.read_text()
    assert bundle.roots_pem == issued.trust_bundle_pem == root.pem
    assert "Verify return code: 0 (ok)" in seen
    assert verified(tmp_path, bundle, again).endswith(": OK\n")
    # What the page about plugging in a CA (the seed's) looks at, by openssl: the CA certificate comes second.
    second = x509.load_pem_x509_certificates(again.certificate.chain_pem)[1]
    assert second == issuer.certificate
    both = tmp_path / "both"
    both.write_bytes(issuer.pem + root.pem)
    leaf = tmp_path / "leaf"
    leaf.write_bytes(
        again.certificate.chain_pem.partition(b"-----END CERTIFICATE-----\n")[0] + b"-----END CERTIFICATE-----\n"
    )
    assert openssl("verify", "-CAfile", both, leaf) == f"{leaf}: OK\n"


def test_a_fault_of_the_plugged_in_files_ends_the_start_in_one_line(tmp_path: Path) -> None:
    given = write_files(tmp_path / "cacerts", files_of(make_ca("issuer", make_ca("root")), make_ca("other root")))
    ca = CaProcess(tmp_path / "ca", caFiles=str(given))
    for more in ((), ("--check",)):
        done = subprocess.run(ca.command(*more), capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 1
        assert done.stderr.splitlines() == [
            f"{given}/ca-cert.pem: 'CN=issuer' is not signed by 'CN=other root', the next of the chain"
        ]


async def test_root_rotation_with_a_kill_after_each_step(ca: CaProcess, tmp_path: Path) -> None:
    old_root, first = ca.root_path.read_bytes(), await enrol(ca)
    early_token = ca.token()
    assert operator(ca, "prepare").exit_code == 0
    revive(ca)
    assert states(ca) == ["active", "prepared"]
    both = (await bundle_of(ca, old_root)).roots_pem
    assert (both.count(b"BEGIN CERTIFICATE"), old_root in both) == (2, True)

    refused = operator(ca, "activate")
    assert refused.exit_code != 0
    assert "issued before it was prepared" in refused.output
    assert "the hosts' status can't be read" in refused.output
    second = await renew(ca, first, old_root)
    assert second.trust_bundle_pem == both, "it comes with every certificate"
    assert operator(ca, "activate", "--force").exit_code == 0
    new_root = both.replace(old_root, b"")
    assert issuer_seen(ca) == name_of(new_root), "the own server certificate changes at once"
    revive(ca)
    assert states(ca) == ["retiring", "active"]

    # A token of the old root still leads to the CA, as does this root alone, for a host that missed the change.
    late = await ca.client().enrol(REVIEWS, new_key(), early_token)
    assert late.trust_bundle_pem == old_root + new_root
    assert (await renew(ca, first, old_root)).trust_bundle_pem == old_root + new_root
    third = await renew(ca, second, both)  # the old root's client is served by the new root's server
    bundle = await bundle_of(ca, both)
    assert [verified(tmp_path, bundle, issued)[-5:] for issued in (second, third)] == [": OK\n", ": OK\n"]
    assert "hold until" in operator(ca, "retire").output
    assert operator(ca, "retire", "--force").exit_code == 0
    revive(ca)
    assert states(ca) == ["active"]
    assert (await bundle_of(ca, new_root)).roots_pem == new_root
    await renew(ca, third, new_root)
    assert not ca.root_path.exists()


def revive(ca: CaProcess) -> None:
    ca.kill()
    ca.start()


def states(ca: CaProcess) -> list[str]:
    return [root["state"] for root in json.loads(operator(ca, "list", "-o", "json").output)]


async def renew(ca: CaProcess, present: IssuedChain, trust: bytes) -> IssuedChain:
    client: CaClient = ca.client()
    return await client.renew(REVIEWS, new_key(), present.certificate, trust)


def issuer_seen(ca: CaProcess) -> str:
    """Return who issued the server's certificate, as openssl sees it."""
    text = openssl("s_client", "-connect", f"127.0.0.1:{ca.enrolment_port}", "-alpn", "h2", "-nameopt", "RFC2253")
    return text.partition("issuer=")[2].partition("\n")[0]


def name_of(root: bytes) -> str:
    return x509.load_pem_x509_certificate(root).subject.rfc4514_string()
