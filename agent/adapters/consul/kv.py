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


KvUpdate = ConfigUpdate | SettingsUpdate | ConfigLost | ConfigRecovered
Sink = Callable[[KvUpdate], None]


class _Pair(Struct, rename="pascal"):
    key: str
    modify_index: int
    value: bytes | None = None
    """msgspec decodes Consul's base64 by itself."""


_PAIRS = msgspec.json.Decoder(list[_Pair])


async def watch_config(client: ConsulClient, sink: Sink) -> NoReturn:
    """Tell the sink the rules and the settings, at first and on every change, for ever; ends by cancellation."""
    link = Link("consul kv", lambda reason: sink(ConfigLost(reason)), lambda: sink(ConfigRecovered()))
    async with asyncio.TaskGroup() as group:
        group.create_task(_follow_settings(client, link, sink), name="consul kv settings")
        group.create_task(_follow_config(client, link, sink), name="consul kv config")
    raise AssertionError("unreachable: KV is followed for ever")


async def _follow_config(client: ConsulClient, link: Link, sink: Sink) -> None:
    last: dict[str, int] | None = None
    with client.lanes.front().member() as lane:
        async for answer in Follower(lane, link, f"kv/{KV_CONFIG}", {"recurse": "true"}, leads=True).answers():
            try:
                values = decode_values(answer.body if answer.status != NOT_FOUND else b"[]")
            except ConsulUnavailable as error:
                link.failed(str(error))
                continue
            revisions = {key: revision for key, (revision, _) in values.items()}
            if revisions != last:
                sink(ConfigUpdate(answer.index, values))
            last = revisions


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


def decode_values(body: bytes) -> dict[str, tuple[int, bytes]]:
    """Return key → (ModifyIndex, value) of a KV answer; folder markers (`…/`) left out. Raises ConsulUnavailable."""
    try:
        pairs = _PAIRS.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConsulUnavailable(
            f"Consul: GET kv: the answer is no KV answer ({error}); is something else listening there?"
        ) from error
    return {pair.key: (pair.modify_index, pair.value or b"") for pair in pairs if not pair.key.endswith("/")}
