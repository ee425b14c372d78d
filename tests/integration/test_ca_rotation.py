"""The agent's rotator against a real hostmesh-ca: rotation without a gap, and what happens while the CA is away."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509

from agent.adapters.clock import Clock, SystemClock
from agent.adapters.identity import CaGroup, FixedTokens, KeyStore, TokenFile, TokenSource, new_key
from agent.adapters.identity.administration import CaAdministration
from agent.adapters.identity.keys import read_chain
from agent.errors import CaRefused, CaUnavailable, UserError
from agent.mesh.routes import Fault
from agent.mesh.service import Identity
from agent.mesh.snapshot import Certificate
from agent.runtime.rotator import Rotator
from tests.integration.ca_process import CaProcess

REVIEWS, RATINGS = Identity("default", "reviews"), Identity("default", "ratings")


@dataclass
class Seen:
    """What a rotator has said."""

    certificates: list[tuple[float, dict[Identity, Certificate], bytes]] = field(default_factory=list)
    faults: list[tuple[Fault, ...]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    rotator: Rotator | None = None

    def on_certificates(self, certificates: Mapping[Identity, Certificate], bundle: bytes) -> None:
        self.certificates.append((time.time(), dict(certificates), bundle))
        self.changed.set()

    def on_faults(self, faults: tuple[Fault, ...]) -> None:
        self.faults.append(faults)
        self.changed.set()

    def chains(self, identity: Identity = REVIEWS) -> list[tuple[float, bytes]]:
        """Return the different chains of an identity with the time each was published."""
        published = [(at, held[identity].chain_pem) for at, held, _ in self.certificates if identity in held]
        return [next(group) for _, group in itertools.groupby(published, key=lambda pair: pair[1])]

    async def until_chains(self, count: int, seconds: float = 20, identity: Identity = REVIEWS) -> None:
        await self._until(lambda: len(self.chains(identity)) >= count, seconds)

    async def until_held(self, count: int, seconds: float = 20) -> None:
        await self._until(lambda: len(self.certificates[-1][1]) == count, seconds)

    async def until_fault(self, text: str, seconds: float = 20) -> None:
        await self._until(lambda: any(text in f.reason for f in (self.faults or [()])[-1]), seconds)

    async def until_well(self, seconds: float = 20) -> None:
        await self._until(lambda: bool(self.faults) and self.faults[-1] == (), seconds)

    async def _until(self, condition: object, seconds: float) -> None:
        assert callable(condition)
        async with asyncio.timeout(seconds):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def rotating(
    ca: CaProcess, tokens: TokenSource, identities: tuple[Identity, ...] = (REVIEWS,), clock: Clock | None = None
) -> AsyncIterator[Seen]:
    """Run a rotator whose keys are kept beside the CA's folder."""
    seen, store = Seen(), KeyStore(ca.directory / "keys")
    rotator = Rotator(
        identities, store, ca.client(), tokens, clock or SystemClock(), seen.on_certificates, seen.on_faults
    )
    seen.rotator = rotator
    task = asyncio.create_task(rotator.run())
    try:
        yield seen
        assert not task.done(), task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def token_file(ca: CaProcess, *identities: Identity) -> TokenFile:
    path = ca.directory / "join-token"
    path.write_text("".join(f"{identity.path} {ca.token(identity.path)}\n" for identity in identities))
    return TokenFile(path)


async def test_several_identities_rotate_without_a_gap(tmp_path: Path) -> None:
    with CaProcess(tmp_path / "ca", lifetime="4s") as ca:
        tokens = token_file(ca, REVIEWS, RATINGS)
        async with rotating(ca, tokens, (REVIEWS, RATINGS)) as seen:
            await asyncio.gather(seen.until_chains(4), seen.until_chains(4, identity=RATINGS))
    assert not seen.faults
    for identity in (REVIEWS, RATINGS):
        chains = seen.chains(identity)
        leaves = [x509.load_pem_x509_certificate(chain) for _, chain in chains]
        for (published, _), leaf, before in zip(chains[1:], leaves[1:], leaves, strict=False):
            assert published < before.not_valid_after_utc.timestamp() - 1, "long before the old one's end"
            assert leaf.not_valid_before_utc.timestamp() < published - 30, "valid on hosts whose clock is behind"
        assert len({leaf.serial_number for leaf in leaves}) == len(leaves)
    for _, held, bundle in seen.certificates:
        for identity, certificate in held.items():
            read_chain(certificate.key_pem, certificate.chain_pem, identity)
            leaf = x509.load_pem_x509_certificate(certificate.chain_pem)
            leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(bundle))


