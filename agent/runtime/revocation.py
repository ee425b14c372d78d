"""Ends the open connections of revoked certificates; new ones are Envoy's to refuse, by the revocation lists.

Envoy can neither list nor close the connections of one identity. So, once Envoy has the lists: which connections are
there now? For a few seconds each says whose it is (translate/peer_log), and the kernel ends those of revoked
certificates. A connection on which nothing happens says nothing: after a while it is ended whoever's it is, since no
request is under way on it, and its client opens another. Connections with traffic of others are never touched.
Connections to servers of an identity that had a certificate revoked are all ended: secure naming says whose they are.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from agent.adapters.clock import Clock
from agent.errors import HostError
from agent.mesh.routes import Fault
from agent.mesh.trust import TrustBundle
from agent.translate.peer_log import RUNTIME_KEY, peers_of

_LOG = logging.getLogger(__name__)
LOOK_SECONDS = 0.25
SILENT_SECONDS = 1.5
"""A connection from which nothing has come for so long, and which has not said whose it is, is idle. Longer than the
interval in which all others say it."""
PATIENCE_SECONDS = 2.5
"""Idle ones are left alone for so long, which is how long they have had to say whose they are."""
LIMIT_SECONDS = 4.0
"""What has not said whose it is by then is ended: all but idle connections have."""


class Envoy(Protocol):
    """Envoy's admin interface."""

    async def post(self, path: str) -> str:
        """Return what a POST answers; raises HostError."""


class OpenConnections(Protocol):
    """The connections that Envoy has accepted on some ports, and its own ones to servers."""

    async def idle_times(self, ports: Collection[int]) -> dict[Accepted, float]:
        """Return seconds of silence by connection."""

    async def end(self, accepted: list[Accepted]) -> None:
        """End these."""

    async def end_to(self, servers: Collection[str], ports: Collection[int]) -> None:
        """End those to these servers (`ADDRESS:PORT`), none that was accepted on the ports."""


class Serials(Protocol):
    """Serial numbers that are kept."""

    def load(self) -> frozenset[int]:
        """Return them."""

    def store(self, serials: frozenset[int]) -> None:
        """Replace them; raises HostError."""


Accepted = tuple[str, int]
"""Peer (`ADDRESS:PORT`), local port."""
ServersOf = Callable[[frozenset[str]], frozenset[str]]
"""Gives the servers (`ADDRESS:PORT`) of identities (`ns/NAMESPACE/sa/ACCOUNT`)."""


class RevocationGuard:
    """Examines the open connections each time Envoy has acknowledged a bundle with newly revoked certificates."""

    def __init__(
        self,
        envoy: Envoy,
        connections: OpenConnections,
        log_file: Path,
        done: Serials,
        clock: Clock,
        on_faults: Callable[[tuple[Fault, ...]], None],
    ) -> None:
        self._envoy = envoy
        self._connections = connections
        self._log_file = log_file
        self._clock = clock
        self._on_faults = on_faults
        self._done = done
        self._bundle = TrustBundle(b"")
        self._servers_of: ServersOf = lambda _: frozenset()
        self._ports: frozenset[int] = frozenset()
        self._examined = done.load()
        self._wanted = asyncio.Event()

    def acknowledged(self, bundle: TrustBundle, servers_of: ServersOf, ports: frozenset[int]) -> None:
        """Take a bundle that Envoy has acknowledged: no new connection of these certificates can be from now on.

        Connections to the `ports` say whose they are.
        """
        self._bundle, self._servers_of, self._ports = bundle, servers_of, ports
        if any(revoked.number not in self._examined for revoked in bundle.revoked):
            self._wanted.set()

    async def run(self) -> None:
        """Examine whenever that is wanted, until cancelled; what fails is a fault, and tried again."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            revoked = frozenset(each.number for each in self._bundle.revoked)
            try:
                await self._leave(each.identity for each in self._bundle.revoked if each.number not in self._examined)
                await self._examine(revoked)
                await asyncio.to_thread(self._done.store, revoked)
            except HostError as error:
                reason = f"open connections of revoked certificates may stay: {error}"
                self._on_faults((Fault("revocation", reason),))
                _LOG.warning("revocation: %s", reason)
                self._wanted.set()
                await self._clock.sleep(1.0)
            else:
                self._examined = revoked
                self._on_faults(())

    async def _leave(self, identities: Iterable[str]) -> None:
        """End the connections to servers of these identities."""
        if servers := self._servers_of(frozenset(identities)):
            await self._connections.end_to(servers, self._ports)
            _LOG.info("revocation: ended the connections to %d servers of revoked identities", len(servers))

    async def _examine(self, revoked: frozenset[int]) -> None:
        left = set(await self._connections.idle_times(self._ports))
        if not left:
            return
        await self._ask(True)
        try:
            began = self._clock.monotonic()
            while left:
                await self._clock.sleep(LOOK_SECONDS)
                left = await self._look(left, revoked, self._clock.monotonic() - began)
        finally:
            await self._ask(False)

    async def _look(self, left: set[Accepted], revoked: frozenset[int], elapsed: float) -> set[Accepted]:
        """Return which connections still have not said whose they are."""
        await self._envoy.post("/reopen_logs")  # writes what it has gathered: else that takes up to ten seconds
        known = await asyncio.to_thread(self._read)
        silence = await self._connections.idle_times(self._ports)
        left &= silence.keys()
        theirs = {peer for peer in left if known.get(peer) in revoked}
        unknown = left - known.keys()
        idle = {peer for peer in unknown if elapsed >= PATIENCE_SECONDS and silence[peer] >= SILENT_SECONDS}
        if elapsed >= LIMIT_SECONDS:
            idle = unknown
        if theirs or idle:
            await self._connections.end([*theirs, *idle])
            _LOG.info("revocation: ended %d connections of revoked certificates, %d idle ones", len(theirs), len(idle))
        return unknown - idle

    async def _ask(self, on: bool) -> None:
        await self._envoy.post(f"/runtime_modify?{RUNTIME_KEY}={100 if on else 0}")
        if on:
            await self._envoy.post("/reopen_logs")
        else:
            with suppress(OSError):
                await asyncio.to_thread(self._log_file.unlink, True)

    def _read(self) -> dict[Accepted, int | None]:
        try:
            return peers_of(self._log_file.read_text(errors="replace").splitlines(keepends=True))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise HostError(f"{self._log_file}: cannot be read: {error.strerror}") from error
