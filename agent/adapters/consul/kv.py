"""Follows the rules (`hostmesh/config/`) and the mesh settings (`hostmesh/mesh`) in KV.

Reads no document: values stay bytes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import NoReturn
from urllib.parse import quote

import msgspec
from msgspec import Struct

from agent.adapters.consul.client import ConsulClient
from agent.adapters.consul.polling import Follower, Link
from agent.errors import ConsulUnavailable
from agent.flow.table import Table
from agent.mesh.names import KV_CONFIG, KV_MESH

log = logging.getLogger(__name__)

NOT_FOUND = 404


class ConfigUpdate(Struct, frozen=True):
    """All keys under `hostmesh/config/`, in place of what was said before."""

    index: int
    """Consul's index of this state: what is acknowledged at it holds every change up to it."""
    values: Mapping[str, tuple[int, bytes]]
    """Key → (ModifyIndex, value); a value whose ModifyIndex is unchanged need not be parsed again."""


class SettingsUpdate(Struct, frozen=True):
    """The mesh settings document; None: there is none, the defaults hold."""

    value: bytes | None
    index: int = 0


class ConfigLost(Struct, frozen=True):
    """Rules and settings can't be read; what was said holds until told otherwise."""

    reason: str


class ConfigRecovered(Struct, frozen=True):
    """Rules and settings can be read again."""


Values = Table[str, tuple[int, bytes]]
"""Key → (ModifyIndex, value)."""
KvUpdate = ConfigUpdate | SettingsUpdate | ConfigLost | ConfigRecovered
Sink = Callable[[KvUpdate], None]


class _Pair(Struct, rename="pascal"):
    key: str
    modify_index: int
    value: bytes | None = None
    """msgspec decodes Consul's base64 by itself."""


_PAIRS = msgspec.json.Decoder(list[_Pair])
_BETWEEN = b'},{"LockIndex"'
"""Is between two pairs and nowhere within one: a quote with a letter behind it begins a string, so none is open."""
_STEPS = (65_536, 256)
"""Bytes that are compared at once."""


async def watch_config(client: ConsulClient, sink: Sink) -> NoReturn:
    """Tell the sink the rules and the settings, at first and on every change, for ever; ends by cancellation."""
    link = Link("consul kv", lambda reason: sink(ConfigLost(reason)), lambda: sink(ConfigRecovered()))
    async with asyncio.TaskGroup() as group:
        group.create_task(_follow_settings(client, link, sink), name="consul kv settings")
        group.create_task(_follow_config(client, link, sink), name="consul kv config")
    raise AssertionError("unreachable: KV is followed for ever")


async def _follow_config(client: ConsulClient, link: Link, sink: Sink) -> None:
    last: Values | None = None
    reader = ValuesReader()
    with client.lanes.front().member() as lane:
        async for answer in Follower(lane, link, f"kv/{KV_CONFIG}", {"recurse": "true"}, leads=True).answers():
            try:
                values = reader.read(answer.body if answer.status != NOT_FOUND else b"[]")
            except ConsulUnavailable as error:
                link.failed(str(error))
                continue
            if values is not last:
                sink(ConfigUpdate(answer.index, values))
            last = values


async def _follow_settings(client: ConsulClient, link: Link, sink: Sink) -> None:
    last: SettingsUpdate | None = None
    with client.lanes.front().member() as lane:
        async for answer in Follower(lane, link, f"kv/{quote(KV_MESH)}").answers():
            try:
                values = decode_values(answer.body if answer.status != NOT_FOUND else b"[]")
            except ConsulUnavailable as error:
                link.failed(str(error))
                continue
            index, value = values.get(KV_MESH, (0, None))
            update = SettingsUpdate(value, index)
            if update != last:
                sink(update)
            last = update


class ValuesReader:
    """Reads one answer after the other, and of each what differs from the one before.

    Consul answers with all keys, in order, whatever has changed: most often one of thousands.
    """

    def __init__(self) -> None:
        self._body = b"[]"
        self._values: Values = Table()

    def read(self, body: bytes) -> Values:
        """Return key → (ModifyIndex, value), the same object as long as nothing differs. Raises ConsulUnavailable."""
        before, after = differing_pairs(self._body, body)
        try:
            known, now = decode_values(before), decode_values(after)
        except ConsulUnavailable:
            known, now = dict(self._values.items()), decode_values(body)
        gone = dict.fromkeys(known.keys() - now.keys())
        fresh = {key: pair for key, pair in now.items() if self._values.get(key) != pair}
        self._values = self._values.with_changes({**gone, **fresh})
        self._body = body
        return self._values


def differing_pairs(before: bytes, after: bytes) -> tuple[bytes, bytes]:
    """Return of both KV answers what is between their common beginning and end: whole pairs, as a KV answer."""
    same = _common(before, after)
    start = after.rfind(_BETWEEN, 0, same)
    end = after.find(_BETWEEN, len(after) - _common_end(before, after, same))
    return _cut(before, start, end if end < 0 else end - len(after) + len(before)), _cut(after, start, end)


def _common(one: bytes, other: bytes) -> int:
    """Return how far both begin alike, or a little less."""
    same = 0
    for size in _STEPS:
        while same + size <= len(one) and one[same : same + size] == other[same : same + size]:
            same += size
    return same


def _common_end(one: bytes, other: bytes, beginning: int) -> int:
    """Return how far both end alike after that beginning, or a little less."""
    most, same = min(len(one), len(other)) - beginning, 0
    for size in _STEPS:
        while same + size <= most and one[-same - size : -same or None] == other[-same - size : -same or None]:
            same += size
    return same


def _cut(body: bytes, start: int, end: int) -> bytes:
    """Return an answer without what is before and behind two places between pairs, of which one may be missing (-1)."""
    first, last = (start + 2, b"[") if start >= 0 else (0, b""), (end + 1, b"]") if end >= 0 else (len(body), b"")
    return first[1] + body[first[0] : last[0]] + last[1]


def decode_values(body: bytes) -> dict[str, tuple[int, bytes]]:
    """Return key → (ModifyIndex, value) of a KV answer; folder markers (`…/`) left out. Raises ConsulUnavailable."""
    try:
        pairs = _PAIRS.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConsulUnavailable(
            f"Consul: GET kv: the answer is no KV answer ({error}); is something else listening there?"
        ) from error
    return {pair.key: (pair.modify_index, pair.value or b"") for pair in pairs if not pair.key.endswith("/")}
