"""Callers of a CA, in a process of their own: on open connections, at a pace, or all anew at once.

Measures from outside: a call's time begins when it is due, not when somebody got round to it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import grpc

from agent.adapters.identity import new_csr, new_key
from node_ca.proto import ca_pb2, ca_pb2_grpc

_POOL = 64
"""Different CSRs; making one costs the caller more than the CA."""


@dataclass(frozen=True)
class Doors:
    """Where the CA is, and a certificate that it takes."""

    enrolment: str
    renewal: str
    roots: bytes
    key: bytes
    chain: bytes


@dataclass
class Outcome:
    """What the callers saw."""

    seconds: float = 0.0
    times: list[float] = field(default_factory=list)
    """Of each call that succeeded, seconds."""
    errors: dict[str, int] = field(default_factory=dict)
    lost: int = 0
    """Callers who never succeeded."""

    def count(self, error: grpc.aio.AioRpcError) -> None:
        """Note a failure."""
        name = f"{error.code().name} {str(error.details())[:60]}"
        self.errors[name] = self.errors.get(name, 0) + 1


class Renewals:
    """Renewal calls over connections that stay open."""

    def __init__(self, doors: Doors, connections: int) -> None:
        credentials = grpc.ssl_channel_credentials(doors.roots, doors.key, doors.chain)
        options = (("grpc.use_local_subchannel_pool", 1),)
        self._channels = [
            grpc.aio.secure_channel(doors.renewal, credentials, options=options) for _ in range(connections)
        ]
        self._stubs = [ca_pb2_grpc.RenewalStub(channel) for channel in self._channels]
        self._requests = [ca_pb2.RenewRequest(csr_pem=new_csr(new_key())) for _ in range(_POOL)]
        self._next = 0

    async def call(self) -> Any:
        """Make one call."""
        self._next += 1
        stub = self._stubs[self._next % len(self._stubs)]
        return await stub.Renew(self._requests[self._next % _POOL], timeout=30)

    async def close(self) -> None:
        """Close the connections."""
        await asyncio.gather(*(channel.close() for channel in self._channels))


async def saturate(doors: Doors, calls: int, at_once: int) -> Outcome:
    """Make so many calls, always so many under way."""
    renewals, outcome, left = Renewals(doors, 8), Outcome(), iter(range(calls))

    async def work() -> None:
        for _ in left:
            await _timed(renewals.call, outcome, time.perf_counter())

    await asyncio.gather(*(renewals.call() for _ in range(8)))  # connected
    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(at_once)))
    outcome.seconds = time.perf_counter() - began
    await renewals.close()
    return outcome


async def keep_pace(doors: Doors, per_second: float, seconds: float) -> Outcome:
    """Begin a call whenever one is due, however long others take."""
    renewals, outcome = Renewals(doors, 8), Outcome()
    await asyncio.gather(*(renewals.call() for _ in range(8)))
    began, calls = time.perf_counter(), []
    for number in range(int(per_second * seconds)):
        due = began + number / per_second
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        calls.append(asyncio.create_task(_timed(renewals.call, outcome, due)))
    await asyncio.gather(*calls)
    outcome.seconds = time.perf_counter() - began
    await renewals.close()
    return outcome


async def arrive(doors: Doors, token: str, agents: int, deadline: float) -> Outcome:
    """Let so many agents come for the first time at the same moment, each anew, trying again as agents do."""
    outcome = Outcome()
    requests = [ca_pb2.EnrolRequest(csr_pem=new_csr(new_key()), token=token) for _ in range(agents)]
    began = time.perf_counter()
    await asyncio.gather(*(_first_contact(doors, request, outcome, began, deadline) for request in requests))
    outcome.seconds = time.perf_counter() - began
    return outcome


async def _first_contact(doors: Doors, request: Any, outcome: Outcome, began: float, deadline: float) -> None:
    credentials, pause = grpc.ssl_channel_credentials(doors.roots), 1.0
    options = (("grpc.use_local_subchannel_pool", 1),)
    while time.perf_counter() - began < deadline:
        try:
            async with grpc.aio.secure_channel(doors.enrolment, credentials, options=options) as channel:
                await ca_pb2_grpc.EnrolmentStub(channel).Enrol(request, timeout=10)
            outcome.times.append(time.perf_counter() - began)
            return
        except grpc.aio.AioRpcError as error:
            outcome.count(error)
        await asyncio.sleep(pause * random.uniform(0.5, 1.5))
        pause = min(pause * 2, 30.0)
    outcome.lost += 1


async def _timed(call: Callable[[], Awaitable[Any]], outcome: Outcome, due: float) -> None:
    try:
        await call()
        outcome.times.append(time.perf_counter() - due)
    except grpc.aio.AioRpcError as error:
        outcome.count(error)


def run(work: Callable[..., Coroutine[Any, Any, Outcome]], *arguments: Any) -> Outcome:
    """Do one of the above in an event loop of its own; for a process of its own."""
    return asyncio.run(work(*arguments))
