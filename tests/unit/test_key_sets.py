"""Key sets on a host: the last good one stays, whatever its source says, and is there after a restart."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from agent.adapters.key_sets import MAX_BYTES, KeySetFetcher, KeySetsFile, NoWay
from agent.errors import HostError
from agent.mesh.key_set import NOBODYS_KEY
from agent.mesh.routes import Fault
from agent.runtime.fetched import MAX_FETCH_SECONDS, MAX_TEXTS
from agent.runtime.key_sets import KeySets
from agent.translate.key_sets import PATH, key_set_name

URI, OTHER = "https://user:secret@keys.example/a?b=c", "http://keys.other/"
GOOD = NOBODYS_KEY
NEWER = json.dumps({"keys": [{"kty": "oct", "k": "Zm9v"}]})


class Steps:
    """A clock whose sleepers wait until the test lets them go on."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self._go = asyncio.Semaphore(0)
        self._asleep = asyncio.Condition()

    def now(self) -> float:
        return 0.0

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        async with self._asleep:
            self._asleep.notify_all()
        await self._go.acquire()

    async def step(self) -> None:
        """Let one sleeper go on, until it sleeps again."""
        before = len(self.slept)
        self._go.release()
        await self.until(before + 1)

    async def until(self, sleeps: int) -> None:
        async with asyncio.timeout(10), self._asleep:
            await self._asleep.wait_for(lambda: len(self.slept) >= sleeps)


class Source:
    """What the sources answer."""

    def __init__(self) -> None:
        self.answers: dict[str, str | HostError] = {}
        self.asked: list[tuple[str, float]] = []

    async def fetch(self, uri: str, name: str, timeout_seconds: float) -> str:
        assert name == key_set_name(uri)
        self.asked.append((uri, timeout_seconds))
        answer = self.answers[uri]
        if isinstance(answer, HostError):
            raise answer
        return answer


class Host:
    """Key sets with a source, a clock and a disk of the test's."""

    def __init__(self, folder: Path) -> None:
        self.source, self.clock, self.file = Source(), Steps(), KeySetsFile(folder / "key-sets.json")
        self.faults: tuple[Fault, ...] = ()
        self.key_sets = KeySets(self.source, self.file, self.clock, self._take)

    def _take(self, faults: tuple[Fault, ...]) -> None:
        self.faults = faults

    @asynccontextmanager
    async def running(self, wanted: Mapping[str, float]) -> AsyncIterator[TestClient[web.Request, web.Application]]:
        application = web.Application()
        application.add_routes(self.key_sets.routes())
        self.key_sets.follow(wanted)
        task = asyncio.create_task(self.key_sets.run())
        try:
            async with TestClient(TestServer(application)) as client:
                yield client
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def served(client: TestClient[web.Request, web.Application], uri: str) -> str:
    async with client.get(PATH + key_set_name(uri)) as answer:
        return await answer.text() if answer.status == 200 else ""


