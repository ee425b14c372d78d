"""Entry by a Consul ACL token: its service identities say which workloads its bearer may become.

A token with the service identity `reviews` may register the service `reviews` in Consul; it may become
ns/NAMESPACE/sa/reviews of the one namespace that the CA is configured with, nothing else. Holds no token.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from node_ca.consul import Consul, ConsulFault
from node_ca.errors import EntryFault, Refusal
from node_ca.identity import WorkloadIdentity
from node_ca.issuer import Vouched

MAX_SECRET = 128


class ConsulEntry:
    """`issuer.Entry` by Consul."""

    def __init__(self, consul: Consul, namespace: str) -> None:
        self._consul = consul
        self._namespace = namespace

    async def close(self) -> None:
        """Close the connections to Consul."""
        await self._consul.close()

    async def vouch(self, secret: str, wanted: WorkloadIdentity) -> Vouched:
        """Return the wanted identity if the token is for it; raises Refusal or EntryFault."""
        if not secret.isascii() or not secret.isprintable() or len(secret) > MAX_SECRET:
            raise Refusal.unauthenticated("Consul token: not one")
        try:
            token = await self._consul.token_of(secret)
        except ConsulFault as error:
            raise EntryFault(str(error)) from error
        if token is None or _has_expired(token):
            raise Refusal.unauthenticated("Consul token: not known to Consul")
        services = {str(each.get("ServiceName")) for each in token.get("ServiceIdentities") or ()}
        if wanted.namespace != self._namespace or wanted.service_account not in services:
            raise Refusal.denied(
                f"Consul token {token.get('AccessorID')}: is not for {wanted}; it needs the service identity "
                f"{wanted.service_account!r}, and this CA takes such tokens for the namespace {self._namespace!r} only"
            )
        return Vouched(wanted, f"consul:{token.get('AccessorID')}")


def _has_expired(token: Mapping[str, Any]) -> bool:
    """Tell whether it has ended; Consul forgets such tokens a little later only."""
    end = token.get("ExpirationTime")
    return bool(end) and datetime.fromisoformat(str(end).replace("Z", "+00:00")) <= datetime.now(UTC)
