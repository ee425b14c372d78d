"""Transport sockets: mutual TLS in the mesh (secure naming), TLS to servers that are not the mesh's. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from envoy.config.core.v3 import base_pb2, proxy_protocol_pb2
from envoy.extensions.transport_sockets.proxy_protocol.v3 import upstream_proxy_protocol_pb2
from envoy.extensions.transport_sockets.raw_buffer.v3 import raw_buffer_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_pb2
from envoy.type.matcher.v3 import string_pb2
from google.protobuf import struct_pb2

from agent.mesh.gateway import ServerTls
from agent.mesh.names import TRUST_BUNDLE_SECRET, credential_secrets
from agent.mesh.traffic_policy import ClientTls, TlsMode
from agent.translate.resource import ADS, is_ip, packed

MESH_ALPN = "hostmesh"
"""What our clients offer, so that a permissive server tells mesh TLS from the application's own TLS."""
MESH_HTTP_ALPN = "hostmesh-http"
"""What they offer before it where a port's protocol is found out and this connection carries HTTP."""
SYSTEM_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
"""Debian's (package ca-certificates). Stock Envoy takes the field system_root_certs, and then verifies nothing."""
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


def foreign_socket(tls: ClientTls, http2: bool, has_authorities: bool = False) -> Any:
    """Return the transport socket of a client of servers that are not the mesh's: SIMPLE, or MUTUAL.

    Certificates are files, or those of a credential, which may have authorities or not.
    """
    common = tls_pb2.CommonTlsContext(tls_params=_TLS_PARAMETERS, alpn_protocols=["h2"] if http2 else [])
    certificate, authorities = credential_secrets(tls.credential)
    if tls.mode is TlsMode.MUTUAL and tls.credential:
        common.tls_certificate_sds_secret_configs.add(name=certificate, sds_config=ADS)
    elif tls.mode is TlsMode.MUTUAL and tls.certificate:
        common.tls_certificates.add(certificate_chain=_file(tls.certificate), private_key=_file(tls.key))
    if not tls.skip_verify and has_authorities:
        combined = common.combined_validation_context
        combined.default_validation_context.match_typed_subject_alt_names.extend(_expected_names(tls))
        combined.validation_context_sds_secret_config.name = authorities
        combined.validation_context_sds_secret_config.sds_config.CopyFrom(ADS)
    elif not tls.skip_verify:
        _set_verification(common.validation_context, tls)
    return _socket("envoy.transport_sockets.tls", tls_pb2.UpstreamTlsContext(common_tls_context=common, sni=tls.sni))


def credential_references(tls: ClientTls, has_authorities: bool) -> tuple[str, ...]:
    """Return the secrets that such a client needs."""
    if not tls.credential:
        return ()
    certificate, authorities = credential_secrets(tls.credential)
    wanted = (certificate, tls.mode is TlsMode.MUTUAL), (authorities, has_authorities and not tls.skip_verify)
    return tuple(name for name, needed in wanted if needed)


def with_proxy_protocol(socket: Any, version: int) -> Any:
    """Return the socket with a PROXY protocol header before everything else."""
    kinds = proxy_protocol_pb2.ProxyProtocolConfig
    config = proxy_protocol_pb2.ProxyProtocolConfig(version=kinds.V2 if version == 2 else kinds.V1)
    wrapped = upstream_proxy_protocol_pb2.ProxyProtocolUpstreamTransport(config=config, transport_socket=socket)
    return _socket("envoy.transport_sockets.upstream_proxy_protocol", wrapped)


def server_socket(certificate: str, trust_domains: Iterable[str]) -> Any:
    """Return the transport socket of a server: its certificate; the client must have one of the trust domains."""
    everybody = [_of_domain(domain) for domain in trust_domains]
    context = tls_pb2.DownstreamTlsContext(common_tls_context=_common(certificate, everybody))
    context.require_client_certificate.value = True
    return _socket("envoy.transport_sockets.tls", context)


def gateway_socket(tls: ServerTls, certificate: str, trust_domains: Iterable[str]) -> Any:
    """Return the transport socket of a gateway's server.

    Its certificates are secrets of the gateway host, or (ISTIO_MUTUAL) the mesh certificate of that SDS name.
    """
    names = [_san(name) for name in tls.subject_alt_names]
    everybody = [_of_domain(domain) for domain in trust_domains]
    common = _common(certificate, names or everybody) if tls.is_mesh else _by_credentials(tls, names)
    common.alpn_protocols.extend(["h2", "http/1.1"])
    kinds = common_pb2.TlsParameters.TlsProtocol
    if tls.min_version not in ("", "TLS_AUTO"):
        common.tls_params.tls_minimum_protocol_version = kinds.Value(_version(tls.min_version))
    if tls.max_version not in ("", "TLS_AUTO"):
        common.tls_params.tls_maximum_protocol_version = kinds.Value(_version(tls.max_version))
    common.tls_params.cipher_suites.extend(tls.ciphers)
    context = tls_pb2.DownstreamTlsContext(common_tls_context=common)
    if tls.knows_clients:
        context.require_client_certificate.value = tls.is_mesh or bool(tls.client_certificate)
        wanted = context.common_tls_context.combined_validation_context.default_validation_context
        wanted.verify_certificate_spki.extend(tls.key_pins)
        wanted.verify_certificate_hash.extend(tls.certificate_pins)
    return _socket("envoy.transport_sockets.tls", context)


def _by_credentials(tls: ServerTls, names: Iterable[Any]) -> Any:
    common = tls_pb2.CommonTlsContext(tls_params=_TLS_PARAMETERS)
    for credential in tls.certificates:
        common.tls_certificate_sds_secret_configs.add(name=credential_secrets(credential)[0], sds_config=ADS)
    if tls.client_certificate is not None:
        combined = common.combined_validation_context
        combined.default_validation_context.match_typed_subject_alt_names.extend(names)
        combined.validation_context_sds_secret_config.name = credential_secrets(tls.authorities)[1]
        combined.validation_context_sds_secret_config.sds_config.CopyFrom(ADS)
    return common


def _of_domain(trust_domain: str) -> Any:
    """Return a matcher of everybody in the mesh."""
    return _uri_san(string_pb2.StringMatcher(prefix=f"spiffe://{trust_domain}/"))


def _version(word: str) -> str:
    """Return Envoy's name of a TLS version that Istio calls TLSV1_2."""
    return word.replace("TLSV", "TLSv")


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


def _set_verification(validation: Any, tls: ClientTls) -> None:
    """Believe the authorities given, else the system's; the name must be one of those given, else the server name."""
    validation.trusted_ca.CopyFrom(_file(tls.authorities or SYSTEM_AUTHORITIES))
    if tls.crl:
        validation.crl.CopyFrom(_file(tls.crl))
    validation.match_typed_subject_alt_names.extend(_expected_names(tls))


def _expected_names(tls: ClientTls) -> list[Any]:
    return [_san(name) for name in tls.subject_alt_names or ((tls.sni,) if tls.sni else ())]


def _san(name: str) -> Any:
    """Return a matcher of one name; Envoy takes a wildcard in a certificate's DNS name for what it means."""
    matcher = string_pb2.StringMatcher(exact=name)
    if "://" in name:
        return _uri_san(matcher)
    kinds = common_pb2.SubjectAltNameMatcher
    return kinds(san_type=kinds.IP_ADDRESS if is_ip(name) else kinds.DNS, matcher=matcher)


def _file(name: str) -> Any:
    return base_pb2.DataSource(filename=name)


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