async def test_identities_come_and_go_while_it_runs(tmp_path: Path) -> None:
    with CaProcess(tmp_path / "ca", lifetime="4s") as ca:
        async with rotating(ca, token_file(ca, REVIEWS, RATINGS), ()) as seen:
            assert seen.rotator is not None
            seen.rotator.set_identities((REVIEWS,))
            await seen.until_chains(1)
            seen.rotator.set_identities((REVIEWS, RATINGS))
            await seen.until_chains(1, identity=RATINGS)
            seen.rotator.set_identities((RATINGS,))
            await seen.until_chains(2, identity=RATINGS)
            assert set(seen.certificates[-1][1]) == {RATINGS}
            seen.rotator.set_identities((RATINGS, REVIEWS))
            await seen.until_held(2)
            assert len(seen.chains()) == 1, "what the disk has still holds"
    assert not seen.faults


async def test_the_ca_goes_and_comes_back(tmp_path: Path) -> None:
    with CaProcess(tmp_path / "ca", lifetime="8s") as ca:
        async with rotating(ca, token_file(ca, REVIEWS)) as seen:
            await seen.until_chains(1)
            await asyncio.to_thread(ca.kill)
            await seen.until_fault("the present certificate holds until")
            assert len(seen.chains()) == 1
            assert [fault.subject for fault in seen.faults[-1]] == ["certificate of ns/default/sa/reviews"]
            await asyncio.to_thread(ca.start)
            await seen.until_chains(2)
            await seen.until_well()
    (_, first), (renewed, _) = seen.chains()[:2]
    assert renewed < x509.load_pem_x509_certificate(first).not_valid_after_utc.timestamp()


async def test_the_ca_is_away_for_three_quarters_of_a_lifetime_just_after_a_renewal(tmp_path: Path) -> None:
    """And for 40 % beginning when renewal is due: nobody is ever without a certificate."""
    lifetime, start = 12.0, 1.0  # seconds; what a CA's own start takes is a part of its being away
    with CaProcess(tmp_path / "ca", lifetime=f"{lifetime:g}s") as ca:
        async with rotating(ca, token_file(ca, REVIEWS)) as seen:
            for chains, beginning, away in ((1, 0.0, lifetime * 3 / 4 - start), (2, 5.0, lifetime * 0.4 - start)):
                await seen.until_chains(chains)
                begins = seen.chains()[-1][0] + beginning
                await asyncio.sleep(begins - time.time())
                await asyncio.to_thread(ca.kill)
                await asyncio.sleep(begins + away - time.time())
                await asyncio.to_thread(ca.start)
                await seen.until_chains(chains + 1)
    for (_, before), (published, _) in itertools.pairwise(seen.chains()):
        assert published < x509.load_pem_x509_certificate(before).not_valid_after_utc.timestamp()


class WrongClock(SystemClock):
    """A clock that is off."""

    def __init__(self, offset: float) -> None:
        self._offset = offset

    def now(self) -> float:
        return super().now() + self._offset


@pytest.mark.parametrize(("offset", "word"), [(120.0, "120 s ahead of"), (-120.0, "120 s behind")])
async def test_a_clock_two_minutes_off_is_told_and_costs_nothing(tmp_path: Path, offset: float, word: str) -> None:
    with CaProcess(tmp_path / "ca", lifetime="300s") as ca:
        async with rotating(ca, token_file(ca, REVIEWS), clock=WrongClock(offset)) as seen:
            await seen.until_chains(1)
            await seen.until_fault(word)
            assert seen.rotator is not None
            await seen.rotator.renew(REVIEWS)
            for _, chain in seen.chains():
                leaf = x509.load_pem_x509_certificate(chain)
                assert (
                    leaf.not_valid_before_utc.timestamp() < time.time() + offset < leaf.not_valid_after_utc.timestamp()
                )


