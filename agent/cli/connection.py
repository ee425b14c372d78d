"""Where the commands find Consul, and as whom: flags, the context and Consul's own environment variables, merged.

Every source is brought into the form of Consul's variables (CONSUL_HTTP_ADDR …), which one parser reads. A token of one
mesh must never be sent to another, so the sources are not mixed freely:

1. `--context NAME`: that context alone; the environment is not looked at.
2. CONSUL_HTTP_ADDR is set: the environment alone.
3. else the current context, with the environment filling what it leaves open.

Single flags override in all three cases.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec import Struct

from agent.cli.context_file import Context, contexts_path, load_contexts
from agent.errors import UserError

if TYPE_CHECKING:
    from agent.adapters.consul.address import ConsulAddress

DEFAULT_ADDRESS = "http://127.0.0.1:8500"

_VARIABLES = {
    "consul_addr": "CONSUL_HTTP_ADDR",
    "token_file": "CONSUL_HTTP_TOKEN_FILE",
    "ca_cert": "CONSUL_CACERT",
    "client_cert": "CONSUL_CLIENT_CERT",
    "client_key": "CONSUL_CLIENT_KEY",
}


class Connection(Struct, frozen=True):
    """The resolved settings of one command run."""

    environment: Mapping[str, str]
    """In the form of Consul's own variables."""
    namespace: str
    ca_admin_socket: str
    origin: str
    """Where the address comes from, in words."""

    @property
    def address(self) -> str:
        """Return Consul's address as the operator gave it."""
        return self.environment.get("CONSUL_HTTP_ADDR") or DEFAULT_ADDRESS

    def consul(self) -> ConsulAddress:
        """Return the address for the Consul adapter; raises ConfigError."""
        from agent.adapters.consul.address import ConsulAddress

        return ConsulAddress.from_environment(self.environment)


def resolve(flags: Mapping[str, str], environ: Mapping[str, str] = os.environ) -> Connection:
    """Return the settings these flags mean; raises UserError for a context that does not exist."""
    context, origin = _context(flags, environ)
    from_environment = {name: value for name, value in environ.items() if name.startswith("CONSUL_") and value}
    merged = _variables(context) if "context" in flags else {**from_environment, **_variables(context)}
    given = {_VARIABLES[name]: value for name, value in flags.items() if name in _VARIABLES}
    if "CONSUL_HTTP_TOKEN_FILE" in given or context.token_file:
        merged.pop("CONSUL_HTTP_TOKEN", None)  # Consul prefers the token itself over the file
    merged.update(given)
    if "consul_addr" in flags:
        origin = "--consul-addr"
    namespace = flags.get("namespace") or context.namespace or "default"
    return Connection(merged, namespace, context.ca_admin_socket, origin)


def describe_address(flags: Mapping[str, str]) -> str:
    """Return where the address in use comes from and how to set another, for error messages."""
    try:
        origin = resolve(flags).origin
    except UserError as error:
        origin = str(error)
    return f"address from {origin}; set it with --consul-addr, CONSUL_HTTP_ADDR or `hostmesh context use`"


def _context(flags: Mapping[str, str], environ: Mapping[str, str]) -> tuple[Context, str]:
    if "context" not in flags and environ.get("CONSUL_HTTP_ADDR"):
        return Context(), "CONSUL_HTTP_ADDR"
    path = contexts_path(environ)
    contexts = load_contexts(path)
    name = flags.get("context") or contexts.current
    if not name:
        return Context(), "the default"
    if name not in contexts.contexts:
        known = ", ".join(sorted(contexts.contexts)) or "none"
        raise UserError(f"{path}: no context {name!r} (known: {known}); make it with `hostmesh context create {name}`")
    return contexts.contexts[name], f"context {name!r}"


def _variables(context: Context) -> dict[str, str]:
    fields = {"consul_addr": context.consul_address, "token_file": context.token_file, "ca_cert": context.ca_cert}
    fields |= {"client_cert": context.client_cert, "client_key": context.client_key}
    return {_VARIABLES[name]: value for name, value in fields.items() if value}
