"""What the CA needs of Consul's HTTP API: keys and values, transactions, a long poll, who a token is. Nothing else.

Decides nothing. Every fault of Consul or of the way to it is a ConsulFault; its text never holds a token.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from node_ca.errors import CaError, ConfigError

_TIMEOUT = aiohttp.ClientTimeout(total=10)
_WAIT_SECONDS = 55
_CONNECTIONS = 100
"""Consul closes connections past 200 of one address."""


class ConsulFault(CaError):
    """Consul can't be reached, or says no."""


@dataclass(frozen=True)
class Stored:
    """A value in Consul's KV."""

    key: str
    value: bytes
    created: int
    """Raft index of its creation: the order of all writes."""
    modified: int


@dataclass(frozen=True)
class Operation:
    """A step of a transaction: `set`, `cas` (index 0: if absent), `check-index`, `check-not-exists` or `delete`."""

    verb: str
    key: str
    value: bytes = b""
    index: int = 0

    def document(self) -> dict[str, Any]:
        """Return it as Consul reads it."""
        step: dict[str, Any] = {"Verb": self.verb, "Key": self.key}
        if self.verb in ("set", "cas"):
            step["Value"] = base64.b64encode(self.value).decode()
        if self.verb in ("cas", "check-index"):
            step["Index"] = self.index
        return {"KV": step}


class _KvEntry(msgspec.Struct):
    Key: str
    CreateIndex: int
    ModifyIndex: int
    Value: str | None = None


class Consul:
    """A Consul agent's API; every call raises ConsulFault."""

    def __init__(self, url: str, token: str = "", ca_file: str = "") -> None:
        """Take an address like https://127.0.0.1:8501; a CA file for its certificate. Raises ConfigError."""
        self._url = url.rstrip("/")
        self._headers = {"X-Consul-Token": token} if token else {}
        try:
            self._tls = ssl.create_default_context(cafile=ca_file) if ca_file else None
        except (OSError, ssl.SSLError) as error:
            raise ConfigError([f"consul.caFile: {ca_file}: cannot be read as CA certificates"]) from error
        self._session: aiohttp.ClientSession | None = None

    @classmethod
    def configured(cls, address: str, token_file: str, ca_file: str) -> Consul:
        """Return it with the token of a file; raises ConfigError."""
        try:
            token = Path(token_file).read_text().strip() if token_file else ""
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError([f"consul.tokenFile: {token_file}: cannot be read"]) from error
        return cls(address, token, ca_file)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def read(self, key: str) -> Stored | None:
        """Return the value of a key, or None."""
        found = await self._entries(f"/v1/kv/{key}")
        return found[0] if found else None

    async def read_all(self, prefix: str) -> list[Stored]:
        """Return all values below a prefix, by key."""
        return await self._entries(f"/v1/kv/{prefix}", recurse="")

    async def names(self, prefix: str) -> list[str]:
        """Return what stands directly below a prefix, folders with their slash."""
        status, body, _ = await self._ask("GET", f"/v1/kv/{prefix}", {"keys": "", "separator": "/"}, absent=True)
        keys = msgspec.json.decode(body, type=list[str]) if status == 200 else []
        return [key.removeprefix(prefix) for key in keys]

    async def delete_all(self, prefix: str) -> None:
        """Delete everything below a prefix."""
        await self._ask("DELETE", f"/v1/kv/{prefix}", {"recurse": ""})

    async def transact(self, operations: Sequence[Operation]) -> int | None:
        """Do all or nothing; return None if it was done, or the number of the first step that did not hold."""
        steps = msgspec.json.encode([operation.document() for operation in operations])
        status, body, _ = await self._ask("PUT", "/v1/txn", {}, steps, conflict=True)
        if status == 200:
            return None
        errors = msgspec.json.decode(body).get("Errors") or [{}]
        return int(errors[0].get("OpIndex", 0))

    async def wait(self, prefix: str, index: int) -> int:
        """Return the prefix's index as soon as it is another than `index`, or after a minute."""
        query = {"index": str(index), "wait": f"{_WAIT_SECONDS}s", "keys": ""}
        timeout = aiohttp.ClientTimeout(total=_WAIT_SECONDS + 20)
        _, _, headers = await self._ask("GET", f"/v1/kv/{prefix}", query, absent=True, timeout=timeout)
        now = int(headers.get("X-Consul-Index", "0"))
        return now if now >= index else 0  # Consul's own rule: an index that goes back is to be begun anew

    async def token_of(self, secret: str) -> dict[str, Any] | None:
        """Return what an ACL token may be told about itself, or None if there is none with this secret."""
        status, body, _ = await self._ask(
            "GET", "/v1/acl/token/self", {}, absent=True, headers={"X-Consul-Token": secret}, denied=True
        )
        return msgspec.json.decode(body, type=dict[str, Any]) if status == 200 else None

    async def _entries(self, path: str, **query: str) -> list[Stored]:
        status, body, _ = await self._ask("GET", path, query, absent=True)
        entries = msgspec.json.decode(body, type=list[_KvEntry]) if status == 200 else []
        return [
            Stored(entry.Key, base64.b64decode(entry.Value or ""), entry.CreateIndex, entry.ModifyIndex)
            for entry in entries
        ]

    async def _ask(
        self,
        method: str,
        path: str,
        query: dict[str, str],
        body: bytes | None = None,
        *,
        absent: bool = False,
        conflict: bool = False,
        denied: bool = False,
        headers: dict[str, str] | None = None,
        timeout: aiohttp.ClientTimeout = _TIMEOUT,
    ) -> tuple[int, bytes, Any]:
        expected = {200, *({404} if absent else ()), *({409} if conflict else ()), *({403} if denied else ())}
        try:
            async with self._open().request(
                method, self._url + path, params=query, data=body, headers=headers or self._headers, timeout=timeout
            ) as answer:
                content = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ConsulFault(f"Consul at {self._url}: {type(error).__name__}: {error}") from error
        if answer.status not in expected:
            reason = " ".join(content[:200].decode(errors="replace").split())
            raise ConsulFault(f"Consul at {self._url}: {method} {path.split('?')[0]}: {answer.status} {reason}")
        return answer.status, content, answer.headers

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=_CONNECTIONS, ssl=self._tls if self._tls is not None else True)
            self._session = aiohttp.ClientSession(connector=connector)
        return self._session
