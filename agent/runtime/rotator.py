"""Keeps a valid certificate for every identity of this host: from the disk, by a join token, by renewal.

One task for each identity; the identities may change while it runs. What is had is never taken away: while the CA is
away the last certificate stays, and a fault says so. Decisions about times are translate/rotation's.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from operator import itemgetter

from agent.adapters.clock import Clock
from agent.adapters.identity import (
    CertificateAuthority,
    IssuedChain,
    KeyStore,
    StoredCertificate,
    TokenSource,
    is_for_other_ca,
    new_key,
)
from agent.errors import CaRefused, CaUnavailable, HostError, HostmeshError, UserError
from agent.mesh.routes import Fault
from agent.mesh.service import Identity
from agent.mesh.snapshot import Certificate
from agent.translate.rotation import Decision, Expired, Renew, Revoked, Wait, decide, renewal_time, retry_delay

_LOG = logging.getLogger(__name__)
_POLL_SECONDS = 1.0
"""How often a waiting rotator looks for a new token, and whether the clock was set."""

CLOCK_TOLERANCE_SECONDS = 30.0
"""How far this host's clock may be from the CA's before it is a fault."""

OnCertificates = Callable[[Mapping[Identity, Certificate], bytes], None]
"""Gets all certificates held now and the trust bundle (PEM), at every change."""
OnFaults = Callable[[tuple[Fault, ...]], None]
"""Gets all faults there are now, at every change; () means all is well."""


class Rotator:
    """Rotates the certificates of some identities."""

    def __init__(
        self,
        identities: Iterable[Identity],
        keystore: KeyStore,
        ca: CertificateAuthority,
        tokens: TokenSource,
        clock: Clock,
        on_certificates: OnCertificates,
        on_faults: OnFaults,
        jitter: Callable[[], float] = lambda: random.uniform(-1, 1),
    ) -> None:
        """Take everything it works with; `jitter` draws a number from -1 to 1."""
        self._identities = tuple(dict.fromkeys(identities))
        self._keystore = keystore
        self._ca = ca
        self._tokens = tokens
        self._clock = clock
        self._on_certificates = on_certificates
        self._on_faults = on_faults
        self._jitter = jitter
        self._stored: dict[Identity, StoredCertificate] = {}
        self._ended: dict[Identity, StoredCertificate] = {}
        """Had ended when they were read from the disk: never published, but for a while the CA takes them as proof."""
        self._asked: dict[Identity, asyncio.Future[None]] = {}
        """Renewals that an operator waits for."""
        self._unsaved: set[Identity] = set()
        self._revoked: frozenset[int] = frozenset()
        self._faults: dict[Identity, Fault] = {}
        self._clock_fault: tuple[Fault, ...] = ()
        self._changed = asyncio.Event()

    def set_identities(self, identities: Iterable[Identity]) -> None:
        """Replace the identities; what those no longer wanted had is let go (on the disk it stays)."""
        self._identities = tuple(dict.fromkeys(identities))
        self._changed.set()

    def held(self) -> Mapping[Identity, StoredCertificate]:
        """Return what is held now, by identity."""
        return dict(self._stored)

    def note_revoked(self, serials: frozenset[int]) -> None:
        """Take the serial numbers that are revoked in the mesh; who has one of them needs a join token."""
        self._revoked = serials

    def hasten(self, within: float) -> None:
        """Renew everything within so many seconds, each identity at its own moment: the roots have changed."""
        now = self._clock.now()
        for identity, stored in self._stored.items():
            moment = now + within * (1 + self._jitter()) / 2
            if moment < stored.renew_at:
                self._stored[identity] = replace(stored, renew_at=moment)

    async def renew(self, identity: Identity) -> None:
        """Renew a certificate now; raises HostmeshError with the reason if that fails, UserError if nobody has it."""
        if identity not in self._identities:
            raise UserError(f"{identity.path}: no workload of this host has this identity")
        future = self._asked.get(identity)
        if future is None:
            future = self._asked[identity] = asyncio.get_running_loop().create_future()
        await asyncio.shield(future)

    async def run(self) -> None:
        """Publish at once what the disk has, then keep it fresh for ever."""
        running: dict[Identity, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._changed.clear()
                new = [identity for identity in self._identities if identity not in running]
                for gone in running.keys() - set(self._identities):
                    running.pop(gone).cancel()
                    self._forget(gone)
                self._load(new)
                for identity in new:
                    running[identity] = tasks.create_task(self._keep_fresh(identity), name=f"rotate {identity.path}")
                await self._changed.wait()

    def _forget(self, identity: Identity) -> None:
        self._unsaved.discard(identity)
        self._report(identity, None)
        if self._stored.pop(identity, None) is not None:
            self._publish()

    def _load(self, identities: Iterable[Identity]) -> None:
        found = False
        for identity in identities:
            try:
                stored = self._keystore.load(identity)
            except HostError as error:
                self._report(identity, str(error))
                continue
            if stored is None:
                continue
            if self._clock.now() < stored.leaf.not_after:
                self._stored[identity] = stored
                found = True
            else:
                self._ended[identity] = stored
        if found:
            self._publish()

    async def _keep_fresh(self, identity: Identity) -> None:
        failures = 0
        while True:
            match self._decide(identity):
                case Wait(until):
                    await self._clock.sleep(min(until - self._clock.now(), _POLL_SECONDS))
                    if identity in self._unsaved:
                        await self._save(identity)
                    continue
                case Renew():
                    obtain = self._renew
                case Expired():
                    obtain = self._recover
                case Revoked():
                    obtain = self._readmit
            asked = self._asked.pop(identity, None)
            try:
                await self._accept(identity, await obtain(identity))
            except HostmeshError as error:
                failures += 1
                self._report(identity, f"{error}{self._what_remains(identity)}")
                _answer(asked, error)
                await self._pause(identity, failures)
            else:
                failures = 0
                _answer(asked)

    def _decide(self, identity: Identity) -> Decision:
        stored = self._stored.get(identity)
        if stored is None:
            return Expired()
        if self._is_revoked(stored):
            return Revoked()
        if identity in self._asked and self._clock.now() < stored.leaf.not_after:
            return Renew()
        return decide(self._clock.now(), stored.renew_at, stored.leaf.not_after, stored.obtained_at)

    async def _renew(self, identity: Identity) -> IssuedChain:
        stored = self._stored[identity]
        try:
            return await self._ca.renew(identity, new_key(), stored.certificate, stored.trust_bundle_pem)
        except (CaRefused, CaUnavailable) as error:
            # A CA that was made anew neither knows our certificate nor is known to us: a token the operator has put
            # there since helps before the certificate's end.
            token = self._tokens.token_for(identity)
            if token is None or (
                isinstance(error, CaUnavailable) and not is_for_other_ca(token, stored.trust_bundle_pem)
            ):
                raise
            try:
                return await self._enrol(identity)
            except CaRefused as refused:
                raise CaRefused(f"{error}; and by join token: {refused}") from error

    async def _recover(self, identity: Identity) -> IssuedChain:
        """Get a certificate without a valid one: by one that has just ended, else by join token."""
        ended = self._stored.get(identity) or self._ended.get(identity)
        if ended is None:
            return await self._enrol(identity)
        try:
            issued = await self._ca.renew_expired(identity, new_key(), ended.certificate, ended.trust_bundle_pem)
        except (CaRefused, CaUnavailable) as error:
            if self._tokens.token_for(identity) is None:
                raise CaRefused(f"{error}; and there is no join token in {self._tokens.where()}") from error
            try:
                return await self._enrol(identity)
            except (CaRefused, CaUnavailable) as refused:
                raise type(refused)(f"{refused}; and by the expired certificate: {error}") from error
        _LOG.warning("certificate of %s: renewed by one that had ended", identity.path)
        return issued

    async def _readmit(self, identity: Identity) -> IssuedChain:
        """Get a certificate in place of a revoked one: by join token, if the operator wants that."""
        reason = (
            f"serial {self._stored[identity].leaf.serial} was revoked, so peers refuse it: if this host may go on, put "
            f"a new join token into {self._tokens.where()} (hostmesh ca token create --identity {identity.path})"
        )
        if self._tokens.token_for(identity) is None:
            raise CaRefused(reason)
        try:
            return await self._enrol(identity)
        except CaRefused as refused:
            raise CaRefused(f"{reason}; the present one: {refused}") from refused

    def _is_revoked(self, stored: StoredCertificate) -> bool:
        return int(stored.leaf.serial, 16) in self._revoked

    async def _enrol(self, identity: Identity) -> IssuedChain:
        token = self._tokens.token_for(identity)
        if token is None:
            raise CaRefused(
                f"no valid certificate and no join token in {self._tokens.where()}: put one there, made by "
                f"`hostmesh ca token create --identity {identity.path}`"
            )
        key = self._keystore.load_enrolling_key(identity)
        if key is None:
            key = new_key()
            self._keystore.store_enrolling_key(identity, key)
        return await self._ca.enrol(identity, key, token)

    async def _accept(self, identity: Identity, issued: IssuedChain) -> None:
        now = self._clock.now()
        if now >= issued.leaf.not_after:
            raise CaUnavailable("the new certificate is expired already: is this host's clock right?")
        renew_at = renewal_time(now, issued.leaf.not_after, self._jitter())
        stored = StoredCertificate(issued.certificate, issued.leaf, issued.trust_bundle_pem, now, renew_at)
        self._note_clock(issued.ca_time)
        self._stored[identity] = stored
        self._ended.pop(identity, None)
        await self._save(identity)
        self._publish()
        _LOG.info("certificate of %s: serial %s, renewal in %.0f s", identity.path, stored.leaf.serial, renew_at - now)

    def _note_clock(self, ca_time: float | None) -> None:
        """Compare this host's clock with the CA's: certificates begin five minutes early, and no clock may be worse."""
        offset = self._clock.now() - ca_time if ca_time is not None else 0.0
        fault: tuple[Fault, ...] = ()
        if abs(offset) > CLOCK_TOLERANCE_SECONDS:
            which = "ahead of" if offset > 0 else "behind"
            reason = f"is {abs(offset):.0f} s {which} hostmesh-ca's: have it set (chrony or systemd-timesyncd)"
            fault = (Fault("this host's clock", reason),)
        before, self._clock_fault = self._clock_fault, fault
        if before != fault:
            _LOG.warning("this host's clock: %s", fault[0].reason if fault else "in order again")
            self._tell_faults()

    async def _save(self, identity: Identity) -> None:
        """Put it on the disk; if that fails, it is used all the same, and the next poll tries again."""
        try:
            await asyncio.to_thread(self._keystore.store, identity, self._stored[identity])
        except HostError as error:
            self._unsaved.add(identity)
            self._report(identity, f"{error} (the certificate is in use, but a restart would lose it)")
        else:
            self._unsaved.discard(identity)
            self._report(identity, None)

    async def _pause(self, identity: Identity, failures: int) -> None:
        """Wait before the next attempt; a token that is new or changed ends the wait."""
        stored = self._stored.get(identity)
        now = self._clock.monotonic()
        remaining = stored.leaf.not_after - self._clock.now() if stored else 0.0
        until = now + retry_delay(failures, remaining, self._jitter())
        token = self._current_token(identity)
        while (left := until - self._clock.monotonic()) > 0 and self._current_token(identity) == token:
            if identity in self._asked:
                return
            await self._clock.sleep(min(left, _POLL_SECONDS))

    def _current_token(self, identity: Identity) -> str | None:
        try:
            return self._tokens.token_for(identity)
        except HostError:
            return None  # the next attempt reports it

    def _what_remains(self, identity: Identity) -> str:
        stored = self._stored.get(identity)
        if stored is None or self._is_revoked(stored):
            return ""
        end = datetime.fromtimestamp(stored.leaf.not_after, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        held = self._clock.now() < stored.leaf.not_after
        return f" (the present certificate holds until {end})" if held else f" (the certificate expired at {end})"

    def _publish(self) -> None:
        certificates = {
            identity: stored.certificate for identity, stored in sorted(self._stored.items(), key=itemgetter(0))
        }
        newest = max(self._stored.values(), key=lambda stored: stored.obtained_at, default=None)
        self._on_certificates(certificates, newest.trust_bundle_pem if newest else b"")

    def _report(self, identity: Identity, reason: str | None) -> None:
        before = self._faults.pop(identity, None)
        if reason is not None:
            self._faults[identity] = Fault(f"certificate of {identity.path}", reason)
        if self._faults.get(identity) == before:
            return
        _LOG.warning("certificate of %s: %s", identity.path, reason or "in order again")
        self._tell_faults()

    def _tell_faults(self) -> None:
        self._on_faults((*sorted(self._faults.values()), *self._clock_fault))


def _answer(asked: asyncio.Future[None] | None, error: HostmeshError | None = None) -> None:
    """Tell the operator who waits, if he still does."""
    if asked is None or asked.done():
        return
    if error is None:
        asked.set_result(None)
    else:
        asked.set_exception(error)
        asked.exception()  # he may have gone
