"""py-consul's requests over our own aiohttp session; Consul's and aiohttp's errors translated to hostmesh's.

py-consul's own asyncio transport is not used: it takes CONSUL_HTTP_TOKEN over the given token, drops the client
certificate when verification is off, and lets aiohttp's errors through. Knows nothing of what is asked.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import aiohttp
from consul import base
from consul.exceptions import ConsulException
from yarl import URL

from agent.adapters.consul.address import ConsulAddress
from agent.errors import ConsulConflict, ConsulRefused, ConsulUnavailable, HostmeshError

MAX_BODY = 64 * 2**20
"""Bytes of one answer; a config tree or a catalog larger than this is refused rather than taking the agent's memory."""
CONNECT_TIMEOUT = 5.0
REQUEST_TIMEOUT = 15.0

TOKEN_HEADER = "X-Consul-Token"

Params = Sequence[tuple[str, Any]]


class Credentials:
    """What lets every request in; a rotated token or certificate takes the place of the last one at any time."""

    def __init__(self, address: ConsulAddress) -> None:
        self.token = address.token
        """The ACL token; `""`: none."""
        self.tls: ssl.SSLContext | bool = address.ssl_context() if address.scheme == "https" else True


def new_session(source: str | None = None) -> aiohttp.ClientSession:
    """Return a session, bound to a source address; the caller bounds its connections and closes it."""
    family = (
        socket.AF_INET if source else socket.AF_UNSPEC
    )  # `localhost` may mean ::1, no source for which is an IPv4 one
    connector = aiohttp.TCPConnector(
        family=family, limit=0, local_addr=(source, 0) if source else None, force_close=False
    )
    headers = {"Accept-Encoding": "identity"}  # Consul would spend its CPU on gzip for a local reader
    return aiohttp.ClientSession(connector=connector, headers=headers, trust_env=False)


async def request(
    session: aiohttp.ClientSession,
    credentials: Credentials,
    method: str,
    url: str,
    params: Params = (),
    data: bytes | str | None = None,
    timeout: float = REQUEST_TIMEOUT,
) -> base.Response:
    """Return py-consul's Response with a bytes body (statuses below 400, and 404); timeout in seconds.

    One that was refused by a token which has been replaced meanwhile is made again with the new one. Raises
    ConsulUnavailable (no connection, time-out, 5xx, 429) and ConsulRefused (other 4xx, too large).
    """
    token = credentials.token
    try:
        return await _request(session, credentials, method, url, params, data, timeout)
    except ConsulRefused:
        if credentials.token == token:
            raise
        return await _request(session, credentials, method, url, params, data, timeout)


async def _request(
    session: aiohttp.ClientSession,
    credentials: Credentials,
    method: str,
    url: str,
    params: Params,
    data: bytes | str | None,
    timeout: float,
) -> base.Response:
    limits = aiohttp.ClientTimeout(total=timeout, sock_connect=CONNECT_TIMEOUT)
    query = [(key, str(value)) for key, value in params]
    try:
        # The path is quoted already; yarl must not do it again.
        target = URL(url, encoded=True).update_query(query)
        async with session.request(
            method,
            target,
            data=data,
            headers={TOKEN_HEADER: credentials.token} if credentials.token else None,
            ssl=credentials.tls,
            timeout=limits,
            allow_redirects=False,
        ) as answer:
            body = await _body(answer, url)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise unavailable(url, error) from error
    refusal = refusal_of(answer.status, url, body)
    if refusal:
        raise refusal
    return base.Response(answer.status, answer.headers, body)


def unavailable(url: str, error: BaseException) -> ConsulUnavailable:
    """Return the error for a Consul that can't be talked to."""
    # aiohttp's own text names the TLS context object.
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    reason = str(cause) or type(error).__name__
    return ConsulUnavailable(f"Consul at {url}: {reason}; check that the local Consul agent runs and listens there")


