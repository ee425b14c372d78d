"""All rules about who may talk to whom, as a snapshot has them. Pure."""

from __future__ import annotations

from msgspec import Struct

from agent.mesh.authentication import PeerAuthentication


class SecurityRules(Struct, frozen=True):
    """Each kind in order of namespace and name."""

    peers: tuple[PeerAuthentication, ...] = ()
