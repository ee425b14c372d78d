"""Debian's Chromium without a screen, driven by its own protocol (Chrome DevTools), for tests of pages."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp

from tests.waiting import eventually, wait_for

_OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # the tests run as root
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--remote-debugging-port=0",
)
_START_SECONDS = 60.0
LAPTOP = (1366, 768)


class Page:
    """A tab. What goes wrong in it (exceptions, refused loads) is in `complaints`."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._asked = 0
        self.complaints: list[str] = []

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of the protocol and return its result."""
        self._asked += 1
        await self._socket.send_json({"id": self._asked, "method": method, "params": parameters})
        while True:
            message = json.loads((await self._socket.receive(timeout=_START_SECONDS)).data)
            if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(json.dumps(message["params"]))
            if message.get("id") == self._asked:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result

    async def open(self, url: str, *, dark: bool = False) -> None:
        """Show a page as a laptop's screen of that mood would; all of it is there when this returns."""
        mood = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await self.call("Emulation.setEmulatedMedia", features=mood)
        await self.call("Page.navigate", url=url)
        await self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def value(self, expression: str) -> Any:
        """Return what a JavaScript expression is."""
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def wait(self, expression: str, seconds: float = 60.0) -> Any:
        """Wait until the expression is true, and return what it is then."""
        await eventually(partial(self.value, expression), seconds)
        return await self.value(expression)

    async def screenshot(self) -> bytes:
        """Return what is seen, as PNG."""
        return base64.b64decode((await self.call("Page.captureScreenshot", format="png"))["data"])


@contextmanager
def _chromium() -> Iterator[Path]:
    """Run Chromium for the block; gives the file where it says how to reach it, once it can be."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = ["chromium", *_OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
        try:
            yield Path(profile) / "DevToolsActivePort"
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # with its helpers, which write into the profile
            process.wait()


@asynccontextmanager
async def browser() -> AsyncIterator[Page]:
    """Run Chromium for the block, with one tab."""
    with _chromium() as said:
        wait_for(lambda: said.exists() and "\n" in said.read_text(), "Chromium listens", _START_SECONDS)
        port = said.read_text().splitlines()[0]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json") as response:
                tab = next(it["webSocketDebuggerUrl"] for it in await response.json() if it["type"] == "page")
            async with session.ws_connect(tab, max_msg_size=0) as socket:
                page = Page(socket)
                for domain in ("Runtime", "Log", "Page"):
                    await page.call(f"{domain}.enable")
                width, height = LAPTOP
                screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
                await page.call("Emulation.setDeviceMetricsOverride", **screen)
                yield page
