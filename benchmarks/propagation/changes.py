"""The rule that is changed again and again, and the two ways to write it. Knows nothing of Envoy."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import time
from pathlib import Path

from msgspec import Struct

from agent.adapters.consul.address import ConsulAddress
from agent.adapters.consul.store import RuleStore
from agent.api.document import read_documents, to_json
from agent.errors import HostError

HOSTMESH = Path(sys.executable).with_name("hostmesh")
VERSIONS = 3


class Written(Struct, frozen=True):
    """A write that has returned."""

    revision: int
    """Consul's ModifyIndex."""
    began: float
    returned: float
    """Both in seconds of time.perf_counter."""


def marker(number: int) -> str:
    """Return a text that only the rule's form after this change holds, in KV and in Envoy's route table."""
    return f"change-{number}-end"


def rule(number: int) -> str:
    """Return the RouteRule after that change.

    Each change alters the route; every second one moves it to another subset as well, so that a cluster and its
    endpoints come and others go.
    """
    version = f"v{number // 2 % VERSIONS + 1}"
    document = {
        "apiVersion": "config.istio.io/v1alpha2",
        "kind": "RouteRule",
        "metadata": {"name": "reviews-bench", "namespace": "default"},
        "spec": {
            "destination": {"name": "reviews"},
            "precedence": 2,
            "match": {"request": {"headers": {"x-bench": {"exact": marker(number)}}}},
            "route": [{"labels": {"version": version}}],
        },
    }
    return json.dumps(document)


class StoreWriter:
    """Writes in this process: the write and nothing else is between `began` and `returned`."""

    def __init__(self, consul_port: int) -> None:
        self._store = RuleStore(ConsulAddress(port=consul_port))

    async def create(self, number: int) -> Written:
        """Write the rule for the first time."""
        return await asyncio.to_thread(self._write, number, "create")

    async def replace(self, number: int) -> Written:
        """Write the rule's next form."""
        return await asyncio.to_thread(self._write, number, "replace")

    async def finish(self) -> None:
        """Do nothing: a write that has returned leaves nothing behind."""

    def _write(self, number: int, verb: str) -> Written:
        documents, problems = read_documents(rule(number), "rule", "default")
        if problems:
            raise HostError(f"the benchmark's own rule: {problems[0]}")
        values = {document.key: to_json(document) for document in documents}
        began = time.perf_counter()
        written = getattr(self._store, verb)(values)
        return Written(written[0].revision, began, time.perf_counter())


class CommandWriter:
    """Writes by `hostmesh replace`, as an operator does; it has returned when the command has printed its line."""

    def __init__(self, consul_port: int, folder: Path) -> None:
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "HOSTMESH_CONFIG": str(folder / "contexts.yaml"),
            "CONSUL_HTTP_ADDR": f"http://127.0.0.1:{consul_port}",
        }
        self._process: asyncio.subprocess.Process | None = None

    async def replace(self, number: int) -> Written:
        """Start the command and return when it has printed its line; raises HostError if it prints none."""
        pipe = asyncio.subprocess.PIPE
        began = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            str(HOSTMESH), "replace", stdin=pipe, stdout=pipe, env=self._environment
        )
        self._process = process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(rule(number).encode())
        process.stdin.close()
        line = (await process.stdout.readline()).decode()
        returned = time.perf_counter()
        found = re.search(r"revision (\d+)", line)
        if found is None:
            raise HostError(f"`hostmesh replace` wrote nothing: {line.strip()}")
        return Written(int(found[1]), began, returned)

    async def finish(self) -> None:
        """Wait for the command's end; raises HostError if it fails."""
        if self._process is not None and await self._process.wait():
            raise HostError(f"`hostmesh replace` failed: exit {self._process.returncode}")
