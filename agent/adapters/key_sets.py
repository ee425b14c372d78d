"""Key sets by which tokens are verified: fetched through Envoy within bounds, and kept on the disk.

Decides nothing: what to fetch when, and what to believe, is others' to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import msgspec
from yarl import URL

from agent.adapters.files import read_optional, write_atomic
from agent.errors import HostError

MAX_BYTES = 256 * 1024
"""Of one key set; those of the largest issuers have a tenth."""


class NoWay(HostError):
    """Envoy does not listen there (yet)."""


class KeySetFetcher:
    """Fetches through Envoy's listener on a Unix socket, which tells by a header's value what is asked for."""

    def __init__(self, socket: Path, name_header: str, reason_header: str) -> None:
        self._socket = str(socket)
        self._name_header = name_header
        self._reason_header = reason_header

    async def fetch(self, uri: str, name: str, timeout_seconds: float) -> str:
        """Return what is at the address; raises HostError, NoWay if Envoy cannot be asked.

        Nothing but the status of an answer that is no key set is told: whoever writes rules shall not read by them
        what this host can reach. Redirects are not followed.
        """
        parts = urlsplit(uri)
        authority = parts.netloc.rpartition("@")[2]
        query = f"?{parts.query}" if parts.query else ""
        # Envoy makes it HTTPS where the address says so.
        url = URL(f"http://{authority}{parts.path or '/'}{query}", encoded=True)
        headers = {self._name_header: name, "Accept": "application/json", "Accept-Encoding": "identity"}
        connector, timeout = aiohttp.UnixConnector(self._socket), aiohttp.ClientTimeout(total=timeout_seconds)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session,
                session.get(url, headers=headers, allow_redirects=False) as answer,
            ):
                if answer.status != 200:
                    reason = answer.headers.get(self._reason_header, "").strip()
                    raise HostError(f"answers {answer.status}" + (f" ({reason[:300]})" if reason else ""))
                return await _text(answer)
        except TimeoutError as error:
            raise HostError(f"no answer within {timeout_seconds:g} s") from error
        except (aiohttp.ClientConnectorError, FileNotFoundError) as error:
            raise NoWay(f"{self._socket}: Envoy does not listen there") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise HostError(f"no answer that can be read ({type(error).__name__})") from error


async def _text(answer: aiohttp.ClientResponse) -> str:
    content = b""
    async for piece in answer.content.iter_any():
        content += piece
        if len(content) > MAX_BYTES:
            raise HostError(f"is larger than {MAX_BYTES} bytes")
    return content.decode()


class KeySetsFile:
    """The last good key sets by their addresses; a file that can't be read counts as empty."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> dict[str, str]:
        """Return the key sets."""
        try:
            return msgspec.json.decode(read_optional(self._path) or b"{}", type=dict[str, str])
        except (HostError, ValueError):
            return {}

    def store(self, key_sets: Mapping[str, str]) -> None:
        """Replace them, durably; raises HostError."""
        write_atomic(self._path, msgspec.json.encode(key_sets))
