"""Plugged-in CAs: which are taken, and the one clear line that each fault has."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from node_ca.authority import Authority, Plugin
from node_ca.config import ServerNames
from node_ca.errors import ConfigError, SigningFault
from node_ca.identity import WorkloadIdentity
from node_ca.inventory import SqliteInventory
from node_ca.issuer import Issuer
from node_ca.issuer_files import FILES, KEY_FILE, IssuerFiles, time_faults
from node_ca.request import CertificateRequest
from node_ca.signer import CaKey
from node_ca.template import Template, Validity, workload_template
from tests.unit.ca_files import Shape, files_of, make_ca, p384, rsa_key, write_files
from tests.unit.ca_requests import csr, p256

NOW = 1_800_000_000.0
ROOT = make_ca("root", now=NOW)
MIDDLE = make_ca("middle", ROOT, Shape(path_length=1), now=NOW)
ISSUER = make_ca("issuer", MIDDLE, Shape(path_length=0), now=NOW)
GOOD = files_of(ISSUER, MIDDLE, ROOT)


def template(lifetime: float = 3600) -> Template:
    request = CertificateRequest.from_pem(csr())
    return workload_template(request, WorkloadIdentity("a", "b"), "cluster.local", Validity(lifetime), NOW)


@pytest.mark.parametrize("key", [p256(), p384(), rsa_key(), rsa_key(3072)], ids=lambda key: f"{key.key_size}")
def test_keys_that_may_sign(key: CaKey) -> None:
    root = make_ca("root", key=key, now=NOW)
    signer = files_of(root).signer("", "cluster.local", None)
    assert signer.sign(template()).issuer == root.certificate.subject
    assert signer.intermediates_pem == b""
    assert signer.sign_crl({5: int(NOW)}, 1, NOW).is_signature_valid(root.certificate.public_key())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "chain",
    [
        ISSUER.pem + MIDDLE.pem,
        MIDDLE.pem,
        ISSUER.pem + MIDDLE.pem + ROOT.pem,
        b"made by hand\n" + MIDDLE.pem,
    ],
    ids=["as Istio's", "without the CA's own", "with the root", "with text"],
)
def test_the_chain_in_every_usual_form(chain: bytes) -> None:
    signer = replace(GOOD, chain=chain).signer("", "cluster.local", None)
    assert signer.intermediates_pem == ISSUER.pem + MIDDLE.pem
    assert signer.root_pem == ROOT.pem
    key_id = signer.sign(template()).extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert key_id.key_identifier == b"issuer".ljust(20, b"-"), "the issuer's own name of its key"


@pytest.mark.parametrize("files", [files_of(ROOT), IssuerFiles(files_of(ROOT).key, ROOT.pem)])
def test_where_the_issuer_is_the_root_chain_and_root_may_be_empty(files: IssuerFiles) -> None:
    assert replace(files, chain=b"").signer("", "cluster.local", None).chain == (ROOT.certificate,)


def other_key() -> bytes:
    return files_of(make_ca("other")).key


def ed25519_key() -> bytes:
    return ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def with_issuer(shape: Shape) -> Callable[[], IssuerFiles]:
    return lambda: files_of(make_ca("issuer", MIDDLE, shape, now=NOW), MIDDLE, ROOT)


def below(root: Shape) -> IssuerFiles:
    made = make_ca("narrow", shape=root, now=NOW)
    return files_of(make_ca("issuer", made, now=NOW), made)


def names(*permitted: x509.GeneralName, excluded: tuple[x509.GeneralName, ...] = ()) -> Shape:
    """Return a shape with name constraints."""
    return Shape(more=((x509.NameConstraints(permitted or None, excluded or None), True),))


def with_more(extension: x509.ExtensionType, critical: bool = True) -> Callable[[], IssuerFiles]:
    return with_issuer(Shape(more=((extension, critical),)))


URI, DNS = x509.UniformResourceIdentifier, x509.DNSName
HOST = x509.DNSName("ca.example")
FAULTS: dict[str, tuple[Callable[[], IssuerFiles], str]] = {
    "no key": (lambda: replace(GOOD, key=b""), "ca-key.pem: missing beside"),
    "no certificate": (lambda: replace(GOOD, certificate=b""), "ca-cert.pem: missing"),
    "key is nonsense": (lambda: replace(GOOD, key=b"nonsense"), "ca-key.pem: cannot be read"),
    "key of another": (lambda: replace(GOOD, key=other_key()), "ca-cert.pem: is not the certificate of ca-key.pem"),
    "key of a kind": (lambda: replace(GOOD, key=ed25519_key()), "ca-key.pem: must be ECDSA"),
    "key too short": (lambda: files_of(make_ca("root", key=rsa_key(1024))), "ca-key.pem: must be ECDSA"),
    "key encrypted": (lambda: files_of(ROOT, passphrase=b"secret"), "ca-key.pem: is encrypted: name the file"),
    "certificate is nonsense": (lambda: replace(GOOD, certificate=b"nonsense"), "ca-cert.pem: cannot be read as PEM"),
    "two certificates": (lambda: replace(GOOD, certificate=ISSUER.pem + ROOT.pem), "ca-cert.pem: has 2 certificates"),
    "chain is nonsense": (lambda: replace(GOOD, chain=b"nonsense"), "cert-chain.pem: cannot be read as PEM"),
    "chain has a gap": (lambda: replace(GOOD, chain=ISSUER.pem), "ca-cert.pem: 'CN=issuer' is not signed by 'CN=root'"),
    "chain upside down": (lambda: files_of(ISSUER, ROOT, MIDDLE), "is not signed by"),
    "chain too long": (
        lambda: replace(GOOD, chain=b"".join(make_ca(str(n)).pem for n in range(9))),
        "cert-chain.pem: the chain has 11 certificates",
    ),
    "root is nonsense": (lambda: replace(GOOD, root=b"nonsense"), "root-cert.pem: cannot be read as PEM"),
    "two roots": (lambda: replace(GOOD, root=ROOT.pem + make_ca("other").pem), "root-cert.pem: has 2 certificates"),
    "another root": (lambda: replace(GOOD, root=make_ca("root").pem), "cert-chain.pem: 'CN=middle' is not signed by"),
    "root is none": (
        lambda: replace(GOOD, chain=ISSUER.pem, root=MIDDLE.pem),
        "root-cert.pem: 'CN=middle' is not self",
    ),
    "root is missing": (lambda: IssuerFiles(GOOD.key, ISSUER.pem), "ca-cert.pem: 'CN=issuer' is not self-signed"),
    "no CA": (with_issuer(Shape(is_ca=False)), "ca-cert.pem: 'CN=issuer' is no CA's certificate"),
    "says nothing": (with_issuer(Shape(constrained=False)), "ca-cert.pem: 'CN=issuer' says nothing readable"),
    "signs nothing": (with_issuer(Shape(signs_certificates=False)), "'CN=issuer' may not sign certificates"),
    "signs no lists": (with_issuer(Shape(signs_lists=False)), "'CN=issuer' may not sign revocation lists"),
    "path length": (lambda: below(Shape(path_length=0)), "root-cert.pem: 'CN=narrow' allows 0 CA certificates below"),
    "root is no CA": (lambda: below(Shape(is_ca=False)), "root-cert.pem: 'CN=narrow' is no CA's certificate"),
    "another domain's names only": (
        lambda: below(names(URI("other.example"))),
        "root-cert.pem: 'CN=narrow' allows no certificates of cluster.local: permitted subtree violation",
    ),
    "names above ours only": (lambda: below(names(URI(".cluster.local"))), "allows no certificates of cluster.local"),
    "our names excluded": (
        with_issuer(names(excluded=(URI("cluster.local"),))),
        "ca-cert.pem: 'CN=issuer' allows no certificates of cluster.local: excluded subtree violation",
    ),
    "no name for the server": (
        with_issuer(names(URI("cluster.local"), DNS("other.example"))),
        "ca-cert.pem: 'CN=issuer' allows no server certificate for ca.example (ca.yaml: serverNames): permitted",
    ),
    "no host's name of its own": (
        lambda: below(names(x509.DirectoryName(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])))),
        "root-cert.pem: 'CN=narrow' allows no certificates of cluster.local",
    ),
    "critical and unknown": (
        with_more(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")),
        "ca-cert.pem: 'CN=issuer' has the critical extension 1.2.3.4, which Envoy does not know",
    ),
    "critical and half known": (
        with_more(x509.TLSFeature([x509.TLSFeatureType.status_request])),
        "has the critical extension 1.3.6.1.5.5.7.1.24",
    ),
    "for servers only": (
        with_more(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        "ca-cert.pem: 'CN=issuer' is not for mutual TLS (extendedKeyUsage",
    ),
    "for anything": (
        with_more(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]), False),
        "is not for mutual TLS",
    ),
    "policies demanded": (with_more(x509.PolicyConstraints(0, None)), "'CN=issuer' demands certificate policies"),
    "another trust domain": (
        with_issuer(Shape(uri="spiffe://other.example")),
        "ca-cert.pem: is not of trust domain cluster.local: it names ['spiffe://other.example']",
    ),
}


@pytest.mark.parametrize(("make", "line"), FAULTS.values(), ids=FAULTS)
def test_faults_are_told_in_one_line(make: Callable[[], IssuerFiles], line: str, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "given", make())
    with pytest.raises(ConfigError) as caught:
        Authority.open(tmp_path, "cluster.local", NOW, Plugin(folder, server_names=(HOST,)))
    assert all("\n" not in problem and problem.startswith(f"{folder}/") for problem in caught.value.problems)
    assert any(line in problem for problem in caught.value.problems), caught.value.problems
    assert not (tmp_path / "issuers.json").exists()


def test_what_is_not_valid_now_is_told_for_each_certificate() -> None:
    root = make_ca("root", shape=Shape(ends=50.0), now=NOW)
    signer = files_of(make_ca("issuer", root, Shape(begins=100.0), now=NOW), root).signer("", "cluster.local", None)
    early, late = time_faults(signer, "", NOW), time_faults(signer, "", NOW + 200)
    assert [line.partition(" is not valid now")[0] for line in early] == ["ca-cert.pem: 'CN=issuer'"]
    assert [line.partition(" is not valid now")[0] for line in late] == ["root-cert.pem: 'CN=root'"]


def test_nothing_outlives_its_issuer() -> None:
    root = make_ca("root", now=NOW)
    issuer = make_ca("issuer", root, Shape(ends=100), now=NOW)
    signer = files_of(issuer, root).signer("", "cluster.local", None)
    assert signer.sign(template(3600)).not_valid_after_utc == issuer.certificate.not_valid_after_utc
    dead = files_of(make_ca("dead", root, Shape(ends=-1000), now=NOW), root).signer("", "cluster.local", None)
    with pytest.raises(SigningFault, match="ended at"):
        dead.sign(template())


@pytest.mark.parametrize("where", ["state directory", "caFiles"])
def test_a_plugged_in_issuer_signs_from_the_first_start(where: str, tmp_path: Path) -> None:
    state = tmp_path / "state"
    given = write_files(state if where == "state directory" else tmp_path / "given", GOOD)
    plugin = Plugin(None if given == state else given)
    state.mkdir(exist_ok=True)
    for _ in range(2):
        authority = Authority.open(state, "cluster.local", NOW, plugin)
        assert authority.trust_bundle_pem == ROOT.pem
        assert authority.active.intermediates_pem == ISSUER.pem + MIDDLE.pem
    assert {path.name for path in given.iterdir()} >= set(FILES), "they stay where they are"


def test_files_changed_under_the_ca_are_told(tmp_path: Path) -> None:
    given = write_files(tmp_path / "given", GOOD)
    Authority.open(tmp_path, "cluster.local", NOW, Plugin(given))
    write_files(given, files_of(make_ca("issuer", MIDDLE, Shape(path_length=0), now=NOW), MIDDLE, ROOT))
    with pytest.raises(ConfigError, match="is not the issuer that this CA works with: put that one back"):
        Authority.open(tmp_path, "cluster.local", NOW, Plugin(given))


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="caFiles needs ca-key"):
        Authority.open(tmp_path, "cluster.local", NOW, Plugin(tmp_path / "given"))


def test_encrypted_keys(tmp_path: Path) -> None:
    plugin = Plugin(passphrase=b"correct horse")
    made = Authority.open(tmp_path, "cluster.local", NOW, plugin)
    assert b"ENCRYPTED" in (tmp_path / KEY_FILE).read_bytes(), "a key that the CA makes is encrypted, too"
    assert Authority.open(tmp_path, "cluster.local", NOW, plugin).active.id == made.active.id
    with pytest.raises(ConfigError, match="is encrypted: name the file with its passphrase"):
        Authority.open(tmp_path, "cluster.local", NOW)
    with pytest.raises(ConfigError, match="with the passphrase of caKeyPassphraseFile"):
        Authority.open(tmp_path, "cluster.local", NOW, Plugin(passphrase=b"wrong"))


def test_a_passphrase_does_no_harm_to_a_plain_key(tmp_path: Path) -> None:
    given = write_files(tmp_path / "given", GOOD)
    assert Authority.open(tmp_path, "cluster.local", NOW, Plugin(given, b"unused")).root_pem == ROOT.pem


TLS = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


async def test_constraints_that_leave_room_are_kept_within(tmp_path: Path) -> None:
    """What is not in the way is no fault; the server's loopback names, which nobody needs, give way."""
    shape = names(URI("cluster.local"), DNS("example"), excluded=(x509.IPAddress(ipaddress.ip_network("10.0.0.0/8")),))
    more = ((x509.ExtendedKeyUsage(TLS), True), (x509.InhibitAnyPolicy(0), True))
    root = make_ca("root", shape=replace(shape, more=(*shape.more, *more)), now=NOW)
    folder = write_files(tmp_path / "given", files_of(make_ca("issuer", root, Shape(path_length=0), now=NOW), root))
    authority = Authority.open(tmp_path, "cluster.local", NOW, Plugin(folder, server_names=(HOST,)))
    assert authority.sign(template()).issuer == x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
    inventory = await SqliteInventory.open(tmp_path / "db")
    issuer = Issuer(authority, inventory, "cluster.local", Validity(3600), lambda: NOW)
    wanted = ServerNames(("ca.example",)).with_defaults()
    issued, _ = await issuer.issue_server(p256().public_key(), wanted.dns, wanted.addresses, 3600)
    made = x509.load_pem_x509_certificate(issued.chain_pem)
    assert list(made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value) == [HOST]
    address = x509.IPAddress(ipaddress.ip_address("192.0.2.1"))
    with pytest.raises(ConfigError, match=r"certificate for 192\.0\.2\.1 .*not understood by the TLS library"):
        Authority.open(tmp_path, "cluster.local", NOW, Plugin(folder, server_names=(address,)))
