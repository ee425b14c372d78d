"""Leaving the catalog: first of all when the agent stops, and before anything else does when the host goes down.

systemd stops in reverse order, so applications that are ordered after the agent end before it is told to: their peers
would go on calling them. hostmesh-shutdown.service, which ends before they do, asks the agent to leave at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from aiohttp import web

from agent.adapters.consul.registration import Registrar
from agent.adapters.proxy.admin import AdminClient
from agent.config import Config
from agent.errors import HostError, HostmeshError

log = logging.getLogger(__name__)

PEER_NOTICE_SECONDS = 1.0
"""From leaving the catalog until anything ends: peers that have not heard yet still call."""
DEREGISTER_PATIENCE_SECONDS = 5.0
_PATH = "/catalog/leave"


class Leaving:
    """Takes this host's instances out of the catalog, once."""

    def __init__(self, registrar: Registrar, notice_seconds: float) -> None:
        self._registrar = registrar
        self._notice_seconds = min(PEER_NOTICE_SECONDS, notice_seconds)
        self._lock = asyncio.Lock()
        self._left = False

    async def leave(self) -> None:
        """Return when peers have heard it; at once if they had before."""
        async with self._lock:
            if self._left:
                return
            self._left = True
            try:
                async with asyncio.timeout(DEREGISTER_PATIENCE_SECONDS):
                    await self._registrar.deregister()
            except (HostmeshError, TimeoutError) as error:
                log.warning("instances of this host stay in the catalog until their checks fail: %s", error)
            await asyncio.sleep(self._notice_seconds)

    def routes(self) -> Iterable[web.RouteDef]:
        """Return what the agent's own socket answers."""
        return (web.post(_PATH, self._answer),)

    async def _answer(self, _request: web.Request) -> web.Response:
        log.info("the host goes down: leaving the catalog")
        await self.leave()
        return web.Response(text="left\n")


async def ask_to_leave(config: Config) -> None:
    """Have the agent that runs leave the catalog; does nothing where none does."""
    agent = AdminClient(config.run_dir / "admin.sock", timeout_seconds=2 * DEREGISTER_PATIENCE_SECONDS)
    try:
        await agent.post(_PATH)
    except HostError as error:
        log.info("no agent leaves the catalog: %s", error)
