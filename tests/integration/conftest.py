"""Fixtures that several integration tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agent.adapters.consul.store import KvConnection
from tests.integration.cli_consul import CommandLine, command_line


@pytest.fixture(scope="module")
def command_line_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """Run a Consul for the tests of a module."""
    with command_line(tmp_path_factory.mktemp("cli") / "contexts.yaml") as running:
        yield running


@pytest.fixture
def hostmesh(command_line_of_module: CommandLine) -> CommandLine:
    """Return the command line with a Consul in which nothing of the mesh is stored."""
    KvConnection(command_line_of_module.address).send("delete", "/v1/kv/hostmesh/", [("recurse", "true")])
    return command_line_of_module
