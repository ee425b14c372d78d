"""Changing the root without an outage: prepare, activate, retire; and when each step may be taken.

Knows nothing of gRPC. A step is answered when it is on the disk and in the trust bundle.

prepare   the new root is trusted; every certificate that is issued from now on comes together with it
activate  it signs: not before it is trusted everywhere
retire    the old one is trusted no more: not before the last certificate that it signed has ended
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from node_ca.authority import ROOT_LIFETIME, Authority, Issuing
from node_ca.errors import ConfigError, InventoryError, Refusal
from node_ca.issuer_book import State
from node_ca.issuer_files import IssuerFiles
from node_ca.records import Inventory, IssueRecord, Search
from node_ca.replicas import Replica, Replicas
from node_ca.signer import Signer

MIN_ROOT_LIFETIME, MAX_ROOT_LIFETIME = 3600, 30 * 365 * 86400
"""Seconds."""
SERVER = "server"
"""The CA's own certificate in the records: it is made anew at each step, and none of the old is served."""


@dataclass(frozen=True)
class KnownIssuer:
    """An issuer with what the records say of it."""

    issuing: Issuing
    last_certificate_ends: int
    """Unix time, seconds; 0 for none."""


class RootRotation:
    """Takes the steps; every call raises Refusal or InventoryError."""

    def __init__(
        self,
        authority: Authority,
        inventory: Inventory,
        publish: Callable[[], Awaitable[object]],
        version: Callable[[], str],
        now: Callable[[], float] = time.time,
        *,
        replicas: Replicas | None = None,
    ) -> None:
        """Take what makes a new trust bundle and server certificate, and what returns the bundle's version.

        `replicas`: other CAs have the same records and must have the same issuers.
        """
        self._replicas = replicas
        self._authority = authority
        self._inventory = inventory
        self._publish = publish
        self._version = version
        self._now = now

    @property
    def bundle_version(self) -> str:
        """Return the version of the trust bundle."""
        return self._version()

    async def list(self) -> list[KnownIssuer]:
        """Return the issuers, oldest first."""
        ends: dict[str, int] = {}
        async for record in self._living():
            issuer = self._issuer_of(record)
            ends[issuer] = max(ends.get(issuer, 0), record.not_after)
        return [KnownIssuer(issuing, ends.get(issuing.entry.id, 0)) for issuing in self._authority.issuers]

    async def prepare(self, files: IssuerFiles, lifetime: int) -> KnownIssuer:
        """Trust a root made now (lifetime in seconds, 0 for ten years), or a plugged-in issuer's."""
        prepared = self._only(State.PREPARED)
        if prepared is not None:
            raise Refusal.premature(
                f"issuer {prepared.entry.id} is prepared already: activate it, or drop it "
                f"(`hostmesh ca root retire {prepared.entry.id}`)"
            )
        signer = self._read(files) if files != IssuerFiles(b"", b"") else self._make(lifetime)
        if any(signer.id == issuing.entry.id for issuing in self._authority.issuers):
            raise Refusal.invalid(f"issuer {signer.id}: is one of this CA's already")
        try:
            issuing = self._authority.prepare(signer, self._now())
        except ConfigError as error:
            raise InventoryError(str(error)) from error
        await self._publish()
        return KnownIssuer(issuing, 0)

    async def activate(self, issuer: str, acknowledged: str, *, force: bool) -> KnownIssuer:
        """Let the prepared issuer sign; `acknowledged` is the bundle version that all hosts say they have."""
        wanted = self._named(issuer, State.PREPARED)
        if not force:
            since = await self._trusted_by_all(wanted)
            if acknowledged != self._version():
                await self._check_spread(wanted, since)
        try:
            self._authority.activate(wanted.entry.id, self._now())
        except ConfigError as error:
            raise InventoryError(str(error)) from error
        await self._publish()
        return await self._listed(wanted.entry.id)

    async def retire(self, issuer: str, *, force: bool) -> KnownIssuer:
        """Trust the retiring issuer no more, or drop the prepared one; return what it was."""
        wanted = self._named(issuer, *((State.RETIRING, State.PREPARED) if issuer else (State.RETIRING,)))
        known = await self._listed(wanted.entry.id)
        if known.last_certificate_ends and not force:
            raise Refusal.premature(
                f"issuer {wanted.entry.id}: certificates that it signed hold until {_utc(known.last_certificate_ends)} "
                "at the latest: come again then, or --force cuts their holders off"
            )
        if not force:
            await self._check_unused(wanted)
        try:
            self._authority.retire(wanted.entry.id)
        except ConfigError as error:
            raise InventoryError(str(error)) from error
        await self._publish()
        return known

    async def _trusted_by_all(self, prepared: Issuing) -> float:
        """Return since when all CAs trust an issuer; refuse while one doesn't: its hosts would refuse ours."""
        since = prepared.entry.since
        for other in await self._others():
            entry = other.entry(prepared.entry.id)
            if entry is None:
                raise Refusal.premature(
                    f"issuer {prepared.entry.id}: the CA on {other.host} does not trust it: first `hostmesh ca root "
                    f"prepare --from FOLDER` there, with the same files. {_if_gone(other)}"
                )
            if entry.state is State.PREPARED:
                since = max(since, entry.since)
        return since

    async def _check_unused(self, wanted: Issuing) -> None:
        """Refuse while another CA signs by an issuer: hosts that ask us would refuse what it signs."""
        for other in await self._others():
            entry = other.entry(wanted.entry.id)
            if entry is not None and entry.state is State.ACTIVE:
                raise Refusal.premature(
                    f"issuer {wanted.entry.id}: the CA on {other.host} still signs by it: first `hostmesh ca root "
                    f"activate` there. {_if_gone(other)}"
                )

    async def _others(self) -> Sequence[Replica]:
        return await self._replicas.others() if self._replicas else ()

    async def _check_spread(self, prepared: Issuing, since: float) -> None:
        """Refuse while there are certificates that came without the new root: their holders may not know it."""
        before = [record async for record in self._living() if record.issued_at <= since]
        if before:
            last = max(record.not_after for record in before)
            raise Refusal.premature(
                f"issuer {prepared.entry.id}: not known to be trusted everywhere yet: of the certificates that hold, "
                f"{len(before)} were issued before it was prepared, the last ends at {_utc(last)}. Come again then, or "
                "as soon as all hosts have acknowledged the trust bundle; --force takes the risk"
            )

    async def _living(self) -> AsyncIterator[IssueRecord]:
        async for record in self._inventory.search(Search(ends_after=self._now())):
            if record.name != SERVER:
                yield record

    async def _listed(self, issuer: str) -> KnownIssuer:
        return next(known for known in await self.list() if known.issuing.entry.id == issuer)

    def _issuer_of(self, record: IssueRecord) -> str:
        return record.issuer or self._authority.issuers[0].entry.id  # records of old versions: of the first

    def _only(self, *states: State) -> Issuing | None:
        return next((issuing for issuing in self._authority.issuers if issuing.entry.state in states), None)

    def _named(self, issuer: str, *states: State) -> Issuing:
        """Return the issuer of that name, or the first in one of these states if no name was given."""
        if not issuer:
            found = self._only(*states)
            if found is None:
                raise Refusal.premature(f"no issuer is {states[0]} (`hostmesh ca root list`)")
            return found
        known = {issuing.entry.id: issuing for issuing in self._authority.issuers}
        if issuer not in known:
            raise Refusal.unknown(f"issuer {issuer[:40]!r}: there is none (`hostmesh ca root list`)")
        if known[issuer].entry.state not in states:
            raise Refusal.premature(f"issuer {issuer} is {known[issuer].entry.state}, it must be {' or '.join(states)}")
        return known[issuer]

    def _read(self, files: IssuerFiles) -> Signer:
        try:
            return self._authority.read_issuer(files, self._now())
        except ConfigError as error:
            raise Refusal.invalid("; ".join(error.problems)) from error

    def _make(self, lifetime: int) -> Signer:
        if self._replicas is not None:
            raise Refusal.invalid(
                "this CA shares its records with others (sharedRecords), which would not have a root that it makes: "
                "give each of them the same files (`hostmesh ca root prepare --from FOLDER`)"
            )
        if lifetime and not MIN_ROOT_LIFETIME <= lifetime <= MAX_ROOT_LIFETIME:
            raise Refusal.invalid(
                f"lifetime: {lifetime} s, {MIN_ROOT_LIFETIME} s to {MAX_ROOT_LIFETIME} s (30 years) are allowed"
            )
        return self._authority.new_root(lifetime or ROOT_LIFETIME, self._now())


def _if_gone(other: Replica) -> str:
    return f"It was last there at {_utc(int(other.seen_at))}; --force if it is gone for good"


def _utc(unix: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix))
