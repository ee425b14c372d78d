"""What operators may see of this host's Envoy, wherever they ask from: read-only, bounded, without private keys."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from msgspec import Struct

from agent.adapters.proxy.admin import AdminClient, AdminRefused
from agent.adapters.proxy.redaction import Redactor
from agent.errors import HostError

MAX_ANSWER = 64 * 2**20
"""Bytes; the dump of a host with thousands of services has a few million."""

VIEWS = {
    "bootstrap": "/config_dump?mask=bootstrap",
    "listeners": "/config_dump?mask=static_listeners,dynamic_listeners",
    "routes": "/config_dump?mask=static_route_configs,dynamic_route_configs",
    "clusters": "/config_dump?mask=static_clusters,dynamic_active_clusters",
    "secret": "/config_dump?mask=static_secrets,dynamic_active_secrets",
    "endpoints": "/clusters?format=json",
    "stats": "/stats?format=json",
    "prometheus": "/stats/prometheus",
}
"""View → the admin interface's path; nothing that changes or stops Envoy."""


_NOTHING = "could not be successfully applied to any configs"
"""Envoy's words for a dump without anything of the wanted kind, such as the routes of a host without HTTP."""


class View(Struct):
    """An answer that is under way."""

    content_type: str
    pieces: AsyncIterator[bytes]
    """Raises HostError when Envoy ends or its answer is too large."""


@asynccontextmanager
async def open_view(envoy: AdminClient, name: str) -> AsyncIterator[View]:
    """Yield what Envoy says, one of VIEWS; raises HostError if Envoy does not answer."""
    async with AsyncExitStack() as stack:
        try:
            pieces = await stack.enter_async_context(envoy.stream(VIEWS[name]))
        except AdminRefused as error:
            if _NOTHING not in str(error):
                raise
            pieces = _no_configs()
        yield View("text/plain" if name == "prometheus" else "application/json", _without_keys(pieces, name))


async def _no_configs() -> AsyncIterator[bytes]:
    yield b'{"configs": []}'


async def _without_keys(pieces: AsyncIterator[bytes], name: str) -> AsyncIterator[bytes]:
    redactor, size = Redactor(), 0
    try:
        async for piece in pieces:
            size += len(piece)
            if size > MAX_ANSWER:
                raise HostError(f"Envoy's {name} are larger than {MAX_ANSWER} bytes")
            yield redactor.feed(piece)
    except ValueError as error:
        raise HostError(f"Envoy's {name}: {error}") from error
    yield redactor.end()
