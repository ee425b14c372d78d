"""Secrets of gateways: what a folder or named files may hold, and what is never handed on to Envoy."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2

from agent.adapters.credentials import check_credential, read_credentials
from agent.cli.main import cli
from agent.mesh.gateway import (
    Credential,
    FileCredential,
)
from agent.mesh.trust import TrustBundle
from agent.translate.secrets import credential_resources
from tests.mesh_certificates import TestAuthority


def test_secrets_are_checked_installed_listed_and_removed(tmp_path: Path) -> None:
    files = TestAuthority().write_secret(tmp_path / "files", "shop.example.com")
    other = TestAuthority().write_secret(tmp_path / "other", "shop.example.com")
    where = ["--secrets-dir", str(tmp_path / "secrets")]

    def run(*arguments: str) -> str:
        return CliRunner().invoke(cli, ["secret", *arguments, *where]).output

    given = ["--cert", str(files / "tls.crt"), "--key"]
    assert "is not the key of" in run("install", "shop", *given, str(other / "tls.key"))
    assert "is not the name of a secret" in run("install", "../shop", *given, str(files / "tls.key"))
    assert "installed" in run("install", "shop", *given, str(files / "tls.key"), "--ca", str(files / "ca.crt"))
    assert run("list") == "shop  (tls.crt, ca.crt)\n"
    (tmp_path / "secrets" / "shop" / "tls.key").write_bytes((other / "tls.key").read_bytes())
    read = read_credentials(tmp_path / "secrets")
    assert not read.credentials
    assert "is not the key of" in read.problems[0]
    assert "removed" in run("remove", "shop")
    assert "no such secret" in run("remove", "shop")


def test_files_that_gateways_name_are_read_within_bounds(tmp_path: Path) -> None:
    authority = TestAuthority()
    files = authority.write_secret(tmp_path / "files", "shop.example.com")
    revoked = authority.write_for_host(tmp_path / "revoked", "client.example.com")
    crl = tmp_path / "ca.crl"
    crl.write_bytes(authority.revoke(x509.load_pem_x509_certificate((revoked / "cert-chain.pem").read_bytes())))
    pair = FileCredential(f"{files}/tls.crt", f"{files}/tls.key")
    clients = FileCredential(authorities=f"{files}/ca.crt", crl=str(crl))
    endless = FileCredential("/dev/zero", f"{files}/tls.key")
    swapped = FileCredential(f"{revoked}/cert-chain.pem", f"{files}/tls.key")
    read = read_credentials(tmp_path / "secrets", [pair, clients, endless, swapped])
    assert sorted(read.credentials) == sorted([pair.name, clients.name])
    assert read.credentials[clients.name].crl_pem == crl.read_bytes()
    assert [str(endless.certificate) in line or "is not the key of" in line for line in read.problems] == [True, True]


def test_a_list_of_revoked_certificates_that_has_expired_is_told(tmp_path: Path) -> None:
    authority = TestAuthority()
    files = authority.write_secret(tmp_path / "secrets" / "shop", "shop.example.com")
    (files / "ca.crl").write_bytes(authority.revoke(authority.root, timedelta(seconds=-1)))
    read = read_credentials(tmp_path / "secrets")
    assert list(read.credentials) == ["shop"], "it is in force: refusing is what its owner wants"
    assert "every client is refused" in read.problems[0]


@pytest.mark.parametrize(
    ("make", "taken"),
    [
        (partial(rsa.generate_private_key, 65537, 1024), False),
        (partial(rsa.generate_private_key, 65537, 2048), True),
        (partial(ec.generate_private_key, ec.SECP384R1()), True),
        (partial(ec.generate_private_key, ec.SECP256K1()), False),
        (ed25519.Ed25519PrivateKey.generate, False),
    ],
)
def test_keys_that_envoy_would_refuse_are_not_handed_on(
    make: Callable[[], CertificateIssuerPrivateKeyTypes], taken: bool
) -> None:
    key = make()
    name, now = x509.Name([]), datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(1))
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else SHA256()
    chain = builder.sign(key, algorithm).public_bytes(Encoding.PEM)
    wrong = check_credential(Credential(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), chain))
    assert wrong is None if taken else wrong is not None and "does not serve with" in wrong


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--crl", "CRL"], "give --cert and --key"),
        (["--cert", "CERT"], "give --cert and --key"),
        (["--cert", "CERT", "--key", "KEY", "--crl", "CRL"], "revokes nothing without ca.crt"),
        (["--ca", "CA", "--crl", "CA"], "holds no PEM revocation list"),
        (["--ca", "CA", "--crl", "CRL"], "installed"),
        (["--ca", "CA"], "installed"),
    ],
)
def test_what_a_secret_may_be_made_of(tmp_path: Path, given: list[str], said: str) -> None:
    authority = TestAuthority()
    files = authority.write_secret(tmp_path / "files", "shop.example.com")
    (files / "ca.crl").write_bytes(authority.revoke(authority.root))
    paths = {"CERT": "tls.crt", "KEY": "tls.key", "CA": "ca.crt", "CRL": "ca.crl"}
    arguments = [str(files / paths[word]) if word in paths else word for word in given]
    command = ["secret", "install", "shop", *arguments, "--secrets-dir", str(tmp_path / "secrets")]
    assert said in CliRunner().invoke(cli, command).output


@pytest.mark.parametrize(
    ("authorities", "expected"),
    [
        ("own", b"their list\nour list"),
        ("foreign", b"their list"),
        ("both", b"their list"),
        ("spelled", b"their list"),
    ],
)
def test_authorities_that_are_the_mesh_s_follow_its_revocation_lists(authorities: str, expected: bytes) -> None:
    own, foreign = (TestAuthority().root.public_bytes(Encoding.PEM) for _ in range(2))
    spelled = foreign.replace(b" CERTIFICATE", b" X509 CERTIFICATE")
    given = {"own": own.replace(b"\n", b"\r\n"), "foreign": foreign, "both": own + foreign, "spelled": spelled}
    trust = TrustBundle(own, b"our list")
    held = Credential(b"", b"", given[authorities], b"their list")
    (made,) = credential_resources("edge", held, trust)
    context = secret_pb2.Secret.FromString(made.value).validation_context
    assert context.crl.inline_bytes == expected
    assert context.only_verify_leaf_cert_crl
