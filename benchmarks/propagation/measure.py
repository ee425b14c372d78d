"""The changes, one after the other, and what each stage of each took."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from benchmarks.figures import quantile
from benchmarks.propagation.changes import Written, marker
from benchmarks.propagation.observers import ConsulWatch, Nodes
from benchmarks.testlab import note


class Writer(Protocol):
    """A way to write the rule."""

    async def replace(self, number: int) -> Written:
        """Write the rule's next form and return as soon as it is written."""

    async def finish(self) -> None:
        """Wait until the writer has ended, too."""


class Change(Struct, frozen=True):
    """One change; milliseconds, from the moment the write returned unless said otherwise."""

    write_ms: float
    """From the start of the write (of the command) until it returned."""
    woken_ms: float
    """Until Consul's server told a waiting poll; negative if before the writer was told."""
    reconcile_ms: float
    """How long the slowest agent's reconcile took."""
    first_ms: float
    """Until the first agent reported its Envoy's acknowledgement."""
    all_ms: float
    """Until the last one did."""


class Figures(Struct, frozen=True):
    """Order statistics of one column, milliseconds."""

    p50: float
    p90: float
    p99: float
    max: float


class Result(Struct, frozen=True):
    """All changes written one way."""

    writer: str
    nodes: int
    figures: Mapping[str, Figures]
    changes: tuple[Change, ...]


async def measure(
    name: str, writer: Writer, nodes: Nodes, watch: ConsulWatch, numbers: Sequence[int], pause: float
) -> Result:
    """Make the changes of these numbers, each after a random pause of up to `pause` seconds; return what they took.

    The pause begins when the change before is acknowledged everywhere: some changes meet agents at rest, others agents
    that still rest from the last round. Raises HostError if a change does not arrive.
    """
    changes = []
    for done, number in enumerate(numbers, 1):
        await asyncio.sleep(random.uniform(0.0, pause))
        changes.append(await _change(writer, nodes, watch, number))
        if done % 50 == 0:
            note(f"{name}: {done} of {len(numbers)} changes")
    columns = {field: [getattr(each, field) for each in changes] for field in Change.__struct_fields__}
    return Result(name, len(nodes.all), {field: _figures(each) for field, each in columns.items()}, tuple(changes))


async def verify(writer: Writer, nodes: Nodes, watch: ConsulWatch, numbers: Sequence[int]) -> None:
    """Make these changes and look into every Envoy whether an acknowledgement means what it says.

    Not measured. Raises HostError if an agent acknowledges what its Envoy does not have.
    """
    for number in numbers:
        waking = asyncio.create_task(watch.woken())
        try:
            written = await writer.replace(number)
            await nodes.require_in_effect(written.revision, marker(number))
            await waking
            await writer.finish()
        finally:
            waking.cancel()


async def _change(writer: Writer, nodes: Nodes, watch: ConsulWatch, number: int) -> Change:
    waking = asyncio.create_task(watch.woken())
    try:
        written = await writer.replace(number)
        acked = await nodes.acked(written.revision)
        woken = await waking
        await writer.finish()
    finally:
        waking.cancel()
    milliseconds = [round((each - written.returned) * 1000, 2) for each in (woken, acked[0], acked[-1])]
    return Change(
        round((written.returned - written.began) * 1000, 2),
        milliseconds[0],
        round(await nodes.reconcile_ms(), 2),
        *milliseconds[1:],
    )


def _figures(values: Sequence[float]) -> Figures:
    return Figures(*(quantile(values, share) for share in (0.5, 0.9, 0.99, 1.0)))