async def test_everything_is_renewed_when_the_roots_change(tmp_path: Path) -> None:
    with CaProcess(tmp_path / "ca") as ca:
        async with rotating(ca, token_file(ca, REVIEWS, RATINGS), (REVIEWS, RATINGS)) as seen:
            await asyncio.gather(seen.until_chains(1), seen.until_chains(1, identity=RATINGS))
            assert seen.rotator is not None
            seen.rotator.hasten(2.0)
            await asyncio.gather(seen.until_chains(2, 6), seen.until_chains(2, 6, RATINGS))


async def test_a_token_may_come_later(tmp_path: Path) -> None:
    with CaProcess(tmp_path / "ca") as ca:
        async with rotating(ca, TokenFile(ca.directory / "join-token")) as seen:
            await seen.until_fault("hostmesh ca token create --identity ns/default/sa/reviews")
            token_file(ca, REVIEWS)
            await seen.until_chains(1)
            await seen.until_well()


async def test_a_revoked_host_says_so_and_is_admitted_anew_by_a_new_token(tmp_path: Path) -> None:
    with CaProcess(tmp_path / "ca") as ca:
        async with rotating(ca, token_file(ca, REVIEWS)) as seen:
            await seen.until_chains(1)
            assert seen.rotator is not None
            serial = seen.rotator.held()[REVIEWS].leaf.serial
            await asyncio.to_thread(CaAdministration(str(ca.socket)).revoke, serial, "", "stolen")
            seen.rotator.note_revoked(frozenset({int(serial, 16)}))
            await seen.until_fault(
                f"serial {serial} was revoked, so peers refuse it: if this host may go on, put a new"
            )
            (fault,) = seen.faults[-1]
            assert "used up" in fault.reason
            assert "\n" not in fault.reason
            (ca.directory / "join-token").unlink()
            with pytest.raises(CaRefused, match="was revoked"):
                await seen.rotator.renew(REVIEWS)
            token_file(ca, REVIEWS)
            await seen.until_chains(2)
            await seen.until_well()


async def test_a_restarted_agent_serves_from_the_disk_while_the_ca_is_away(tmp_path: Path) -> None:
    with CaProcess(tmp_path / "ca") as ca:
        async with rotating(ca, token_file(ca, REVIEWS)) as before:
            await before.until_chains(1)
        ca.kill()
        async with rotating(ca, FixedTokens({})) as seen:
            await seen.until_chains(1, seconds=2)
        assert seen.certificates[0][1:] == before.certificates[-1][1:]


async def test_an_expired_certificate_falls_back_to_the_token(tmp_path: Path) -> None:
    with CaProcess(tmp_path / "ca", lifetime="3s", graceRenewal="0s") as ca:
        async with rotating(ca, token_file(ca, REVIEWS)) as before:
            await before.until_chains(1)
        leaf = x509.load_pem_x509_certificate(before.chains()[-1][1])
        await asyncio.sleep(leaf.not_valid_after_utc.timestamp() - time.time())  # its end is the condition
        async with rotating(ca, TokenFile(ca.directory / "join-token")) as seen:
            await seen.until_fault("used up")
            assert not seen.certificates, "an expired certificate is not published"
            token_file(ca, REVIEWS)
            await seen.until_chains(2)
            await seen.until_well()


async def test_an_expired_certificate_is_renewed_by_its_key_for_a_while(tmp_path: Path) -> None:
    with CaProcess(tmp_path / "ca", lifetime="3s") as ca:
        async with rotating(ca, token_file(ca, REVIEWS)) as before:
            await before.until_chains(1)
        leaf = x509.load_pem_x509_certificate(before.chains()[-1][1])
        await asyncio.sleep(leaf.not_valid_after_utc.timestamp() - time.time())  # its end is the condition
        async with rotating(ca, FixedTokens({})) as seen:
            await seen.until_chains(1)
            assert not seen.faults


