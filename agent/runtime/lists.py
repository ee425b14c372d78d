"""Keeps the lists that Mixer's rules name by `providerUrl` (runtime/fetched), and tells what is on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path

from agent.adapters.clock import Clock, SystemClock
from agent.adapters.key_sets import KeySetFetcher, KeySetsFile
from agent.api.mixer_lists import read_list
from agent.config import Config
from agent.errors import HostError
from agent.mesh.mixer import ListKind
from agent.mesh.routes import Fault
from agent.runtime.events import ListsChanged
from agent.runtime.fetched import Fetched, Fetcher, Kept, Sort, Want
from agent.runtime.host_options import key_set_sockets
from agent.translate.key_sets import NAME_HEADER, REASON_HEADER

MAX_FETCH_SECONDS = 10.0
_SORT = Sort("list", "what rules look up on it is refused")


class Lists:
    """The lists of this host."""

    def __init__(
        self,
        fetcher: Fetcher,
        file: Kept,
        clock: Clock,
        on_faults: Callable[[tuple[Fault, ...]], None],
        on_lists: Callable[[ListsChanged], None],
    ) -> None:
        self._on_lists = on_lists
        self._fetched = Fetched(_SORT, fetcher, file, clock, on_faults, self._tell)
        self._tell()

    def follow(self, wanted: Mapping[str, tuple[float, frozenset[ListKind]]]) -> None:
        """Keep these and no others: how often they are fetched, in seconds, and read as what, by address."""
        self._fetched.follow(
            {uri: Want(MAX_FETCH_SECONDS, refresh, _reader(kinds)) for uri, (refresh, kinds) in wanted.items()}
        )

    async def run(self) -> None:
        """Keep them fresh until cancelled."""
        await self._fetched.run()

    def _tell(self) -> None:
        self._on_lists(ListsChanged(self._fetched.texts))


def lists_of(
    config: Config, on_faults: Callable[[tuple[Fault, ...]], None], on_lists: Callable[[ListsChanged], None]
) -> Lists:
    """Return those of a host with this configuration."""
    fetcher = KeySetFetcher(Path(key_set_sockets(config).envoy), NAME_HEADER, REASON_HEADER)
    return Lists(fetcher, KeySetsFile(config.state_dir / "lists.json"), SystemClock(), on_faults, on_lists)


@lru_cache(maxsize=256)  # one that is wanted as before is not fetched anew
def _reader(kinds: frozenset[ListKind]) -> Callable[[str], str]:
    return partial(_read, kinds=kinds)


def _read(text: str, kinds: frozenset[ListKind]) -> str:
    """Return a list that can be read as each of these."""
    try:
        entries = [read_list(text, kind) for kind in sorted(kinds)]
    except ValueError as error:
        raise HostError(f"is no list that can be used: {error}") from error
    return "\n".join(entries[0])
