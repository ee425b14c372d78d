"""First contact with a CA of which only the root's fingerprint is known (from the join token).

Fetches the server's chain without trusting it, and returns the root only if it has that fingerprint and the chain
verifies against it. The caller then connects anew, with that root as the only trust.
"""

from __future__ import annotations

import hmac
import ipaddress
import select
import socket
import time

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL, crypto

from agent.errors import CaRefused, CaUnavailable

_MAX_CHAIN = 10


def fetch_root(host: str, port: int, fingerprint: bytes, timeout: float) -> bytes:
    """Return the CA's root (PEM) if its SHA-256 is the fingerprint; blocks, at most `timeout` seconds.

    Raises CaUnavailable if there is no TLS server, CaRefused if it is not the CA that made the token.
    """
    chain = _fetch_chain(host, port, timeout)
    root = next((c for c in chain if hmac.compare_digest(c.fingerprint(hashes.SHA256()), fingerprint)), None)
    if root is None:
        raise CaRefused(
            f"{host}:{port}: is not the CA that made the join token: its root has another fingerprint "
            "(is ca.address right? else make a new token)"
        )
    _verify(chain, root, f"{host}:{port}")
    return root.public_bytes(Encoding.PEM)


def _fetch_chain(host: str, port: int, timeout: float) -> list[x509.Certificate]:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_verify(SSL.VERIFY_NONE)
    context.set_alpn_protos([b"h2"])  # gRPC servers refuse a handshake without it
    try:
        with socket.create_connection((host, port), timeout) as plain:
            connection = SSL.Connection(context, plain)
            if not _is_ip(host):
                connection.set_tlsext_host_name(host.encode("idna"))
            connection.set_connect_state()
            _handshake(connection, plain, timeout)
            chain = connection.get_peer_cert_chain(as_cryptography=True) or []
    except (OSError, SSL.Error, UnicodeError) as error:
        raise CaUnavailable(f"{host}:{port}: no TLS connection to hostmesh-ca: {_reason(error)}") from error
    except ValueError as error:  # a certificate that OpenSSL takes and cryptography doesn't
        raise CaRefused(f"{host}:{port}: its certificate chain cannot be read") from error
    if not 0 < len(chain) <= _MAX_CHAIN:
        raise CaRefused(f"{host}:{port}: its certificate chain has {len(chain)} certificates")
    return chain


def _handshake(connection: SSL.Connection, plain: socket.socket, timeout: float) -> None:
    """Handshake within the timeout; the socket has one, so it doesn't block and OpenSSL says what it waits for."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            connection.do_handshake()
            return
        except SSL.WantReadError:
            event = select.POLLIN
        except SSL.WantWriteError:
            event = select.POLLOUT
        poll = select.poll()
        poll.register(plain, event)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError("handshake timed out")


def _verify(chain: list[x509.Certificate], root: x509.Certificate, where: str) -> None:
    store = crypto.X509Store()
    store.add_cert(crypto.X509.from_cryptography(root))
    intermediates = [crypto.X509.from_cryptography(certificate) for certificate in chain[1:]]
    leaf = crypto.X509.from_cryptography(chain[0])
    try:
        crypto.X509StoreContext(store, leaf, intermediates).verify_certificate()
    except crypto.X509StoreContextError as error:
        raise CaRefused(f"{where}: its certificate is not by the root it shows: {error}") from error


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _reason(error: Exception) -> str:
    if isinstance(error, SSL.Error):
        return "it does not speak TLS"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