def refusal_of(status: int, url: str, body: bytes) -> HostmeshError | None:
    """Return the error an HTTP status stands for, or None for success and 404 (callers know what it means)."""
    if status < 400 or status == HTTPStatus.NOT_FOUND:
        return None
    text = " ".join(body[:300].decode("utf-8", "replace").split())
    # A transaction that the ACL forbids is answered with 409 as well.
    if status == HTTPStatus.FORBIDDEN or (status == HTTPStatus.CONFLICT and "Permission denied" in text):
        return ConsulRefused(f"Consul at {url}: {status} {text}; give a token whose ACL policy allows it")
    if status >= 500 or status == HTTPStatus.TOO_MANY_REQUESTS:
        return ConsulUnavailable(f"Consul at {url}: {status} {text}; check `consul members` and its servers' logs")
    kind = ConsulConflict if status == HTTPStatus.CONFLICT else ConsulRefused
    return kind(f"Consul at {url}: {status} {text}; the request must change for it to succeed")


async def _body(answer: aiohttp.ClientResponse, url: str) -> bytes:
    chunks, size = [], 0
    async for chunk in answer.content.iter_any():
        size += len(chunk)
        if size > MAX_BODY:
            answer.close()
            raise ConsulRefused(
                f"Consul at {url}: the answer is larger than {MAX_BODY} bytes; delete what doesn't belong there"
            )
        chunks.append(chunk)
    return b"".join(chunks)


class Transport(base.HTTPClient):  # type: ignore[misc]  # py-consul carries no types
    """py-consul's HTTP client interface over one aiohttp session."""

    def __init__(self, session: aiohttp.ClientSession, credentials: Credentials, url: str) -> None:
        self._session, self._credentials = session, credentials
        self.base_uri = url

    async def _send(
        self, method: str, callback: Callable[[Any], Any], path: str, params: Params | None, data: str | bytes | None
    ) -> Any:
        response = await request(self._session, self._credentials, method, self.uri(path), params or (), data)
        try:
            return callback(response)
        except ConsulException as error:
            raise ConsulRefused(
                f"Consul at {self.base_uri}{path}: {str(error)[:300] or type(error).__name__}; it may have been removed"
            ) from error

    def get(
        self,
        callback: Any,
        path: str,
        params: Any = None,
        headers: Mapping[str, str] | None = None,
        raw: bool = False,
        **_: Any,
    ) -> Any:
        """Send a GET."""
        return self._send("GET", callback, path, params, None)

    def put(self, callback: Any, path: str, params: Any = None, data: Any = "", headers: Any = None, **_: Any) -> Any:
        """Send a PUT."""
        return self._send("PUT", callback, path, params, data)

    def delete(
        self, callback: Any, path: str, params: Any = None, data: Any = "", headers: Any = None, **_: Any
    ) -> Any:
        """Send a DELETE."""
        return self._send("DELETE", callback, path, params, data)

    def post(self, callback: Any, path: str, params: Any = None, data: Any = "", headers: Any = None, **_: Any) -> Any:
        """Send a POST."""
        return self._send("POST", callback, path, params, data)

    def close(self) -> Any:
        """Close the session."""
        return self._session.close()


class Api(base.Consul):  # type: ignore[misc]  # py-consul carries no types
    """py-consul's API objects (`kv`, `agent`, `session`, `catalog`…) ; calls are awaited, raise hostmesh's errors."""

    def __init__(self, session: aiohttp.ClientSession, credentials: Credentials, address: ConsulAddress) -> None:
        self._transport = Transport(session, credentials, address.url)
        super().__init__(address.host, address.port, scheme=address.scheme, verify=address.verify)
        # py-consul prefers CONSUL_HTTP_TOKEN to what the caller says; the credentials have the right one.
        self.token = None

    def http_connect(self, host: str, port: int, scheme: str, verify: bool | str = True, cert: Any = None) -> Transport:
        """Return the transport py-consul sends through."""
        return self._transport
