"""Certificates and the trust bundle as SDS secrets. Pure; a key is copied into a message and nowhere else."""

from __future__ import annotations

import re

from envoy.config.core.v3 import base_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2

from agent.mesh.gateway import Credential
from agent.mesh.names import SECRET_TYPE, TRUST_BUNDLE_SECRET, credential_secrets
from agent.mesh.snapshot import Certificate, Resource
from agent.mesh.trust import TrustBundle
from agent.translate.resource import resource

_CERTIFICATE = re.compile(rb"-----BEGIN (?:\w+ )?CERTIFICATE-----(.*?)-----END", re.DOTALL)


def certificate(name: str, held: Certificate) -> Resource:
    """Return the secret of a workload's key and chain."""
    pair = common_pb2.TlsCertificate(
        certificate_chain=base_pb2.DataSource(inline_bytes=held.chain_pem),
        private_key=base_pb2.DataSource(inline_bytes=held.key_pem),
    )
    return resource(SECRET_TYPE, name, secret_pb2.Secret(name=name, tls_certificate=pair))


def credential_resources(name: str, held: Credential, trust: TrustBundle) -> tuple[Resource, ...]:
    """Return the secrets of a credential: its certificate and clients' authorities, each if it has any.

    Where the authorities are the mesh's own roots, what the mesh revokes is revoked there, too.
    """
    pair_name, authorities = credential_secrets(name)
    made = []
    if held.chain_pem:
        made.append(certificate(pair_name, Certificate(held.key_pem, held.chain_pem)))
    if held.authorities_pem:
        source = base_pb2.DataSource(inline_bytes=held.authorities_pem)
        context = common_pb2.CertificateValidationContext(trusted_ca=source)
        is_own = _certificates(held.authorities_pem) <= _certificates(trust.roots_pem)
        own = trust.crls_pem if is_own else b""
        if held.crl_pem or own:
            context.crl.inline_bytes = b"\n".join(filter(None, (held.crl_pem, own)))
            # Envoy else wants a list of every authority of a chain: what is not listed is not revoked.
            context.only_verify_leaf_cert_crl = True
        made.append(resource(SECRET_TYPE, authorities, secret_pb2.Secret(name=authorities, validation_context=context)))
    return tuple(made)


def _certificates(pem: bytes) -> set[bytes]:
    """Return the certificates of a PEM file, so that equal ones are equal."""
    return {b"".join(found.split()) for found in _CERTIFICATE.findall(pem)}


def trust_bundle(trust: TrustBundle) -> Resource:
    """Return the secret of the roots that peers' certificates must come from, and of what is revoked."""
    context = common_pb2.CertificateValidationContext(trusted_ca=base_pb2.DataSource(inline_bytes=trust.roots_pem))
    if trust.crls_pem:
        context.crl.inline_bytes = trust.crls_pem
        context.only_verify_leaf_cert_crl = True  # whom we revoke are workloads; the issuers come with the roots
    return resource(
        SECRET_TYPE, TRUST_BUNDLE_SECRET, secret_pb2.Secret(name=TRUST_BUNDLE_SECRET, validation_context=context)
    )
