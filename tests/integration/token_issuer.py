"""Tokens (JWT) for tests: made with a key of the test's own, and a server of its key set."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from tests.integration.server_thread import serving

NOTHING: Mapping[str, object] = {}


class TokenIssuer:
    """Signs tokens in its name (ES256)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.asked = 0
        """How often the key set was fetched."""

    @property
    def key_set(self) -> str:
        """Return the JSON Web Key Set."""
        numbers = self._key.public_key().public_numbers()
        point = {"x": _text(numbers.x.to_bytes(32, "big")), "y": _text(numbers.y.to_bytes(32, "big"))}
        return json.dumps({"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": self.name, **point}]})

    def token(
        self, subject: str = "alice", lifetime: float = 600.0, more: Mapping[str, object] = NOTHING, **claims: object
    ) -> str:
        """Return a signed token."""
        now = int(time.time())
        payload = {"iss": self.name, "sub": subject, "iat": now, "exp": now + int(lifetime), **claims, **more}
        head = {"alg": "ES256", "typ": "JWT", "kid": self.name}
        signed = ".".join(_text(json.dumps(part).encode()) for part in (head, payload))
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(SHA256())))
        return f"{signed}.{_text(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"

    @contextmanager
    def publishing(self, address: str, port: int) -> Iterator[None]:
        """Serve the key set at every path."""
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                body = issuer.key_set.encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Keep quiet."""

        with serving(ThreadingHTTPServer((address, port), Handler)):
            yield


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
