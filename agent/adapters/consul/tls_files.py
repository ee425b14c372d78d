"""Follows the files of TLS to Consul, so that rotated certificates are used without a restart. Sends nothing itself."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from agent.adapters.consul.address import ConsulAddress
from agent.errors import ConfigError

LOOK_SECONDS = 1.0


async def watch_tls(
    address: ConsulAddress, take: Callable[[ssl.SSLContext], None], tell: Callable[[str | None], None]
) -> NoReturn:
    """Hand on a context made of the files each time they have changed, until cancelled.

    While they can't be used (a key without its certificate yet) the last context stays; `tell` gets the reason, and
    None after it.
    """
    used = await asyncio.to_thread(_contents, address)
    reason: str | None = None
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        said, reason = reason, None
        found = await asyncio.to_thread(_contents, address)
        if found != used:
            try:
                context = await asyncio.to_thread(address.ssl_context)
            except ConfigError as error:
                reason = error.problems[0]
            else:
                # What was written between the two reads is found at the next look.
                used = found
                take(context)
        if reason != said:
            tell(reason)


def _contents(address: ConsulAddress) -> tuple[bytes, ...]:
    return tuple(_read(name) for name in (address.ca_file, address.client_cert, address.client_key) if name)


def _read(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError:
        return b""
