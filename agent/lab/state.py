"""What a lab left on this machine, on disk (/run/NAME/state.json), so that any later process can show and remove it."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from agent.adapters.files import read_optional, write_atomic
from agent.errors import HostError
from agent.lab.processes import ProcessId


class HostState(Struct):
    """One host: its processes by part (`consul`, `dnsmasq`, `ca`, `agent`, the services' names, `anchor`)."""

    address: str
    namespace: str
    parts: dict[str, ProcessId] = {}


class LabState(Struct):
    """Everything to be removed again."""

    name: str
    complete: bool = False
    """False while it comes up, or if it failed to."""
    page: str = ""
    consul: str = ""
    gateway: str = ""
    gateway_tls: str = ""
    prometheus: str = ""
    servicegraph: str = ""
    zipkin: str = ""
    ca_socket: str = ""
    bridge_namespace: str = ""
    hosts: dict[str, HostState] = {}
    forwarders: dict[str, ProcessId] = {}

    def processes(self) -> list[ProcessId]:
        """Return all processes that were started."""
        return [*self.forwarders.values(), *(p for host in self.hosts.values() for p in host.parts.values())]

    def namespaces(self) -> list[str]:
        """Return all network namespaces that were made."""
        return [host.namespace for host in self.hosts.values()] + [self.bridge_namespace] * bool(self.bridge_namespace)


class StateFile:
    """The file of one lab."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "state.json"

    def load(self) -> LabState | None:
        """Return the state, None if there is no lab; raises HostError if the file is damaged."""
        data = read_optional(self.path)
        if data is None:
            return None
        try:
            return msgspec.json.decode(data, type=LabState)
        except msgspec.DecodeError as error:
            raise HostError(f"{self.path}: damaged: {error}; `hostmesh lab down` removes what is there") from error

    def save(self, state: LabState) -> None:
        """Replace the file; raises HostError."""
        write_atomic(self.path, msgspec.json.format(msgspec.json.encode(state), indent=2), mode=0o644)
