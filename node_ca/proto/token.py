"""The join token's printed form, part of the protocol: `hmt1.ID.SECRET.FINGERPRINT`.

ID names the token in logs and lists (12 hex digits), SECRET is 128 random bits, FINGERPRINT the SHA-256 of the root
certificate (DER): with it the agent knows the right CA at first contact. May not know who is entitled to what.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from dataclasses import dataclass, field

_PREFIX = "hmt1"
_SECRET_BYTES = 16
_FORM = re.compile(r"hmt1\.([0-9a-f]{12})\.([A-Za-z0-9_-]{22})\.([A-Za-z0-9_-]{43})")


@dataclass(frozen=True)
class JoinToken:
    """A join token, taken apart."""

    id: str
    secret: bytes = field(repr=False)
    root_fingerprint: bytes
    """SHA-256 of the root certificate's DER form."""

    @classmethod
    def new(cls, root_fingerprint: bytes) -> JoinToken:
        """Return a fresh random token for that root."""
        return cls(secrets.token_hex(6), secrets.token_bytes(_SECRET_BYTES), root_fingerprint)

    @classmethod
    def from_text(cls, text: str) -> JoinToken:
        """Take a printed token apart; raises ValueError (whose text does not show the token) if it isn't one."""
        match = _FORM.fullmatch(text.strip())
        if match is None:
            raise ValueError(
                f"not a join token (they begin with {_PREFIX}. and are made by `hostmesh ca token create`)"
            )
        token_id, secret, fingerprint = match.groups()
        return cls(token_id, _decode(secret), _decode(fingerprint))

    @property
    def secret_hash(self) -> bytes:
        """Return what the CA keeps; a plain hash suffices for 128 random bits."""
        return hashlib.sha256(self.secret).digest()

    def text(self) -> str:
        """Return the printed form: this is the secret itself."""
        return ".".join((_PREFIX, self.id, _encode(self.secret), _encode(self.root_fingerprint)))


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
