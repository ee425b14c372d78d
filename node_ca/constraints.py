"""What a CA chain lets its issuer sign: name constraints, key usages, policies, critical extensions. Pure.

Names are tried out: a certificate with that name, signed by the issuer, is verified by OpenSSL; so what a constraint
means is not for us to say. What OpenSSL takes and the TLS library of Envoy and gRPC (BoringSSL) doesn't is named here.
May not decide what is signed in earnest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, ObjectIdentifier
from OpenSSL import crypto

from node_ca.errors import SigningFault
from node_ca.signer import Signer
from node_ca.template import Template, random_serial

_USAGES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
_UNDERSTOOD = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.NAME_CONSTRAINTS,
        ExtensionOID.CERTIFICATE_POLICIES,
        ExtensionOID.POLICY_CONSTRAINTS,
        ExtensionOID.POLICY_MAPPINGS,
        ExtensionOID.INHIBIT_ANY_POLICY,
        ObjectIdentifier("2.16.840.1.113730.1.1"),  # Netscape's certificate type
    }
)
"""Critical extensions that BoringSSL handles; with any other it refuses the chain (RFC 5280, 4.2)."""


def extension_faults(certificate: x509.Certificate) -> Iterator[str]:
    """Yield why the hosts would refuse everything below a CA certificate, whatever it says."""
    try:
        extensions = list(certificate.extensions)
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        yield f"has extensions that cannot be read: {' '.join(str(error).split())[:120]}"
        return
    for extension in extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            yield f"has the critical extension {extension.oid.dotted_string}, which Envoy does not know and refuses"
        value = extension.value
        if isinstance(value, x509.ExtendedKeyUsage) and not set(_USAGES) <= set(value):
            yield "is not for mutual TLS (extendedKeyUsage: must have serverAuth and clientAuth, or be left out)"
        if isinstance(value, x509.PolicyConstraints) and value.require_explicit_policy is not None:
            yield "demands certificate policies (policyConstraints: requireExplicitPolicy), which ours have none of"


def refusal(signer: Signer, name: x509.GeneralName) -> str | None:
    """Return why a certificate with that name would be refused below this chain, None if it would not."""
    if isinstance(name, x509.IPAddress) and any(_constrains_addresses(each) for each in signer.chain):
        return "IP address constraints are not understood by the TLS library of Envoy and gRPC"
    begin = max(certificate.not_valid_before_utc for certificate in signer.chain)
    if begin + timedelta(seconds=1) >= signer.ends:
        return None  # never valid as a whole, which is told by who looks at the time
    template = Template(
        public_key=ec.generate_private_key(ec.SECP256R1()).public_key(),
        serial=random_serial(),
        not_before=begin,
        not_after=signer.ends,
        names=(name,),
        usages=_USAGES,
    )
    try:
        return _verified(signer.sign(template), signer.chain)
    except SigningFault as error:
        return str(error)


def constrained(chain: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """Return the certificates of a chain that constrain names."""
    return [certificate for certificate in chain if _constraints(certificate) is not None]


def _verified(leaf: x509.Certificate, chain: Sequence[x509.Certificate]) -> str | None:
    store = crypto.X509Store()
    store.add_cert(crypto.X509.from_cryptography(chain[-1]))
    store.set_time((leaf.not_valid_before_utc + timedelta(seconds=1)).replace(tzinfo=None))
    between = [crypto.X509.from_cryptography(certificate) for certificate in chain[:-1]]
    try:
        crypto.X509StoreContext(store, crypto.X509.from_cryptography(leaf), between).verify_certificate()
    except crypto.X509StoreContextError as error:
        return str(error)
    return None


def _constrains_addresses(certificate: x509.Certificate) -> bool:
    constraints = _constraints(certificate)
    if constraints is None:
        return False
    names = (*(constraints.permitted_subtrees or ()), *(constraints.excluded_subtrees or ()))
    return any(isinstance(name, x509.IPAddress) for name in names)


def _constraints(certificate: x509.Certificate) -> x509.NameConstraints | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError):
        return None
