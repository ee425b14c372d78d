"""Tickets: how an operator's tool proves to a node's agent that the mesh's Consul trusts it. Pure.

The tool writes a ticket for one question to `hostmesh/tickets/<node>/<id>`, which an operator's Consul token may do and
others' may not, and shows the agent id and secret. In Consul stands the secret's hash alone, so who reads it there
cannot use it. Nothing of this needs the certificate authority.
"""

from __future__ import annotations

import hmac
import re
import secrets
from hashlib import sha256

import msgspec
from msgspec import Struct

LIFE_SECONDS = 30.0
CLOCK_TOLERANCE_SECONDS = 30.0
"""How far the clocks of the tool's host and the agent's may be apart, in either direction."""

_SCHEME = "Hostmesh-Ticket"
_PROOF = re.compile(rf"{_SCHEME} ([0-9a-f]{{32}}):([0-9a-f]{{64}})")


class Ticket(Struct, frozen=True, rename="camel"):
    """What stands in Consul."""

    secret_sha256: str
    """Hexadecimal."""
    expires: float
    """Unix time, seconds."""
    wanted: str
    """The one question it is for."""

    def fault(self, wanted: str, now: float) -> str | None:
        """Return why the ticket does not allow this question at this time, None if it does."""
        if not self.is_current(now):
            age = now - (self.expires - LIFE_SECONDS)
            when = f"{age:.0f} s ago" if age > 0 else f"{-age:.0f} s in the future"
            return f"the ticket was made {when} by this host's clock (compare the two hosts' clocks)"
        return None if wanted == self.wanted else "the ticket is for another question"

    def is_current(self, now: float) -> bool:
        """Tell whether it is neither over nor dated further into the future than a clock may be wrong."""
        return now <= self.expires <= now + LIFE_SECONDS + CLOCK_TOLERANCE_SECONDS


class Proof(Struct, frozen=True):
    """What the tool shows the agent."""

    id: str
    secret: str

    @property
    def authorization(self) -> str:
        """Return the value of the header `Authorization`."""
        return f"{_SCHEME} {self.id}:{self.secret}"

    def opens(self, ticket: Ticket) -> bool:
        """Tell whether the secret is the ticket's, in a time that says nothing about it."""
        return hmac.compare_digest(_digest(self.secret), ticket.secret_sha256.encode())


def new_ticket(wanted: str, now: float) -> tuple[Proof, Ticket]:
    """Return a fresh ticket for one question and the proof of owning it."""
    proof = Proof(secrets.token_hex(16), secrets.token_hex(32))
    return proof, Ticket(_digest(proof.secret).decode(), now + LIFE_SECONDS, wanted)


def read_proof(authorization: str) -> Proof | None:
    """Return the proof in a header's value, None if there is none of the right form."""
    found = _PROOF.fullmatch(authorization)
    return Proof(found[1], found[2]) if found else None


def read_ticket(value: bytes) -> Ticket | None:
    """Return the ticket that a key holds, None if it holds something else."""
    try:
        return msgspec.json.decode(value, type=Ticket)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _digest(secret: str) -> bytes:
    return sha256(secret.encode()).hexdigest().encode()
