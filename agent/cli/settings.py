"""The mesh-wide settings in Consul, read and changed by check-and-set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.adapters.consul.store import SettingsStore, Stored
from agent.api.settings import dump_settings, parse_settings, set_field, settings_fields
from agent.cli.connection import Connection
from agent.errors import ConflictError, ValidationError
from agent.mesh.names import KV_MESH
from agent.mesh.settings import MeshSettings

_ATTEMPTS = 5
"""How often a lost race with another operator is run again: changes of single fields do not disturb each other."""


def read_settings(connection: Connection) -> dict[str, Any]:
    """Return every setting in force, defaults included; raises ValidationError if what is stored is no settings."""
    return settings_fields(_parse(SettingsStore(connection.consul()).get()))


def read_stored_settings(connection: Connection) -> bytes:
    """Return the stored settings as they stand in Consul; `{}` if there are none."""
    stored = SettingsStore(connection.consul()).get()
    return stored.value if stored else b"{}"


def change_settings(connection: Connection, changes: Mapping[str, str]) -> int:
    """Set the named fields and return the new revision; raises ValidationError, ConflictError."""
    store = SettingsStore(connection.consul())
    for attempt in range(1, _ATTEMPTS + 1):
        stored = store.get()
        settings = _parse(stored)
        for name, value in changes.items():
            settings = set_field(settings, name, value)
        try:
            return store.set(dump_settings(settings), stored.revision if stored else 0)
        except ConflictError:
            if attempt == _ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def _parse(stored: Stored | None) -> MeshSettings:
    try:
        return parse_settings(stored.value, KV_MESH) if stored else MeshSettings()
    except ValidationError as error:
        hint = f"agents keep to the last good settings; `consul kv delete {KV_MESH}` brings the defaults back"
        raise ValidationError([*error.problems, hint]) from error
