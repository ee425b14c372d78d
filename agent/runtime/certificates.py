"""What status and metrics say of the certificates that Envoy holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cryptography import x509

from agent.mesh.routes import Fault
from agent.mesh.service import Identity
from agent.mesh.snapshot import Certificate
from agent.mesh.status import CertificateStatus


def certificate_status(
    certificates: Mapping[Identity, Certificate], renewals: Mapping[Identity, float]
) -> tuple[CertificateStatus, ...]:
    """Return one entry for each certificate, ordered by identity; renewals are Unix times."""
    return tuple(
        _status(certificate, renewals.get(identity, 0.0)) for identity, certificate in sorted(certificates.items())
    )


def trust_domain_faults(certificates: Iterable[CertificateStatus], trust_domain: str) -> tuple[Fault, ...]:
    """Return a fault for each certificate of another trust domain than the mesh's: no peer believes it."""
    return tuple(
        Fault(
            f"certificate {certificate.identity}",
            f"the mesh's trustDomain is {trust_domain}, so peers refuse it: set the trust domain of hostmesh-ca and of "
            f"the mesh (`hostmesh mesh set trustDomain=…`) to the same",
        )
        for certificate in certificates
        if not certificate.identity.startswith(f"spiffe://{trust_domain}/")
    )


def _status(certificate: Certificate, renew_at: float) -> CertificateStatus:
    leaf = x509.load_pem_x509_certificate(certificate.chain_pem)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return CertificateStatus(
        identity=names.get_values_for_type(x509.UniformResourceIdentifier)[0],
        serial=f"{leaf.serial_number:x}",
        not_after=leaf.not_valid_after_utc.timestamp(),
        issuer=leaf.issuer.rfc4514_string(),
        renew_at=renew_at,
    )
