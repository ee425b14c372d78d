"""The agent's own HTTP: a Unix socket for tools on this host, and port 15020 for Prometheus and health checks."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, aclosing
from pathlib import Path

import msgspec
from aiohttp import web

from agent.adapters.xds.acks import Acknowledgement
from agent.adapters.xds.unix_socket import clear_path
from agent.errors import HostError
from agent.mesh.ports import METRICS_PORT
from agent.mesh.status import NodeStatus
from agent.runtime.views import VIEWS, View

MAX_WAIT_SECONDS = 60.0
STOP_SECONDS = 1.0
"""How long a stop waits for answers under way: those of /acked and /acks end by themselves late or never."""


class Endpoint:
    """Serves /metrics and /healthz, and on the Unix socket /status, /acked, /acks, views of Envoy and `more` too."""

    def __init__(
        self,
        status: Callable[[], NodeStatus],
        metrics: Callable[[], Awaitable[bytes]],
        wait_acked: Callable[[int, float], Awaitable[bool]],
        open_view: Callable[[str], AbstractAsyncContextManager[View]],
        follow_acks: Callable[[], AsyncGenerator[Acknowledgement, None]],
        more: Iterable[web.RouteDef] = (),
    ) -> None:
        self._status = status
        self._metrics = metrics
        self._wait_acked = wait_acked
        self._open_view = open_view
        self._follow_acks = follow_acks
        self._more = tuple(more)
        self._runner: web.AppRunner | None = None

    async def start(self, socket: Path, addresses: Iterable[str]) -> None:
        """Listen on the Unix socket (mode 0600: everything) and on TCP port 15020 (metrics and health only).

        Raises HostError if one of them cannot be listened on.
        """
        private = web.Application()
        private.add_routes(
            [
                web.get("/status", self._get_status),
                web.get("/acked", self._get_acked),
                web.get("/acks", self._get_acks),
                web.get("/metrics", self._get_metrics),
                web.get("/envoy/{view}", self._get_envoy),
                *self._more,
            ]
        )
        public = web.Application()
        public.add_routes([web.get("/metrics", self._get_metrics), web.get("/healthz", self._get_health)])
        self._runner = web.AppRunner(private, access_log=None, shutdown_timeout=STOP_SECONDS)
        self._public = web.AppRunner(public, access_log=None, shutdown_timeout=STOP_SECONDS)
        await self._runner.setup()
        await self._public.setup()
        try:
            # The port first: where it is taken, the socket file is another agent's.
            for address in addresses:
                await web.TCPSite(self._public, address, METRICS_PORT).start()
            await asyncio.to_thread(clear_path, socket)
            before = os.umask(0o177)
            try:
                await web.UnixSite(self._runner, str(socket)).start()
            finally:
                os.umask(before)
        except OSError as error:
            hint = " (is another hostmesh-agent running?)" if error.errno == errno.EADDRINUSE else ""
            raise HostError(f"cannot listen for status and metrics: {error}{hint}") from error

    async def stop(self) -> None:
        """Close both listeners."""
        if self._runner is not None:
            await self._runner.cleanup()
            await self._public.cleanup()

    async def _get_status(self, _request: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(self._status()), content_type="application/json")

    async def _get_acked(self, request: web.Request) -> web.Response:
        try:
            revision = int(request.query.get("revision", "0"))
            timeout = min(float(request.query.get("timeout", "10")), MAX_WAIT_SECONDS)
        except ValueError:
            return web.Response(status=400, text="revision and timeout must be numbers\n")
        acked = await self._wait_acked(revision, timeout)
        return web.json_response({"acked": acked}, status=200 if acked else 504)

    async def _get_envoy(self, request: web.Request) -> web.StreamResponse:
        """Pass on what Envoy says of itself."""
        name = request.match_info["view"]
        if name not in VIEWS:
            return web.Response(status=404, text=f"no such view (one of {', '.join(VIEWS)})\n")
        response = web.StreamResponse()
        try:
            async with self._open_view(name) as view:
                response.content_type = view.content_type
                await response.prepare(request)
                async for piece in view.pieces:
                    await response.write(piece)
        except HostError as error:
            if response.prepared and request.transport is not None:
                request.transport.abort()  # the reader sees that the answer has no end
                return response
            return web.Response(status=503, text=f"{error}\n")
        return response

    async def _get_acks(self, request: web.Request) -> web.StreamResponse:
        """Stream what Envoy acknowledges, a JSON line each; the first line is all that it holds."""
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        async with aclosing(self._follow_acks()) as acknowledgements:
            async for acknowledgement in acknowledgements:
                try:
                    await response.write(msgspec.json.encode(acknowledgement) + b"\n")
                except ConnectionError:
                    break  # the reader has gone
        return response

    async def _get_metrics(self, _request: web.Request) -> web.Response:
        text = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        response = web.Response(body=await self._metrics(), headers=text)
        response.enable_compression()  # most of it is the same labels again and again
        return response

    async def _get_health(self, _request: web.Request) -> web.Response:
        ready = self._status().proxy.connected
        return web.Response(status=200 if ready else 503, text="ready\n" if ready else "Envoy is not connected\n")