async def test_an_operator_renews_now(tmp_path: Path) -> None:
    with CaProcess(tmp_path / "ca") as ca:
        async with rotating(ca, token_file(ca, REVIEWS)) as seen:
            await seen.until_chains(1)
            assert seen.rotator is not None
            await seen.rotator.renew(REVIEWS)
            assert len(seen.chains()) == 2
            with pytest.raises(UserError, match="no workload of this host"):
                await seen.rotator.renew(RATINGS)
            await asyncio.to_thread(ca.kill)
            with pytest.raises(CaUnavailable):
                await seen.rotator.renew(REVIEWS)
            assert len(seen.chains()) == 2


async def test_another_ca_is_asked_while_the_first_is_away(tmp_path: Path) -> None:
    gone = CaProcess(tmp_path / "gone")
    with CaProcess(tmp_path / "ca") as ca:
        group = CaGroup([gone.client(), ca.client()])
        issued = await group.enrol(REVIEWS, new_key(), ca.token(REVIEWS.path))
        started = time.monotonic()
        await group.renew(REVIEWS, new_key(), issued.certificate, issued.trust_bundle_pem)
        assert time.monotonic() - started < 2, "the one that answered last is asked first"
        with pytest.raises(CaRefused):
            await group.enrol(REVIEWS, new_key(), "hostmesh-join-v1.no.token")
        await asyncio.to_thread(ca.kill)
        with pytest.raises(CaUnavailable, match="; "):
            await group.renew(REVIEWS, new_key(), issued.certificate, issued.trust_bundle_pem)


async def test_a_corrupt_file_is_reported_and_replaced(tmp_path: Path) -> None:
    with CaProcess(tmp_path / "ca") as ca:
        async with rotating(ca, token_file(ca, REVIEWS)) as before:
            await before.until_chains(1)
        (stored,) = (ca.directory / "keys").iterdir()
        stored.write_bytes(stored.read_bytes()[:300])
        async with rotating(ca, token_file(ca, REVIEWS)) as seen:
            await seen.until_chains(1)
            await seen.until_well()
        assert "corrupt" in seen.faults[0][0].reason
        stored_again = KeyStore(ca.directory / "keys").load(REVIEWS)
        assert stored_again is not None
        assert stored_again.certificate.chain_pem == seen.chains()[-1][1]


async def test_a_ca_made_anew_is_joined_before_the_old_certificate_ends(tmp_path: Path) -> None:
    with CaProcess(tmp_path / "ca", lifetime="12s") as ca:
        async with rotating(ca, token_file(ca, REVIEWS)) as seen:
            await seen.until_chains(1)
            old_root = ca.root_path.read_bytes()
            await asyncio.to_thread(ca.stop)
            await asyncio.to_thread(shutil.rmtree, ca.directory / "state")
            await asyncio.to_thread(ca.start)
            token_file(ca, REVIEWS)
            await seen.until_chains(2, seconds=18)
    (_, first), (joined, _) = seen.chains()[:2]
    assert joined < x509.load_pem_x509_certificate(first).not_valid_after_utc.timestamp()
    assert seen.certificates[-1][2] == ca.root_path.read_bytes() != old_root


async def test_an_answer_lost_on_the_way_does_not_cost_the_token(tmp_path: Path) -> None:
    """An agent that died between the CA's answer and its own disk comes again with the same key."""
    with CaProcess(tmp_path / "ca") as ca:
        tokens, key = token_file(ca, REVIEWS), new_key()
        KeyStore(ca.directory / "keys").store_enrolling_key(REVIEWS, key)
        token = tokens.token_for(REVIEWS)
        assert token is not None
        await ca.client().enrol(REVIEWS, key, token)
        async with rotating(ca, tokens) as seen:
            await seen.until_chains(1)
        assert not seen.faults


async def test_an_unwritable_disk_does_not_keep_a_certificate_from_use(tmp_path: Path) -> None:
    with CaProcess(tmp_path / "ca", lifetime="6s") as ca:
        async with rotating(ca, token_file(ca, REVIEWS)) as seen:
            await seen.until_chains(1)
            stored = ca.directory / "keys/default_reviews.pem"
            stored.unlink()
            (stored / "in the way").mkdir(parents=True)
            await seen.until_chains(2)
            await seen.until_fault("a restart would lose it")
            await asyncio.to_thread(shutil.rmtree, stored)
            await seen.until_well()
        assert KeyStore(ca.directory / "keys").load(REVIEWS) is not None
