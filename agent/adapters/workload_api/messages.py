"""What the Workload API says: certificates and keys as DER, in the standard's messages. Does no I/O."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from msgspec import Struct

from agent.adapters.workload_api import workload_api_pb2 as pb

_CRL_END = b"-----END X509 CRL-----"


class Svid(Struct, frozen=True):
    """An identity with its certificate and key; PEM."""

    spiffe_id: str
    chain_pem: bytes
    key_pem: bytes

    @property
    def trust_domain(self) -> str:
        """Return the SPIFFE ID of its trust domain."""
        return "/".join(self.spiffe_id.split("/")[:3])


class LocalIdentities(Struct, frozen=True):
    """Everything that local programs can have now."""

    by_uid: dict[int, tuple[Svid, ...]] = {}
    roots_pem: bytes = b""
    crls_pem: bytes = b""
    jwks: bytes = b""
    """The public keys of JWT-SVIDs (RFC 7517, JSON); empty: the CA issues none."""
    trust_domain: str = ""
    """Its SPIFFE ID; empty as long as this host has no identity."""


def svid_response(known: LocalIdentities, uid: int) -> pb.X509SVIDResponse | None:
    """Return a user's identities, None if he has none (now)."""
    svids = known.by_uid.get(uid, ())
    if not svids or not known.roots_pem:
        return None
    roots = _certificates(known.roots_pem)
    messages = [
        pb.X509SVID(
            spiffe_id=svid.spiffe_id,
            x509_svid=_certificates(svid.chain_pem),
            x509_svid_key=_key(svid.key_pem),
            bundle=roots,
        )
        for svid in svids
    ]
    return pb.X509SVIDResponse(svids=messages, crl=_crls(known.crls_pem))


def bundles_response(known: LocalIdentities, uid: int) -> pb.X509BundlesResponse | None:
    """Return the bundle of the user's trust domain, None if he has no identity (now)."""
    svids = known.by_uid.get(uid, ())
    if not svids or not known.roots_pem:
        return None
    roots = _certificates(known.roots_pem)
    return pb.X509BundlesResponse(bundles={svid.trust_domain: roots for svid in svids}, crl=_crls(known.crls_pem))


def jwt_bundles_response(known: LocalIdentities, uid: int) -> pb.JWTBundlesResponse | None:
    """Return the keys of JWT-SVIDs of the user's trust domain, None if he has no identity (now)."""
    svids = known.by_uid.get(uid, ())
    if not svids or not known.jwks:
        return None
    return pb.JWTBundlesResponse(bundles={svid.trust_domain: known.jwks for svid in svids})


def _certificates(pem: bytes) -> bytes:
    return b"".join(each.public_bytes(Encoding.DER) for each in x509.load_pem_x509_certificates(pem))


def _key(pem: bytes) -> bytes:
    key = load_pem_private_key(pem, password=None)
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def _crls(pem: bytes) -> list[bytes]:
    parts = (part.lstrip() + _CRL_END + b"\n" for part in pem.split(_CRL_END) if part.strip())
    return [x509.load_pem_x509_crl(part).public_bytes(Encoding.DER) for part in parts]
