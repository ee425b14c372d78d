"""Operators' tickets in KV as a node's agent sees them: read, used up once, swept. Knows no secret."""

from __future__ import annotations

from collections.abc import Callable

from agent.adapters.consul.client import ConsulClient
from agent.errors import ConsulConflict
from agent.mesh.names import ticket_key

MAX_SWEPT = 100
"""Of one sweep; the rest waits for the next."""


class TicketBox:
    """The keys under `hostmesh/tickets/<node>/`. Every method raises ConsulUnavailable, ConsulRefused."""

    def __init__(self, client: ConsulClient, node: str) -> None:
        self._client, self._node = client, node

    async def read(self, ticket: str) -> tuple[bytes, int] | None:
        """Return the value and its ModifyIndex as Consul's leader has them now, None if there is no such ticket."""
        _, pair = await self._client.api.kv.get(ticket_key(self._node, ticket), consistency="consistent")
        return (pair["Value"] or b"", pair["ModifyIndex"]) if pair else None

    async def spend(self, ticket: str, index: int) -> bool:
        """Delete a ticket that is as it was read; False if somebody else was faster.

        A plain check-and-set delete would not do: of a key that is gone already Consul says that it was deleted.
        """
        key = {"Key": ticket_key(self._node, ticket), "Index": index}
        try:
            await self._client.api.txn.put([{"KV": {"Verb": verb, **key}} for verb in ("check-index", "delete-cas")])
        except ConsulConflict:
            return False
        return True

    async def sweep(self, is_over: Callable[[bytes], bool]) -> None:
        """Delete the tickets that nobody used."""
        _, pairs = await self._client.api.kv.get(ticket_key(self._node), recurse=True, consistency="stale")
        over = [pair for pair in pairs or () if is_over(pair["Value"] or b"")]
        for pair in over[:MAX_SWEPT]:
            await self._client.api.kv.delete(pair["Key"], cas=pair["ModifyIndex"])
