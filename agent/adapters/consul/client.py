"""The agent's connection to Consul.

Two ways over HTTP, for two needs. Writes and simple reads go through py-consul (`client.api`), which knows Consul's
request shapes. Blocking queries go through `client.lanes`: they must be bound to chosen source addresses (Consul
limits connections per client address), must read headers py-consul drops (content hash), and decode thousands of
answers straight into typed structs, where py-consul would build untyped dictionaries first. Both share `transport`,
so errors and limits are the same.
"""

from __future__ import annotations

import ssl
from dataclasses import replace
from typing import Any, Self

import aiohttp

from agent.adapters.consul.address import ConsulAddress
from agent.adapters.consul.lanes import MAX_LANES, POLLS_PER_LANE, Lanes
from agent.adapters.consul.transport import Api, Credentials, new_session

__all__ = ["ConsulAddress", "ConsulClient"]


class ConsulClient:
    """An open client of one Consul agent; must be made inside a running event loop and closed there."""

    def __init__(
        self, address: ConsulAddress, polls_per_lane: int = POLLS_PER_LANE, max_lanes: int = MAX_LANES
    ) -> None:
        self.address = address
        self._credentials = Credentials(address)
        self._session: aiohttp.ClientSession = new_session()
        self.api: Any = Api(self._session, self._credentials, address)
        self.lanes = Lanes(address, self._credentials, polls_per_lane, max_lanes)

    def use_token(self, token: str) -> None:
        """Have every request from now on bear this ACL token; those under way are made again if it costs them."""
        self.address = replace(self.address, token=token)
        self._credentials.token = token

    def use_tls(self, context: ssl.SSLContext) -> None:
        """Make every connection from now on with this context; those that are open stay."""
        self._credentials.tls = context

    async def close(self) -> None:
        """Close every connection; pending calls fail with ConsulUnavailable."""
        await self.lanes.close()
        await self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
