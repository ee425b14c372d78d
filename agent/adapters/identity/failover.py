"""Several hostmesh-cas behind one face: each call goes to the one that answered last, then to the others.

A refusal is an answer: no other CA is asked then. May not decide when to ask.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from agent.adapters.identity.ca_client import CaClient, IssuedChain, IssuedToken
from agent.errors import CaUnavailable
from agent.mesh.service import Identity
from agent.mesh.snapshot import Certificate

T = TypeVar("T")


class CaGroup:
    """Asks the first CA that is there; every call raises CaUnavailable if none is, CaRefused if one refuses."""

    def __init__(self, members: Sequence[CaClient]) -> None:
        """Take at least one."""
        self._members = list(members)

    async def enrol(self, identity: Identity, key_pem: bytes, token_text: str) -> IssuedChain:
        """Get a first certificate for this key."""
        return await self._ask(lambda ca: ca.enrol(identity, key_pem, token_text))

    async def renew(self, identity: Identity, key_pem: bytes, present: Certificate, trust: bytes) -> IssuedChain:
        """Get the next certificate by the present one."""
        return await self._ask(lambda ca: ca.renew(identity, key_pem, present, trust))

    async def renew_expired(
        self, identity: Identity, key_pem: bytes, expired: Certificate, trust: bytes
    ) -> IssuedChain:
        """Get the next certificate by one that has just ended."""
        return await self._ask(lambda ca: ca.renew_expired(identity, key_pem, expired, trust))

    async def issue_jwt(self, present: Certificate, trust: bytes, audience: tuple[str, ...]) -> IssuedToken:
        """Get a JWT-SVID by the present certificate."""
        return await self._ask(lambda ca: ca.issue_jwt(present, trust, audience))

    async def _ask(self, call: Callable[[CaClient], Awaitable[T]]) -> T:
        reasons = []
        for ca in list(self._members):
            try:
                answer = await call(ca)
            except CaUnavailable as error:
                reasons.append(str(error))
                continue
            self._members.sort(key=lambda member: member is not ca)  # stable: the others keep their order
            return answer
        raise CaUnavailable("; ".join(dict.fromkeys(reasons)))
