"""What a plan makes of access logs: whose requests are written how. Pure; one node (agent/flow)."""

from __future__ import annotations

import json
from collections.abc import Mapping

from msgspec import Struct

from agent.flow.stage import Flow, Source, Stage
from agent.mesh.access_log import ENVOY, LineFormat, line_format
from agent.mesh.routes import Fault
from agent.mesh.service import Labels, ServiceKey
from agent.mesh.settings import MeshSettings
from agent.mesh.snapshot import Resource
from agent.mesh.telemetry_settings import Side
from agent.translate.access_log import Written, with_access_logs
from agent.translate.plan_services import Inputs, Made

_HOST = ""
_INBOUND = "inbound_"


class _Logged(Struct, frozen=True):
    outgoing: tuple[Written, ...] = ()
    incoming: Mapping[int, tuple[Written, ...]] = {}
    """By port."""
    faults: tuple[Fault, ...] = ()


class AccessLogs:
    """The access logs of this host's listeners."""

    def __init__(self, flow: Flow, inputs: Inputs, once: Source[str, bool]) -> None:
        self._path = inputs.options.access_log
        self._logged = Stage(flow, once, lambda _: _logged(inputs))
        self.made = Stage(flow, once, lambda _: Made((), self._logged[_HOST].faults))

    def outgoing(self, made: tuple[Resource, ...]) -> tuple[Resource, ...]:
        """Return resources whose listeners log what goes out of this host, or through this gateway."""
        wanted = self._logged[_HOST].outgoing
        return with_access_logs(made, lambda _: wanted, self._path) if wanted else made

    def incoming(self, made: tuple[Resource, ...]) -> tuple[Resource, ...]:
        """Return resources whose listeners log what comes to this host's workloads."""
        wanted = self._logged[_HOST].incoming
        if not wanted:
            return made
        return with_access_logs(made, lambda prefix: wanted.get(_port(prefix), ()), self._path)


def _port(stat_prefix: str) -> int:
    number = stat_prefix.removeprefix(_INBOUND)
    return int(number) if number.isdecimal() else 0


def _logged(inputs: Inputs) -> _Logged:
    settings, rules = inputs.settings.get(), inputs.telemetry.get()
    if not settings.access_log_file and not any(one.logging for one in rules.objects):
        return _Logged()
    formats, faults = _formats(settings), dict[Fault, None]()

    def written(service: ServiceKey, labels: Labels, side: Side) -> tuple[Written, ...]:
        said = rules.of_workload(service, labels, settings.root_namespace)
        asks = any(one.logging for one in said.objects)
        found = said.logging(side, (ENVOY,) if asks or settings.access_log_file else ())
        for name in found.keys() - formats.keys():
            reason = f"the mesh has no access log {name!r} (extensionProviders: envoyFileAccessLog, or envoy)"
            faults[Fault(str(said.objects[-1].origin), reason)] = None
        return tuple(Written(formats[name], found[name]) for name in sorted(found) if name in formats)

    is_gateway, caller = inputs.options.gateway is not None, inputs.caller.get()
    outgoing = written(caller.service or ServiceKey(caller.namespace, ""), caller.labels, Side.CLIENT)
    incoming: dict[int, tuple[Written, ...]] = {}
    for workload in () if is_gateway else inputs.workloads.get():
        found = written(workload.service, workload.labels, Side.SERVER)
        incoming |= {port.number: found for port in workload.ports if found and port.number not in incoming}
    return _Logged(outgoing, incoming, tuple(faults))


def _formats(settings: MeshSettings) -> dict[str, LineFormat]:
    """Return the lines of each provider."""
    said, encoding = settings.access_log_format, settings.access_log_encoding
    fields = json.loads(said) if said and encoding == "JSON" else None
    formats = {ENVOY: line_format("" if encoding == "JSON" else said, fields, encoding)}
    for provider in settings.extension_providers:
        log = provider.envoy_file_access_log
        if log is not None:
            form = log.log_format
            formats[provider.name] = line_format(form.text, form.labels) if form else formats[ENVOY]
    return formats