async def test_the_last_good_one_stays_and_outlives_a_restart(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.source.answers[URI] = GOOD
    async with host.running({URI: 3.0}) as client:
        assert await served(client, URI) == GOOD, "a question waits for the first answer"
        assert host.source.asked == [(URI, 3.0)]
        await host.clock.until(1)
        assert 1000 < host.clock.slept[0] < 1400
        for nonsense in (HostError("answers 503"), "", "{}", '{"keys": []}', '{"keys": [{"kty": "EC"}]}'):
            host.source.answers[URI] = nonsense
            await host.clock.step()
            assert await served(client, URI) == GOOD
            (fault,) = host.faults
            assert fault.subject == "key set https://keys.example/a"
            assert fault.reason.endswith("; the last good one serves on")
        assert host.clock.slept[1:] == [0.25, 0.5, 1.0, 2.0, 4.0]
    again = Host(tmp_path)
    again.source.answers = {URI: HostError("answers 503"), OTHER: NEWER}
    async with again.running({URI: 3.0, OTHER: 1.0}) as client:
        assert [await served(client, uri) for uri in (URI, OTHER)] == [GOOD, NEWER]
        again.source.answers[URI] = NEWER
        await again.clock.until(2)
        await again.clock.step()
        await again.clock.step()
        assert await served(client, URI) == NEWER
        assert again.faults == ()
    assert again.file.load() == {URI: NEWER, OTHER: NEWER}


async def test_what_no_rule_wants_is_not_fetched_nor_kept(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.source.answers = {URI: GOOD, OTHER: HostError("answers 404")}
    async with host.running({URI: 3.0, OTHER: 1.0}) as client:
        assert await served(client, URI) == GOOD
        await host.clock.until(2)
        assert [fault.subject for fault in host.faults] == ["key set http://keys.other/"]
        assert await served(client, OTHER) == ""
        host.source.answers[OTHER] = NEWER
        host.key_sets.follow({OTHER: 1.0})
        await host.clock.step()
        await host.clock.until(3)
        assert await served(client, OTHER) == NEWER
        assert host.faults == ()
    assert host.file.load() == {OTHER: NEWER}


async def test_a_host_keeps_a_limited_number_and_waits_a_limited_time(tmp_path: Path) -> None:
    host = Host(tmp_path)
    wanted = {f"http://x/{number:04}": 3600.0 for number in range(MAX_TEXTS + 2)}
    host.source.answers = dict.fromkeys(wanted, GOOD)
    async with host.running(wanted):
        await host.clock.until(MAX_TEXTS)
        assert host.source.asked == [(uri, MAX_FETCH_SECONDS) for uri in sorted(wanted)[:MAX_TEXTS]]
        (fault,) = host.faults
        assert fault.reason.startswith("2 are more than")
        host.key_sets.follow({})
        host.key_sets.follow({URI: 1.0})
        host.source.answers[URI] = GOOD
        await host.clock.until(MAX_TEXTS + 1)
        assert host.faults == ()


async def test_an_envoy_that_is_not_ready_is_no_fault_of_the_source(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.source.answers[URI] = NoWay("no")
    async with host.running({URI: 3.0}):
        await host.clock.until(1)
        assert host.faults == ()


async def _answer(request: web.Request) -> web.StreamResponse:
    """Answer as sources do, and as those do that mean no good."""
    kind = request.path.strip("/")
    assert request.headers["x-name"] == "the-name"
    if kind == "good":
        return web.Response(text=f"{request.host} {request.raw_path}")
    if kind == "large":
        return web.Response(body=b"x" * (MAX_BYTES + 1))
    if kind == "moved":
        raise web.HTTPFound("/good")
    if kind == "refused":
        return web.Response(status=403, text="a secret", headers={"x-reason": "UpstreamConnectionFailure"})
    if kind == "packed":
        return web.Response(body=b"\x1f\x8b nonsense", headers={"Content-Encoding": "gzip"})
    await asyncio.Event().wait()
    raise AssertionError


async def test_fetching_is_bounded_and_tells_nothing_of_what_it_got(tmp_path: Path) -> None:
    application = web.Application()
    application.add_routes([web.get("/{kind}", _answer)])
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "socket")).start()
    fetcher = KeySetFetcher(tmp_path / "socket", "x-name", "x-reason")
    try:
        got = await fetcher.fetch("https://user:pass@keys.example:8443/good?a=%2Fb&c", "the-name", 5.0)
        assert got == "keys.example:8443 /good?a=%2Fb&c"
        for kind, reason in (
            ("large", f"is larger than {MAX_BYTES} bytes"),
            ("moved", "answers 302"),
            ("refused", "answers 403 (UpstreamConnectionFailure)"),
            ("packed", "no answer that can be read (UnicodeDecodeError)"),
        ):
            with pytest.raises(HostError) as error:
                await fetcher.fetch(f"http://x/{kind}", "the-name", 5.0)
            assert str(error.value) == reason
        with pytest.raises(HostError, match=r"no answer within 0\.2 s"):
            await fetcher.fetch("http://x/never", "the-name", 0.2)
    finally:
        await runner.cleanup()
    with pytest.raises(NoWay):
        await fetcher.fetch("http://x/good", "the-name", 5.0)
