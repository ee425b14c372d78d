"""Checks a whole configuration folder as the agent reads it, starting nothing: what `hostmesh-agent --check` says."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from agent.adapters.consul.address import ConsulAddress, read_token
from agent.adapters.credentials import read_credentials
from agent.config import Config, load_config, load_workloads
from agent.errors import ConfigError, HostError
from agent.runtime.workloads import one_identity_per_port


class Checked(Struct, frozen=True):
    """What was found; one line each, with file and line where there is one."""

    problems: tuple[str, ...]
    """What the agent would refuse, or leave out."""
    notes: tuple[str, ...] = ()
    summary: str = ""
    """In one line what is configured; empty if agent.yaml or an .env file is wrong."""


def check_configuration(config_dir: Path, state_dir: Path, run_dir: Path) -> Checked:
    """Return every fault of agent.yaml, the .env files, services.d, secrets and of the files that these name."""
    problems: list[str] = []
    config: Config | None = None
    try:
        config = load_config(config_dir, state_dir, run_dir)
    except ConfigError as error:
        problems += error.problems
    address = (config.address if config else "") or "127.0.0.1"
    workloads, faults = load_workloads(config_dir, address)
    kept, refused = one_identity_per_port(workloads, ())
    problems += [*faults, *refused]
    if config is None:
        return Checked(tuple(problems))
    problems += _unusable_files(config)
    names = ", ".join(str(workload.service) for workload in kept) or "none"
    summary = f"configuration of node {config.node} is good; services on this host: {names}"
    return Checked(tuple(problems), (*config.notes, *_notes(config)), summary)


def consul_address(config: Config) -> ConsulAddress:
    """Return where Consul is and how to be let in; raises ConfigError for a file that cannot be used."""
    consul = config.consul
    parsed = ConsulAddress.from_url(consul.address, source="consul.address")
    return ConsulAddress(
        host=parsed.host,
        port=parsed.port,
        scheme=parsed.scheme,
        token=read_token(consul.token_file, "consul.tokenFile") if consul.token_file else "",
        ca_file=consul.ca_file or "",
        client_cert=consul.cert_file or "",
        client_key=consul.key_file or "",
    )


def _unusable_files(config: Config) -> list[str]:
    problems: list[str] = []
    try:
        address = consul_address(config)
        if address.scheme == "https":
            address.ssl_context()
    except ConfigError as error:
        problems += error.problems
    try:
        problems += read_credentials(config.secrets_dir).problems
    except HostError as error:
        problems.append(str(error))
    return problems


def _notes(config: Config) -> list[str]:
    notes = []
    if not Path(config.proxy.binary).is_file():
        notes.append(f"proxy.binary: {config.proxy.binary} is not there: install hostmesh-proxy")
    if not config.ca.hosts:
        notes.append("ca.address is not set: this host gets no certificates and takes part without mutual TLS")
    return notes
