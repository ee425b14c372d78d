"""Serves the graph by HTTP: /graph (JSON), /dotgraph, /dotviz (SVG) and the live page at /. Everything is read-only.

/targets tells a Prometheus that cannot ask Consul where the agents are.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Mapping
from importlib import resources

import msgspec
from aiohttp import web

from agent.errors import HostError, HostmeshError, Refused, Unavailable, UserError
from agent.servicegraph.dot import dotgraph, draw
from agent.servicegraph.graph import Graph, build_graph
from agent.servicegraph.horizon import read_question
from agent.servicegraph.prometheus import Prometheus

DEFAULT_PORT = 8088
_PAGE = {
    "index.html": "text/html",
    "page.css": "text/css",
    "page.js": "text/javascript",
    "layout.js": "text/javascript",
    "drawing.js": "text/javascript",
    "words.js": "text/javascript",
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
Targets = Callable[[], Awaitable[Mapping[str, str]]]
"""Returns each host's agent: name → ADDRESS:PORT; raises HostmeshError."""
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class GraphServer:
    """The web server of one graph."""

    def __init__(self, prometheus: Prometheus, targets: Targets) -> None:
        self._prometheus = prometheus
        self._targets = targets
        self._drawing = asyncio.Semaphore(1)  # `dot` takes a core: one at a time

    def application(self) -> web.Application:
        """Return the routes."""
        application = web.Application(middlewares=[_answer_errors])
        application.add_routes(
            [
                web.get("/", self._page),
                web.get("/page/{name}", self._page),
                web.get("/graph", self._graph),
                web.get("/dotgraph", self._dotgraph),
                web.get("/dotviz", self._dotviz),
                web.get("/targets", self._tell_targets),
                web.get("/healthz", self._healthy),
            ]
        )
        return application

    async def serve(self, address: str, port: int, started: Callable[[], None]) -> None:
        """Serve until cancelled; raises HostError if the address can't be listened on."""
        runner = web.AppRunner(self.application(), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, address, port).start()
            started()
            await asyncio.Event().wait()
        except OSError as error:
            hint = "; choose another one with --port" if error.errno == errno.EADDRINUSE else ""
            raise HostError(f"servicegraph: cannot listen on {address} port {port}: {error.strerror}{hint}") from error
        finally:
            await runner.cleanup()

    async def _page(self, request: web.Request) -> web.Response:
        name = request.match_info.get("name", "index.html")
        if name not in _PAGE:
            raise web.HTTPNotFound
        body = resources.files("agent.servicegraph").joinpath("page", name).read_bytes()
        return web.Response(body=body, content_type=_PAGE[name], charset="utf-8")

    async def _graph(self, request: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(await self._read(request)), content_type="application/json")

    async def _dotgraph(self, request: web.Request) -> web.Response:
        return web.Response(text=dotgraph(await self._read(request)), content_type="text/vnd.graphviz")

    async def _dotviz(self, request: web.Request) -> web.Response:
        text = dotgraph(await self._read(request))
        async with self._drawing:
            return web.Response(body=await draw(text), content_type="image/svg+xml")

    async def _tell_targets(self, _request: web.Request) -> web.Response:
        """Answer as Prometheus' http_sd_configs wants."""
        found = await self._targets()
        return web.json_response([{"targets": [it], "labels": {"instance": host}} for host, it in found.items()])

    async def _healthy(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _read(self, request: web.Request) -> Graph:
        question = read_question(request.query)
        return build_graph(await self._prometheus.samples(question.milliseconds), filter_empty=question.filter_empty)


@web.middleware
async def _answer_errors(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Answer the project's errors with their one line, and every page with the headers that keep scripts out."""
    try:
        response = await handler(request)
    except HostmeshError as error:
        response = web.Response(status=_status(error), text=f"{error}\n")
    response.headers.update(_HEADERS)
    return response


def _status(error: HostmeshError) -> int:
    statuses = ((UserError, 400), (Unavailable, 503), (Refused, 502))
    return next((status for kind, status in statuses if isinstance(error, kind)), 500)
