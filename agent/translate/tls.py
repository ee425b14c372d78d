"""Transport sockets of mutual TLS: what a client trusts (secure naming) and what a server demands. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.extensions.transport_sockets.raw_buffer.v3 import raw_buffer_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_pb2
from envoy.type.matcher.v3 import string_pb2
from google.protobuf import struct_pb2, wrappers_pb2

from agent.mesh.names import TRUST_BUNDLE_SECRET
from agent.translate.resource import ADS, packed

MESH_ALPN = "hostmesh"
"""What our clients offer, so that a permissive server tells mesh TLS from the application's own TLS."""
MATCH_METADATA = "envoy.transport_socket_match"
TLS_MODE = {"tlsMode": MESH_ALPN}

_TLS_PARAMETERS = common_pb2.TlsParameters(
    tls_minimum_protocol_version=common_pb2.TlsParameters.TLSv1_2,
    tls_maximum_protocol_version=common_pb2.TlsParameters.TLSv1_3,
)


def client_socket(certificate: str, server_ids: Iterable[str], sni: str) -> Any:
    """Return the transport socket of a client: its certificate, and the SPIFFE IDs that a server may have."""
    matchers = [_uri_san(string_pb2.StringMatcher(exact=server_id)) for server_id in server_ids]
    context = tls_pb2.UpstreamTlsContext(common_tls_context=_common(certificate, matchers), sni=sni)
    context.common_tls_context.alpn_protocols.append(MESH_ALPN)
    return _socket("envoy.transport_sockets.tls", context)


def server_socket(certificate: str, trust_domain: str) -> Any:
    """Return the transport socket of a server: its certificate; the client must have one of the trust domain."""
    matcher = _uri_san(string_pb2.StringMatcher(prefix=f"spiffe://{trust_domain}/"))
    context = tls_pb2.DownstreamTlsContext(
        common_tls_context=_common(certificate, [matcher]),
        require_client_certificate=wrappers_pb2.BoolValue(value=True),
    )
    return _socket("envoy.transport_sockets.tls", context)


def plain_socket() -> Any:
    """Return the transport socket of plain text."""
    return _socket("envoy.transport_sockets.raw_buffer", raw_buffer_pb2.RawBuffer())


def mesh_metadata() -> Any:
    """Return the metadata of an endpoint that serves mutual TLS."""
    metadata = base_pb2.Metadata()
    metadata.filter_metadata[MATCH_METADATA].CopyFrom(mode_struct())
    return metadata


def mode_struct() -> struct_pb2.Struct:
    """Return the value that endpoint metadata and transport socket match agree on."""
    value = struct_pb2.Struct()
    value.update(TLS_MODE)
    return value


def _socket(name: str, context: Any) -> Any:
    return base_pb2.TransportSocket(name=name, typed_config=packed(context))


def _uri_san(matcher: Any) -> Any:
    return common_pb2.SubjectAltNameMatcher(san_type=common_pb2.SubjectAltNameMatcher.URI, matcher=matcher)


def _common(certificate: str, sans: Iterable[Any]) -> Any:
    combined = tls_pb2.CommonTlsContext.CombinedCertificateValidationContext(
        default_validation_context=common_pb2.CertificateValidationContext(match_typed_subject_alt_names=sans),
        validation_context_sds_secret_config=secret_pb2.SdsSecretConfig(name=TRUST_BUNDLE_SECRET, sds_config=ADS),
    )
    return tls_pb2.CommonTlsContext(
        tls_params=_TLS_PARAMETERS,
        tls_certificate_sds_secret_configs=[secret_pb2.SdsSecretConfig(name=certificate, sds_config=ADS)],
        combined_validation_context=combined,
    )
