"""Asks a Prometheus for the samples of the graph, by its HTTP API. Keeps nothing."""

from __future__ import annotations

import asyncio

import aiohttp
import msgspec
from msgspec import Struct

from agent.errors import Refused, Unavailable
from agent.servicegraph.graph import SIDES, Sample, Samples

TIMEOUT = aiohttp.ClientTimeout(total=15.0)
MAX_ANSWER = 64 * 2**20
"""Bytes."""

_WHO = ", ".join((*SIDES, "reporter"))


class _Series(Struct, frozen=True):
    metric: dict[str, str]
    value: tuple[float, str]


class _Data(Struct, frozen=True):
    result: list[_Series] = []


class _Answer(Struct, frozen=True):
    status: str = ""
    data: _Data = _Data()
    error: str = ""


_ANSWER = msgspec.json.Decoder(_Answer)


class Prometheus:
    """A Prometheus at an address, http://HOST:PORT and a path where there is one."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    async def samples(self, milliseconds: int) -> Samples:
        """Return what was measured in the last milliseconds; raises Unavailable and Refused."""
        texts = queries(milliseconds)
        async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
            answers = await asyncio.gather(*(self._ask(session, text) for text in texts.values()))
        return Samples(**dict(zip(texts, answers, strict=True)))

    async def _ask(self, session: aiohttp.ClientSession, query: str) -> tuple[Sample, ...]:
        try:
            async with session.post(f"{self.url}/api/v1/query", data={"query": query}) as response:
                body = await _read(response)
        except (aiohttp.ClientError, TimeoutError) as error:
            reason = str(error) or f"no answer within {TIMEOUT.total:g} s"
            raise Unavailable(f"Prometheus at {self.url} does not answer: {reason}") from error
        try:
            answer = _ANSWER.decode(body)
        except msgspec.DecodeError as error:
            raise Refused(f"{self.url} is no Prometheus: status {response.status}, {error}") from error
        if answer.status != "success":
            raise Refused(f"Prometheus at {self.url} refuses: {answer.error or response.status}")
        return tuple(Sample(series.metric, float(series.value[1])) for series in answer.data.result)


def queries(milliseconds: int) -> dict[str, str]:
    """Return the query for each field of Samples, over the last milliseconds."""
    span = f"[{milliseconds}ms]"
    safe = "connection_security_policy"

    def rate(metric: str, *more: str) -> str:
        return f"sum by ({', '.join((_WHO, *more))}) (rate({metric}{span}))"

    def quantile(share: float) -> str:
        return f"histogram_quantile({share}, {rate('istio_request_duration_milliseconds_bucket', 'le')})"

    return {
        "requests": rate("istio_requests_total", "response_code", "request_protocol", safe),
        "median": quantile(0.5),
        "slowest": quantile(0.95),
        "connections": rate("istio_tcp_connections_opened_total", safe),
        "sent": rate("istio_tcp_sent_bytes_total"),
        "received": rate("istio_tcp_received_bytes_total"),
    }


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for piece in response.content.iter_chunked(1 << 16):
        body += piece
        if len(body) > MAX_ANSWER:
            raise aiohttp.ClientPayloadError(f"its answer is over {MAX_ANSWER >> 20} MiB")
    return bytes(body)
