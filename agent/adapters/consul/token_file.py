"""Follows the file with Consul's ACL token, so that a rotated one is used without a restart. Sends nothing itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NoReturn

from agent.adapters.consul.address import read_token
from agent.errors import ConfigError

LOOK_SECONDS = 1.0


async def watch_token(
    path: str, token: str, take: Callable[[str], None], tell: Callable[[str | None], None]
) -> NoReturn:
    """Hand on each token that replaces the given one, until cancelled.

    While the file holds none (it is being written) the last one stays; `tell` gets the reason, and None after it.
    """
    reason: str | None = None
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        said, reason = reason, None
        try:
            read = await asyncio.to_thread(read_token, path, "consul.tokenFile")
        except ConfigError as error:
            reason = error.problems[0]
        else:
            if read != token:
                token = read
                take(token)
        if reason != said:
            tell(reason)
