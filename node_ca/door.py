"""What every call passes before its service sees it: time limits, rates, numbers, readable bytes; and is measured.

An interceptor. It takes each single request as a stream of one, so that a caller who opens a call and sends nothing is
given up on; gRPC itself would wait for ever. May not know what a call is about.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import contextmanager
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from node_ca.audit import audit
from node_ca.errors import Refusal
from node_ca.limits import Limits, caller_of
from node_ca.metrics import Metrics

REQUEST_SECONDS = 5.0
"""For a request to arrive after its call was opened."""
MAX_CALLS = 2000
"""Under way at once on a port."""
MAX_STREAMS, MAX_STREAMS_EACH = 50_000, 1000
"""Open at once on a port, in all and of one caller; every agent follows the trust bundle by one."""
_QUIET_SECONDS = 1.0
"""Refusals for number are written at most so often: a flood of calls must not become one of lines."""
_LOG = logging.getLogger("hostmesh.ca")
_EMPTY: Any = grpc.aio.EOF


class Door(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpcio has no types
    """Stands before all services of one port."""

    def __init__(self, limits: Limits | None, metrics: Metrics) -> None:
        """Take the limits of rate (None: no limits)."""
        self._limits = limits
        self._metrics = metrics
        self._calls = _Places(MAX_CALLS, MAX_CALLS, "calls under way")
        self._streams = _Places(MAX_STREAMS, MAX_STREAMS_EACH, "streams open")
        self._flood = _Flood()

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """Return the handler of a call, with everything above around it."""
        handler = await continuation(details)
        if handler is None:
            return None
        call = details.method.rpartition("/")[2]
        if handler.unary_unary:
            return grpc.stream_unary_rpc_method_handler(
                self._single(handler.unary_unary, handler.request_deserializer, call),
                response_serializer=handler.response_serializer,
            )
        if handler.unary_stream:
            return grpc.stream_stream_rpc_method_handler(
                self._followed(handler.unary_stream, handler.request_deserializer, call),
                response_serializer=handler.response_serializer,
            )
        return grpc.stream_stream_rpc_method_handler(
            self._conversation(handler.stream_stream, call), handler.request_deserializer, handler.response_serializer
        )

    def _single(self, serve: Any, parse: Any, call: str) -> Any:
        async def serve_single(requests: Any, context: Any) -> Any:
            began = time.monotonic()
            try:
                request = await self._request(requests, parse, context, call)
                with await self._admitted(context, call, self._calls):
                    return await serve(request, context)
            finally:
                self._metrics.answered(call, context.code(), time.monotonic() - began)

        return serve_single

    def _followed(self, serve: Any, parse: Any, call: str) -> Any:
        async def serve_followed(requests: Any, context: Any) -> AsyncIterator[Any]:
            request = await self._request(requests, parse, context, call)
            with await self._admitted(context, call, self._streams):
                async for answer in serve(request, context):
                    yield answer

        return serve_followed

    def _conversation(self, serve: Any, call: str) -> Any:
        async def serve_conversation(requests: Any, context: Any) -> AsyncIterator[Any]:
            with await self._admitted(context, call, self._streams):
                async for answer in serve(requests, context):
                    yield answer

        return serve_conversation

    async def _request(self, requests: Any, parse: Any, context: Any, call: str) -> Any:
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                raw = await anext(aiter(requests), _EMPTY)
        except TimeoutError:
            await self._refuse(
                context,
                call,
                grpc.StatusCode.DEADLINE_EXCEEDED,
                f"the request did not arrive in {REQUEST_SECONDS:.0f} s",
            )
        if raw is _EMPTY:
            await self._refuse(context, call, grpc.StatusCode.INVALID_ARGUMENT, "the call has no request")
        try:
            return parse(raw)
        except DecodeError:
            await self._refuse(context, call, grpc.StatusCode.INVALID_ARGUMENT, "request: not a readable message")

    async def _admitted(self, context: Any, call: str, places: _Places) -> Any:
        caller = caller_of(context.peer())
        try:
            if self._limits is not None:
                self._limits.admit(caller)
            return places.taken(caller)
        except Refusal as error:
            await self._refuse(context, call, grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))

    async def _refuse(self, context: Any, call: str, status: Any, reason: str) -> NoReturn:
        self._metrics.refused(call, status.name)
        unwritten = self._flood.passed(status.name)
        if unwritten is not None:
            audit("refused", call=call, peer=context.peer(), status=status.name, reason=reason, unwritten=unwritten)
        await context.abort(status, reason)
        raise AssertionError("abort() always raises")


class _Places:
    """A number of places, in all and for each caller; taken at once or refused."""

    def __init__(self, total: int, each: int, what: str) -> None:
        self._free = total
        self._each = each
        self._what = what
        self._taken: Counter[str] = Counter()

    def taken(self, caller: str) -> Any:
        if self._taken[caller] >= self._each:
            raise Refusal.too_much(f"too many {self._what} from {caller}; come again later")
        if self._free <= 0:
            raise Refusal.too_much(f"too many {self._what}; come again later")
        self._free -= 1
        self._taken[caller] += 1
        return self._held(caller)

    @contextmanager
    def _held(self, caller: str) -> Any:
        try:
            yield
        finally:
            self._free += 1
            self._taken[caller] -= 1
            if not self._taken[caller]:
                del self._taken[caller]


class _Flood:
    """Lets one line of a kind pass in a while, and counts the others."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._unwritten: Counter[str] = Counter()

    def passed(self, kind: str) -> int | None:
        """Return how many lines were left out since the last, or None if this one is left out."""
        now = time.monotonic()
        if now - self._last.get(kind, -_QUIET_SECONDS) < _QUIET_SECONDS:
            self._unwritten[kind] += 1
            return None
        self._last[kind] = now
        return self._unwritten.pop(kind, 0)
