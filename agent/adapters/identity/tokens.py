"""Where join tokens come from. They are secrets: read when needed, never kept, never logged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from agent.adapters.files import read_optional
from agent.errors import HostError
from agent.mesh.service import Identity
from node_ca.proto.token import JoinToken


class TokenSource(Protocol):
    """Gives the join token for an identity."""

    def token_for(self, identity: Identity) -> str | None:
        """Return the token as it is now, or None if there is none yet; raises HostError."""

    def where(self) -> str:
        """Return where an operator puts one, for messages."""


def is_for_other_ca(token_text: str, trust_bundle_pem: bytes) -> bool:
    """Tell whether a join token is for a CA whose root is not in the bundle: the mesh's CA was made anew."""
    try:
        fingerprint = JoinToken.from_text(token_text).root_fingerprint
        roots = x509.load_pem_x509_certificates(trust_bundle_pem)
    except ValueError:
        return False
    return all(root.fingerprint(hashes.SHA256()) != fingerprint for root in roots)


class TokenFile:
    """A file with a token in it; for several identities, lines of `ns/NAMESPACE/sa/ACCOUNT TOKEN`.

    It may appear or change at any time.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def token_for(self, identity: Identity) -> str | None:
        """Return the token on the identity's line, or on one that names none; raises HostError."""
        content = read_optional(self._path)
        try:
            lines = [line.split() for line in (content or b"").decode("ascii").splitlines()]
        except UnicodeDecodeError as error:
            raise HostError(f"{self._path}: is not a join token file: it has bytes that are not ASCII") from error
        named = (words[1] for words in lines if len(words) == 2 and words[0] == identity.path)
        bare = (words[0] for words in lines if len(words) == 1 and not words[0].startswith("#"))
        return next(named, None) or next(bare, None)

    def where(self) -> str:
        """Return the path."""
        return str(self._path)


class FixedTokens:
    """Tokens that are known beforehand."""

    def __init__(self, tokens: Mapping[Identity, str]) -> None:
        self._tokens = tokens

    def token_for(self, identity: Identity) -> str | None:
        """Return the identity's token."""
        return self._tokens.get(identity)

    def where(self) -> str:
        """Return a word for messages."""
        return "the given tokens"
