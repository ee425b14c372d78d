"""The operator's file of contexts: how to reach each mesh (~/.config/hostmesh/contexts.yaml, or $HOSTMESH_CONFIG).

Holds paths of secrets, never secrets. Knows nothing of Consul.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from agent.adapters.files import read_optional, write_atomic
from agent.errors import ConfigError, HostError


class Context(Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """How to reach one mesh; an empty field is not set."""

    consul_address: str = ""
    token_file: str = ""
    ca_cert: str = ""
    client_cert: str = ""
    client_key: str = ""
    namespace: str = ""
    ca_admin_socket: str = ""
    """hostmesh-ca's administration socket, for `hostmesh ca`."""


class Contexts(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """The whole file."""

    current: str = ""
    contexts: dict[str, Context] = {}


def contexts_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where the contexts are kept (XDG Base Directory Specification)."""
    if environ.get("HOSTMESH_CONFIG"):
        return Path(environ["HOSTMESH_CONFIG"])
    base = environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME", "/")) / ".config"
    return Path(base) / "hostmesh" / "contexts.yaml"


def load_contexts(path: Path) -> Contexts:
    """Return the file's content, empty if there is no file; raises ConfigError, HostError."""
    data = read_optional(path)
    if not data:
        return Contexts()
    import yaml

    try:
        return msgspec.convert(yaml.safe_load(data) or {}, Contexts)
    except yaml.YAMLError as error:
        raise ConfigError([f"{path}: not YAML: {' '.join(str(error).split())}"]) from error
    except msgspec.ValidationError as error:
        raise ConfigError([f"{path}: {error}: mend the file, or remove it and make the contexts anew"]) from error


def save_contexts(path: Path, contexts: Contexts) -> None:
    """Replace the file; only its owner may read it. Raises HostError."""
    import yaml

    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(f"{path.parent}: cannot be made: {error.strerror or error}") from error
    write_atomic(path, yaml.safe_dump(msgspec.to_builtins(contexts), sort_keys=True).encode(), mode=0o600)
