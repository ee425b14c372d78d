"""The command line against a real Consul: what the tests of its verbs share."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from agent.adapters.consul.address import ConsulAddress
from agent.cli.main import cli
from tests.integration.consul_process import ConsulProcess


@dataclass(frozen=True)
class CommandLine:
    """Runs `hostmesh …` in this process."""

    address: ConsulAddress
    config: Path

    def run(self, *arguments: str, stdin: str | None = None, **environ: str) -> Result:
        """Run a command and return its result, whatever it is."""
        env = {"HOSTMESH_CONFIG": str(self.config), "CONSUL_HTTP_ADDR": self.address.url, "CONSUL_HTTP_TOKEN": ""}
        return CliRunner().invoke(cli, list(arguments), input=stdin, env={**env, **environ})

    def ok(self, *arguments: str, stdin: str | None = None) -> str:
        """Run a command that must succeed and return what it prints."""
        result = self.run(*arguments, stdin=stdin)
        assert result.exit_code == 0, f"{arguments}: {result.output}{result.exception or ''}"
        return result.stdout

    def refused(self, *arguments: str, stdin: str | None = None) -> str:
        """Run a command that must fail for a reason of its own and return what it says on stderr."""
        result = self.run(*arguments, stdin=stdin)
        assert result.exit_code == 1, f"{arguments}: {result.exit_code} {result.output}{result.exception or ''}"
        assert "Traceback" not in result.output
        return result.stderr


@contextmanager
def command_line(config: Path, settings: Mapping[str, Any] | None = None) -> Iterator[CommandLine]:
    """Run a Consul, with these settings of its own, for the length of the block."""
    with asyncio.Runner() as runner:
        consul = ConsulProcess(settings=settings)
        runner.run(consul.start())
        try:
            yield CommandLine(consul.address, config)
        finally:
            runner.run(consul.__aexit__())


def route_rule(name: str, version: str = "v1", namespace: str | None = None) -> str:
    """Return a RouteRule document."""
    where = f"\n  namespace: {namespace}" if namespace else ""
    return f"""apiVersion: config.istio.io/v1alpha2
kind: RouteRule
metadata:
  name: {name}{where}
spec:
  destination:
    name: reviews
  precedence: 1
  route:
  - labels:
      version: {version}
"""


def many(count: int) -> str:
    """Return that many RouteRules in one text."""
    return "---\n".join(route_rule(f"rule-{number:03}") for number in range(count))
