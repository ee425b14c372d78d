"""Signing requests that must be refused as they stand, by name: malformed, mismatched, forged, oversized."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.unit.ca_requests import SPIFFE_ID, armour, csr, forged_csr, p256

_LABEL = "CERTIFICATE REQUEST"


def malformed() -> Mapping[str, bytes]:
    """Return requests that are not readable, or whose key or signature is not acceptable (INVALID_ARGUMENT)."""
    good = csr()
    der = x509.load_pem_x509_csr(good).public_bytes(Encoding.DER)
    return {
        "empty": b"",
        "blank": b" \n\n",
        "noise": bytes(range(256)) * 8,
        "NUL bytes": b"\0" * 1000,
        "text": b"please",
        "UTF-16": good.decode().encode("utf-16"),
        "DER instead of PEM": der,
        "header only": f"-----BEGIN {_LABEL}-----\n".encode(),
        "empty body": f"-----BEGIN {_LABEL}-----\n-----END {_LABEL}-----\n".encode(),
        "base64 cut off": good[: len(good) // 2],
        "base64 of noise": armour(bytes(range(256))),
        "a certificate's label": good.replace(_LABEL.encode(), b"CERTIFICATE"),
        "a private key": _private_key(),
        "DER cut off": armour(der[:-10]),
        "bytes after the end": armour(der + b"\0\0\0\0"),
        "length beyond the end": armour(b"\x30\x84\xff\xff\xff\xff" + der[4:]),
        "indefinite length": armour(b"\x30\x80" + der[4:] + b"\0\0"),
        "nested 2,000 deep": armour(b"\x30\x80" * 2000),
        "version 9": armour(der.replace(b"\x02\x01\x00", b"\x02\x01\x09", 1)),
        "a key swapped in": forged_csr(),
        "signature of noughts": armour(der[:-32] + bytes(32)),
        "signature with a bit flipped": armour(der[:-1] + bytes([der[-1] ^ 1])),
        "content with a bit flipped": _flipped_content(),
        "point beside the curve": _off_the_curve(der),
        "ed25519": csr(ed25519.Ed25519PrivateKey.generate()),
        "ed448": _signed(ed448.Ed448PrivateKey.generate(), None),
        "P-521": csr(ec.generate_private_key(ec.SECP521R1())),
        "secp256k1": csr(ec.generate_private_key(ec.SECP256K1())),
        "P-224": csr(ec.generate_private_key(ec.SECP224R1())),
        "RSA of 1,024 bits": csr(rsa.generate_private_key(65537, 1024)),
        "RSA of 40,000 bits": _huge_rsa(),
        "DSA": _signed(dsa.generate_private_key(2048), hashes.SHA256()),
        "17 KB": good + b"\n" * 17_000,
        "one extension twice": _extension_twice(),
    }


def mismatched() -> Mapping[str, bytes]:
    """Return good requests that ask for another identity than ns/default/sa/reviews (PERMISSION_DENIED)."""
    wishes = {
        "another account": "spiffe://cluster.local/ns/default/sa/ratings",
        "another namespace": "spiffe://cluster.local/ns/other/sa/reviews",
        "another trust domain": "spiffe://other.example/ns/default/sa/reviews",
        "the trust domain itself": "spiffe://cluster.local",
        "a slash more": SPIFFE_ID + "/",
        "a query": SPIFFE_ID + "?a=b",
        "a fragment": SPIFFE_ID + "#a",
        "capitals": SPIFFE_ID.upper(),
        "percent signs": SPIFFE_ID.replace("sa", "%73a"),
        "a port": SPIFFE_ID.replace("cluster.local", "cluster.local:80"),
        "a user": SPIFFE_ID.replace("cluster.local", "a@cluster.local"),
        "dots": "spiffe://cluster.local/ns/default/sa/x/../reviews",
        "http": "http://cluster.local/ns/default/sa/reviews",
    }
    requests = {name: csr(uris=(uri,)) for name, uri in wishes.items()}
    return requests | {"its own and another": csr(uris=(SPIFFE_ID, "spiffe://cluster.local/ns/default/sa/ratings"))}


def _private_key() -> bytes:
    return p256().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _signed(key: dsa.DSAPrivateKey | ed448.Ed448PrivateKey, algorithm: hashes.SHA256 | None) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, algorithm).public_bytes(Encoding.PEM)


def _flipped_content() -> bytes:
    der = x509.load_pem_x509_csr(csr(uris=(SPIFFE_ID,))).public_bytes(Encoding.DER)
    return armour(der.replace(b"/sa/reviews", b"/sa/ratings"))


def _off_the_curve(der: bytes) -> bytes:
    at = der.index(b"\x03\x42\x00\x04") + 4
    return armour(der[:at] + b"\x01" * 64 + der[at + 64 :])


def _huge_rsa() -> bytes:
    """A key whose numbers nobody checked: verifying with it would take the CA long."""
    good = x509.load_pem_x509_csr(csr(rsa.generate_private_key(65537, 2048))).public_bytes(Encoding.DER)
    modulus = _integer(bytes([0x7F]) + b"\xff" * 4999)
    algorithm = bytes.fromhex("300d06092a864886f70d0101010500")
    key = _sequence(algorithm, _tagged(3, b"\0" + _sequence(modulus, _integer(b"\x01\x00\x01"))))
    information = _sequence(_integer(b"\0"), _sequence(), key, _tagged(0xA0, b""))
    signature = _sequence(bytes.fromhex("06092a864886f70d01010b0500"))
    assert signature in good, "sha256WithRSAEncryption"
    return armour(_sequence(information, signature, _tagged(3, b"\0" + b"\x01" * 5000)))


def _extension_twice() -> bytes:
    """The extension request holds the same subjectAltName two times."""
    der = x509.load_pem_x509_csr(csr(uris=(SPIFFE_ID,))).public_bytes(Encoding.DER)
    (extension,) = re.findall(rb"\x30.\x06\x03\x55\x1d\x11.+?/sa/reviews", der, re.DOTALL)[-1:]
    request = _sequence(bytes.fromhex("06092a864886f70d01090e"), _tagged(0x31, _sequence(extension, extension)))
    key = p256()
    spki = x509.load_pem_x509_csr(csr(key)).public_bytes(Encoding.DER)
    start = spki.index(bytes.fromhex("3059301306072a8648ce3d0201"))
    information = _sequence(_integer(b"\0"), _sequence(), spki[start : start + 91], _tagged(0xA0, request))
    algorithm = _sequence(bytes.fromhex("06082a8648ce3d040302"))
    signature = key.sign(information, ec.ECDSA(hashes.SHA256()))
    return armour(_sequence(information, algorithm, _tagged(3, b"\0" + signature)))


def _sequence(*parts: bytes) -> bytes:
    return _tagged(0x30, b"".join(parts))


def _integer(content: bytes) -> bytes:
    return _tagged(2, content)


def _tagged(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def as_text(pem: bytes) -> str:
    """Return a request as Istio's message holds it, a string; what is no text is sent as base64."""
    try:
        return pem.decode()
    except UnicodeDecodeError:
        return base64.b64encode(pem).decode()
