"""What tokens (JWT) of requests are believed: RequestAuthentication, as rules say it. Pure."""

from __future__ import annotations

from msgspec import Struct

from agent.mesh.authorization import Target
from agent.mesh.routes import ObjectRef


class TokenRule(Struct, frozen=True):
    """One issuer's tokens; a request may have one, and one that it has must be good."""

    issuer: str
    """Empty: any."""
    audiences: tuple[str, ...] = ()
    keys: str = ""
    """A JSON Web Key Set."""
    keys_uri: str = ""
    """Where the key set is fetched, if `keys` is empty."""
    timeout: float = 5.0
    """Seconds for fetching it."""
    headers: tuple[tuple[str, str], ...] = ()
    """(Name, what stands before the token) of headers that it may be in."""
    parameters: tuple[str, ...] = ()
    cookies: tuple[str, ...] = ()
    """Without header, parameter and cookie: `Authorization: Bearer`, and the parameter access_token."""
    forward: bool = False
    """The application gets the token, too."""
    payload_header: str = ""
    """In which the application gets the payload (Base64url)."""
    claim_headers: tuple[tuple[str, str], ...] = ()
    """(Header, claim) that the application gets."""
    spaced_claims: tuple[str, ...] = ()
    """Claims that are lists with spaces between the items, beside `scope` and `permission`."""
    required: bool = False
    """A request without a token of this issuer is refused."""


class RequestAuthentication(Struct, frozen=True):
    """One RequestAuthentication object."""

    origin: ObjectRef
    target: Target
    rules: tuple[TokenRule, ...]
