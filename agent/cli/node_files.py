"""Puts a node's configuration files in place: all of them, after they were checked together, or none."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from agent.adapters.files import read_optional, write_atomic
from agent.cli.node_bundle import AGENT_YAML, SECRET_FILES, NodeBundle, merged_settings
from agent.errors import ConfigError, ConflictError, HostError
from agent.runtime.configuration_check import Checked, check_configuration

_AGENT_USER = "hostmesh"
_HEAD = "\n# Written by `hostmesh node init`.\n"


def wanted_files(config_dir: Path, bundle: NodeBundle, *, force: bool) -> dict[str, bytes]:
    """Return the files that must change for the bundle, by name; raises ConflictError if one says something else."""
    wanted = {name: text.encode() for name, text in bundle.files().items()}
    wanted[AGENT_YAML] = _agent_yaml(config_dir / AGENT_YAML, bundle.settings(), force=force)
    present = {name: read_optional(config_dir / name) for name in wanted}
    changes = {name: data for name, data in wanted.items() if present[name] != data}
    for name in changes.keys() - {AGENT_YAML}:
        if _says_something(present[name]) and not force:
            raise ConflictError(f"{config_dir / name} says something else already; look at it, or replace with --force")
    return changes


def check_files(config_dir: Path, changes: Mapping[str, bytes]) -> Checked:
    """Return what the agent would say of the folder with these changes, which stays as it is; raises ConfigError."""
    with tempfile.TemporaryDirectory(prefix="hostmesh-init-") as scratch:
        stage = Path(scratch)
        try:
            for present in config_dir.iterdir() if config_dir.is_dir() else ():
                if present.name not in changes:
                    (stage / present.name).symlink_to(present.absolute())
            for name, data in changes.items():
                (stage / name).write_bytes(data)
        except OSError as error:
            raise HostError(f"{config_dir}: cannot be checked: {error.strerror or error} (run as root)") from error
        checked = check_configuration(stage, Path("/var/lib/hostmesh"), Path("/run/hostmesh"))
        if checked.problems:
            raise ConfigError([problem.replace(scratch, str(config_dir)) for problem in checked.problems])
        return checked


def install_files(config_dir: Path, changes: Mapping[str, bytes]) -> None:
    """Write the files, agent.yaml last; if one cannot be written all are put back. Raises HostError."""
    try:
        config_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(f"{config_dir}: cannot be made: {error.strerror or error} (run as root)") from error
    before = {name: read_optional(config_dir / name) for name in changes}
    done: list[str] = []
    try:
        for name in sorted(changes, key=lambda name: (name == AGENT_YAML, name)):
            done.append(name)
            _install(config_dir / name, changes[name])
    except HostError:
        for name in done:
            _put_back(config_dir / name, before[name])
        raise


def _agent_yaml(path: Path, settings: dict[str, Any], *, force: bool) -> bytes:
    """Return the file's text with the settings in it; comments stay where nothing but comments is there."""
    data = read_optional(path) or b""
    try:
        present = yaml.safe_load(data) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: is not YAML: {' '.join(str(error).split())}; mend it first"]) from error
    if not isinstance(present, dict):
        raise ConfigError([f"{path}: must be a mapping of settings; mend it first"])
    merged, differences = merged_settings(present, settings)
    if merged == present:
        return data
    if differences and not force:
        raise ConflictError(f"{path} says something else: {'; '.join(differences)}; replace it with --force")
    added = {name: value for name, value in merged.items() if present.get(name) != value}
    if not differences and not added.keys() & present.keys():
        return data.rstrip(b"\n") + _HEAD.encode() + yaml.safe_dump(added, sort_keys=False).encode()
    return _HEAD.lstrip().encode() + yaml.safe_dump(merged, sort_keys=False).encode()


def _says_something(data: bytes | None) -> bool:
    return any(line.strip() and not line.lstrip().startswith(b"#") for line in (data or b"").splitlines())


def _install(path: Path, data: bytes) -> None:
    secret = path.name in SECRET_FILES
    write_atomic(path, data, mode=0o600 if secret else 0o644)
    if secret and os.geteuid() == 0:
        try:
            shutil.chown(path, _AGENT_USER, _AGENT_USER)
        except LookupError:
            return  # no package is installed here: whoever runs the agent reads it as root
        except OSError as error:
            raise HostError(f"{path}: cannot be given to {_AGENT_USER}: {error.strerror or error}") from error


def _put_back(path: Path, data: bytes | None) -> None:
    if data is None:
        path.unlink(missing_ok=True)
    elif read_optional(path) != data:
        _install(path, data)
