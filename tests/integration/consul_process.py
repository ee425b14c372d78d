"""A real Consul agent as a child process for tests and benchmarks: `async with ConsulProcess() as consul: …`.

Listens on free ports of a loopback address unless told otherwise; quiet; started means it has a leader and its own
node is in the catalog (sessions need that). Stopped by its pid, also on failure.
"""

from __future__ import annotations

import asyncio
import json
import signal
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import aiohttp

from agent.adapters.consul.address import ConsulAddress
from tests.ports import free_ports
from tests.programs import CONSUL

START_SECONDS = 30.0
STOP_SECONDS = 10.0


class ConsulProcess:
    """One Consul agent: a `-dev` server by default, or with `join` a client agent of another one.

    `durable` makes a server that keeps its state on disk. `prefix` comes before the command line, e.g.
    `("ip", "netns", "exec", "NAME")`; `bind` is then an address in there.
    """

    def __init__(
        self,
        *,
        node: str = "test",
        join: ConsulProcess | None = None,
        bind: str = "127.0.0.1",
        prefix: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
        durable: bool = False,
    ) -> None:
        self.node, self.bind = node, bind
        self._join, self._prefix, self._settings = join, tuple(prefix), dict(settings or {})
        self._durable = durable
        token = self._settings.get("acl", {}).get("tokens", {}).get("master", "")
        self._headers = {"X-Consul-Token": token} if token else {}
        self.ports = free_ports(4, bind) if not prefix else (8500, 8301, 8302, 8300)
        self._process: asyncio.subprocess.Process | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def address(self) -> ConsulAddress:
        """Return the HTTP API's address."""
        return ConsulAddress(host=self.bind, port=self.ports[0])

    @property
    def http_address(self) -> str:
        """Return `http://host:port`."""
        return self.address.url

    @property
    def pid(self) -> int:
        """Return the running process's pid."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start and wait until it serves; raises AssertionError with its log if it doesn't."""
        self._folder = self._folder or tempfile.TemporaryDirectory(prefix="hostmesh-consul-")
        log = Path(self._folder.name) / "log"
        with log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self._prefix, *self._command(self._folder.name), stdout=output, stderr=output
            )
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._wait_until_serving()
        except (TimeoutError, AssertionError) as error:
            text = log.read_text()[-2000:]
            await self.stop()
            raise AssertionError(f"consul does not start: {text}") from error
        except asyncio.CancelledError:
            await self.stop()
            raise

    async def stop(self, hard: bool = False) -> None:
        """Stop it (hard: kill -9); a `-dev` server loses its state."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.send_signal(signal.SIGKILL if hard else signal.SIGINT)
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()

    async def put(self, path: str, body: object = None) -> Any:
        """Send a PUT as another program would and return its decoded answer; raises AssertionError when refused."""
        return await self._send("PUT", path, json.dumps(body) if body is not None else None)

    async def get(self, path: str) -> Any:
        """Send a GET as another program would and return its decoded answer."""
        return await self._send("GET", path, None)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        if self._folder:
            self._folder.cleanup()

    def _command(self, folder: str) -> list[str]:
        http, serf, wan, server = self.ports
        settings = {
            "node_name": self.node,
            "bind_addr": self.bind,
            "client_addr": self.bind,
            "ports": {"http": http, "serf_lan": serf, "serf_wan": wan, "server": server, "dns": -1, "grpc": -1},
            "disable_update_check": True,
            "log_level": "ERR",
            **self._settings,
        }
        if self._join is not None:
            settings |= {
                "data_dir": f"{folder}/data",
                "retry_join": [f"{self._join.bind}:{self._join.ports[1]}"],
                "retry_interval": "1s",
            }
        elif self._durable:
            settings |= {"data_dir": f"{folder}/data", "server": True, "bootstrap": True}
        path = Path(folder) / "settings.json"
        path.write_text(json.dumps(settings))
        return [str(CONSUL), "agent", *(() if "data_dir" in settings else ("-dev",)), f"-config-file={path}"]

    async def _wait_until_serving(self) -> None:
        while True:
            assert self._process is not None
            assert self._process.returncode is None, "it ended at once"
            try:
                entry = await self.get(f"/v1/health/node/{self.node}")
            except (aiohttp.ClientError, AssertionError):
                entry = None
            if entry:
                return
            await asyncio.sleep(0.05)

    async def _send(self, method: str, path: str, data: str | None) -> Any:
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, self.http_address + path, data=data, headers=self._headers) as answer,
        ):
            text = await answer.text()
            assert answer.status < 400, f"{method} {path}: {answer.status} {text}"
            return json.loads(text) if text.strip() else None


@asynccontextmanager
async def running_consul(**arguments: Any) -> AsyncIterator[ConsulProcess]:
    """Run a ConsulProcess for the length of the block."""
    async with ConsulProcess(**arguments) as process:
        yield process
