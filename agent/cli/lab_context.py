"""The context `lab`: made and chosen while the lab is up; what was chosen before comes back when it goes."""

from __future__ import annotations

from pathlib import Path

from agent.adapters.files import read_optional, write_atomic
from agent.cli.context_file import Context, Contexts, contexts_path, load_contexts, save_contexts

NAME = "lab"


def use_lab_context(consul_address: str, ca_socket: str) -> None:
    """Make the context and choose it; raises ConfigError, HostError."""
    path = contexts_path()
    contexts = load_contexts(path)
    made = Context(consul_address=consul_address, ca_admin_socket=ca_socket)
    save_contexts(path, Contexts(current=NAME, contexts={**contexts.contexts, NAME: made}))
    if contexts.current != NAME:
        write_atomic(_memory(path), contexts.current.encode())


def leave_lab_context() -> None:
    """Remove the context and choose again what was chosen before; nothing if there is none."""
    path = contexts_path()
    contexts = load_contexts(path)
    # Beside the contexts, not under /run: it has to outlive a reboot as they do.
    before = (read_optional(_memory(path)) or b"").decode()
    remaining = {name: context for name, context in contexts.contexts.items() if name != NAME}
    current = before if before in remaining else ""
    if contexts.current != NAME:
        current = contexts.current  # the operator chose another one meanwhile
    if not remaining:
        path.unlink(missing_ok=True)
    elif NAME in contexts.contexts:
        save_contexts(path, Contexts(current=current, contexts=remaining))
    _memory(path).unlink(missing_ok=True)


def _memory(path: Path) -> Path:
    return path.with_name("before-lab")
