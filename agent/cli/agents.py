"""The agents that tools on this machine can ask: this host's own and those of a lab by Unix socket, others by network.

Reads only.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import click

from agent.adapters.agent_socket import AgentSocket
from agent.cli.command import given_flags
from agent.cli.completion import complete_node
from agent.cli.connection import resolve
from agent.cli.context_file import contexts_path, load_contexts
from agent.cli.lab_context import NAME as LAB_CONTEXT
from agent.errors import HostError, HostmeshError, UserError

_RUN_DIR = Path("/run/hostmesh")
_RUN = Path("/run")


class Agent(Protocol):
    """One agent that can be asked."""

    def view(self, name: str) -> bytes:
        """Return a view of its Envoy (agent/runtime/views.py); raises HostmeshError."""


def view_json(agent: Agent, name: str) -> Any:
    """Return a view, decoded; raises HostmeshError."""
    try:
        return json.loads(agent.view(name))
    except ValueError as error:
        raise HostError(f"what the agent answers for {name} is not JSON: {error}") from error


def agent_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add NODE and the options that say which agent to ask."""
    for option in (
        click.option("--lab", metavar="NAME", help="NODE is a host of this lab (default: the lab, if it is chosen)."),
        click.option(
            "--run-dir",
            metavar="DIR",
            envvar="HOSTMESH_RUN_DIR",
            help=f"Folder of the agent's sockets (default: {_RUN_DIR}).",
        ),
        click.argument("node", metavar="[NODE]", required=False, shell_complete=complete_node),
    ):
        command = option(command)
    return command


def find_agent(node: str | None, run_dir: str | None, lab: str | None) -> Agent:
    """Return the agent of a node, without NODE this host's; raises UserError if it cannot be asked from here."""
    lab = lab or (_chosen_lab() if node and not run_dir else None)
    if lab and not node:
        raise UserError("give the NODE: one of " + ", ".join(_lab_hosts(lab)))
    if lab and node:
        if node not in _lab_hosts(lab):
            raise UserError(f"no host {node!r} in the lab {lab!r} (hosts: {', '.join(_lab_hosts(lab)) or 'none'})")
        return AgentSocket(_RUN / lab / node / "run" / "admin.sock")
    own = AgentSocket(Path(run_dir or _RUN_DIR) / "admin.sock")
    if node is None or _is_own(own, node):
        return own
    from agent.cli.remote_agent import RemoteAgent

    return RemoteAgent(resolve(given_flags(click.get_current_context())), node)


def _is_own(agent: AgentSocket, node: str) -> bool:
    """Tell whether that node is this host, as far as it can be asked."""
    try:
        return agent.node() == node
    except HostmeshError:
        return False


def _chosen_lab() -> str | None:
    from agent.lab.plan import DEFAULT_NAME

    chosen = load_contexts(contexts_path()).current == LAB_CONTEXT
    return DEFAULT_NAME if chosen and (_RUN / DEFAULT_NAME / "state.json").exists() else None


def _lab_hosts(lab: str) -> list[str]:
    return sorted(path.parent.parent.name for path in (_RUN / lab).glob("*/run/xds.sock"))
