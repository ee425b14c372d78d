"""The measured process of WatcherProbe: follows the catalog at a Consul URL and prints one line per update."""

from __future__ import annotations

import asyncio
import sys
import time

import msgspec

from agent.adapters.consul.address import ConsulAddress
from agent.adapters.consul.catalog import CatalogSynced, CatalogUpdate, ServiceEntries, watch_catalog
from agent.adapters.consul.client import ConsulClient
from agent.mesh.service import Health
from benchmarks.scale.probes import SYNCED, Seen

_held: dict[str, ServiceEntries] = {}
"""As the agent holds the whole mesh: the memory counts."""


def tell(update: CatalogUpdate) -> None:
    """Print what was seen, with the time it was."""
    now = time.monotonic()
    if isinstance(update, ServiceEntries):
        _held[update.name] = update
        instances = tuple(
            (instance.id, instance.health is Health.CRITICAL, dict(instance.labels).get("version", ""))
            for instance in update.instances
        )
        _print(Seen(now, update.name, instances))
    elif isinstance(update, CatalogSynced):
        _print(Seen(now, SYNCED, ()))
    else:
        sys.stderr.write(f"watcher: {update}\n")


def _print(seen: Seen) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(seen) + b"\n")
    sys.stdout.buffer.flush()


async def main(url: str) -> None:
    """Follow until terminated."""
    async with ConsulClient(ConsulAddress.from_url(url)) as client:
        await watch_catalog(client, tell)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
