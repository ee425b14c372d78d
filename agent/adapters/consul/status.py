"""Writes this node's status document to KV under a session of its own, so that it vanishes when the agent does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import NoReturn

import msgspec

from agent.adapters.consul.client import ConsulClient
from agent.adapters.consul.polling import REFUSED_WAIT, Backoff
from agent.errors import ConsulRefused, ConsulUnavailable
from agent.mesh.names import status_key
from agent.mesh.routes import Fault
from agent.mesh.status import NodeStatus

log = logging.getLogger(__name__)

SESSION_TTL = 15
RENEW_INTERVAL = 5.0
WRITE_INTERVAL = 1.0
GATHER_SECONDS = 0.1
"""From a change to its write: what is sent to Envoy is acknowledged by then, and one document tells both."""
MAX_DOCUMENT = 128 * 2**10
"""Bytes; Consul's own limit is 512 KiB, and every `hostmesh proxy-status` reads the documents of all nodes."""


class StatusWriter:
    """Owns `hostmesh/status/<node>`. `run` must be running for anything to be written.

    `tell` gets the reason when Consul doesn't take it, and None when it does again: the first to notice a Consul that
    hangs, as the watches wait minutes for their answers.
    """

    def __init__(self, client: ConsulClient, node: str, tell: Callable[[str | None], None] = lambda _: None) -> None:
        self._client, self._node, self._key, self._tell = client, node, status_key(node), tell
        self._session = ""
        self._may_take_over = True
        self._wanted: NodeStatus | None = None
        self._written: NodeStatus | None = None
        self._changed = asyncio.Event()

    def write(self, status: NodeStatus) -> None:
        """Have this document, or the latest by then, written: in a moment, but a second after the last one."""
        self._wanted = status
        self._changed.set()

    async def run(self) -> NoReturn:
        """Keep the session and the document for ever; ends by cancellation (then call `close`)."""
        backoff = Backoff()
        loop = asyncio.get_running_loop()
        renew_at = 0.0
        while True:
            try:
                if not self._session or loop.time() >= renew_at:
                    await self._keep_session()
                    renew_at = loop.time() + RENEW_INTERVAL
                wrote = await self._write_wanted()
                if backoff.failures > 1:
                    log.info("consul: status of %s is written again", self._node)
                if backoff.failures:
                    self._tell(None)
                backoff.reset()
            except (ConsulUnavailable, ConsulRefused) as error:
                self._written, delay = None, backoff.next()
                if backoff.failures == 1:
                    self._tell(str(error))
                if backoff.failures == 2:
                    log.warning("consul: status of %s can't be written: %s", self._node, error)
                await asyncio.sleep(REFUSED_WAIT if isinstance(error, ConsulRefused) else delay)
                renew_at = 0.0
                continue
            if wrote:
                await asyncio.sleep(WRITE_INTERVAL)
            await self._wait_for_change(renew_at - loop.time())

    async def close(self) -> None:
        """Destroy the session and with it the document; a Consul that is away does so itself within two TTLs."""
        session, self._session = self._session, ""
        if session:
            try:
                await self._client.api.session.destroy(session)
            except (ConsulUnavailable, ConsulRefused) as error:
                log.warning("consul: the session of %s is left to expire: %s", self._node, error)

    async def _wait_for_change(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._changed.wait()
        except TimeoutError:
            return
        await asyncio.sleep(GATHER_SECONDS)

    async def _keep_session(self) -> None:
        if self._session:
            try:
                await self._client.api.session.renew(self._session)
            except ConsulRefused as error:
                log.warning("consul: the session of %s is gone, making a new one: %s", self._node, error)
                self._session, self._written = "", None
        if not self._session:
            self._session = await self._client.api.session.create(
                name=f"hostmesh-agent {self._node}", lock_delay=0, behavior="delete", ttl=SESSION_TTL
            )

    async def _write_wanted(self) -> bool:
        """Write what is wanted unless it stands there; tell whether a write was made."""
        self._changed.clear()
        status = self._wanted
        if status is None or (self._written is not None and _same(status, self._written)):
            return False
        value = encode_status(status)
        if not await self._client.api.kv.put(self._key, value, acquire=self._session):
            await self._take_over()
            if not await self._client.api.kv.put(self._key, value, acquire=self._session):
                reason = "held by another agent of the same node name; give each agent its own node name"
                raise ConsulUnavailable(f"Consul key {self._key}: {reason}")
        self._written, self._may_take_over = status, False
        return True

    async def _take_over(self) -> None:
        """End the session that a killed predecessor left; only before the first own write, so two agents never duel."""
        if not self._may_take_over:
            return
        _, pair = await self._client.api.kv.get(self._key)
        if pair and pair.get("Session"):
            await self._client.api.session.destroy(pair["Session"])


def encode_status(status: NodeStatus) -> bytes:
    """Return the document as JSON, with as many of the faults as fit into MAX_DOCUMENT bytes."""
    kept, value = len(status.faults), msgspec.json.encode(status)
    while len(value) > MAX_DOCUMENT and kept:
        kept //= 2
        rest = Fault("more faults", f"{len(status.faults) - kept} left out here; the agent's log has them")
        value = msgspec.json.encode(msgspec.structs.replace(status, faults=(*status.faults[:kept], rest)))
    return value


def _same(one: NodeStatus, other: NodeStatus) -> bool:
    return msgspec.structs.replace(one, updated_at=0.0) == msgspec.structs.replace(other, updated_at=0.0)
