"""Every part of a running agent on one host: how they are connected, started and stopped."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping
from functools import partial

import msgspec

from agent import __version__
from agent.adapters.consul.catalog import Scope, watch_catalog
from agent.adapters.consul.client import ConsulClient
from agent.adapters.consul.generations import Generations
from agent.adapters.consul.kv import watch_config
from agent.adapters.consul.registration import Registrar
from agent.adapters.consul.status import StatusWriter
from agent.adapters.consul.tickets import TicketBox
from agent.adapters.credentials import CredentialsRead, read_credentials, watch_credentials
from agent.adapters.dns.hosts import FILE_NAME
from agent.adapters.dns.vip_table import VipTable
from agent.adapters.proxy.admin import AdminClient
from agent.adapters.proxy.log_follow import EnvoyLog
from agent.adapters.proxy.supervisor import EnvoySupervisor
from agent.adapters.xds.server import XdsServer
from agent.config import Config, InterceptionConfig, OnProxyFailure
from agent.errors import HostError
from agent.mesh.gateway import FileCredential, named_files
from agent.mesh.routes import Fault
from agent.mesh.service import Identity, ServiceKey, Workload
from agent.mesh.snapshot import Desired, MeshSnapshot, Vip
from agent.mesh.status import NodeStatus, OperatorAccess, ProxyStatus
from agent.runtime import garbage
from agent.runtime.capture import data_path, guard
from agent.runtime.certificates import trust_domain_faults
from agent.runtime.consul_credentials import credential_parts
from agent.runtime.decision_log import decision_log
from agent.runtime.endpoint import Endpoint
from agent.runtime.entry_log import entry_log_of
from agent.runtime.events import CredentialsChanged, FaultsChanged, WorkloadsChanged
from agent.runtime.fault_log import FaultLog
from agent.runtime.host_identity import HostIdentity
from agent.runtime.host_options import (
    admin_socket,
    bootstrap_options,
    decision_log_file,
    has_ipv6,
    plan_options,
    proxy_options,
)
from agent.runtime.kept_file import DiskFault, KeptFile
from agent.runtime.key_sets import key_sets_of
from agent.runtime.last_known import LastKnownFile
from agent.runtime.leaving import Leaving
from agent.runtime.lists import lists_of
from agent.runtime.metrics import Counters, MetricsPage
from agent.runtime.names_watch import watch_names
from agent.runtime.operator_port import OperatorPort
from agent.runtime.reconciler import Reconciler
from agent.runtime.state import MeshState, bounded
from agent.runtime.telemetry.collector import MetricsCollector
from agent.runtime.unit import Unit, status_line
from agent.runtime.views import open_view
from agent.runtime.workloads import ServicesFolder, agent_entry, gateway_workload, served
from agent.translate.bootstrap import bootstrap

log = logging.getLogger(__name__)

FIRST_CONFIGURATION_SECONDS = 20.0
"""How long other units wait at boot for a mesh that nothing is known of."""
STUCK_SECONDS = 15.0
"""A reconciler that leaves events alone for so long hangs."""


class HostAgent:
    """One agent on one host."""

    def __init__(
        self,
        config: Config,
        client: ConsulClient,
        address: str,
        last_known: LastKnownFile,
        faults: tuple[Fault, ...],
        unit: Unit,
    ) -> None:
        self._unit = unit
        self._leaves_standing = False
        self._config = config
        self._client = client
        self._address = address
        self._last_known = last_known
        vip_table = VipTable(config.state_dir / "vips.json")
        vips, vip_faults = vip_table.load()
        self._vips: Mapping[ServiceKey, Vip] = vips
        self.state = MeshState(config.node, config.vip_range_v4, config.vip_range_v6, self._vips)
        self.state.apply([FaultsChanged("disk: last known", faults), FaultsChanged("disk: vips", vip_faults)])
        self._services = ServicesFolder(config, address)
        self._workloads: tuple[Workload, ...] = ()
        self._served: tuple[Workload, ...] = ()
        """As peers may call them."""
        self._proxied = True
        self._certified: frozenset[Identity] = frozenset()
        self._named_files: frozenset[FileCredential] = frozenset()
        self._fault_log = FaultLog()
        self._followed = Scope()
        self._reconciler = Reconciler(self.state, plan_options(config), self._publish, self._after_round)
        self._post = self._reconciler.mailbox.post
        last_known.on_written = DiskFault(
            "last known", "a start without Consul would go by an older mesh", self._post
        ).note
        self._kept_vips = KeptFile(
            vip_table.save, DiskFault("vips", "virtual addresses may change at the next start", self._post)
        )
        self._identity = HostIdentity(config, admin_socket(config), self._post, self._update_status)
        self._xds = XdsServer(config.run_dir / "xds.sock")
        self._xds.on_change = self._update_status
        options = proxy_options(config)
        self._envoy_log = EnvoyLog(options.log_file, options.folder / "log.read") if options.log_file else None
        self._decisions = decision_log(decision_log_file(config), options.folder / "decisions.read")
        self._entries = entry_log_of(config, lambda faults: self._post(FaultsChanged("logs", faults)))
        self._supervisor = EnvoySupervisor(options, lambda _process: self._update_status())
        self._data_path = data_path(config, self._xds, self._post)
        numbers = Generations(config.state_dir / "registrations.json")
        self._registrar = Registrar(client, (), self._update_status, numbers)
        self._leaving = Leaving(self._registrar, config.proxy.drain_seconds)
        self._status_writer = StatusWriter(client, config.node, self._note_silence)
        self._lists = lists_of(config, lambda faults: self._post(FaultsChanged("lists", faults)), self._post)
        self._key_sets = key_sets_of(config, lambda faults: self._post(FaultsChanged("key sets", faults)))
        self._traffic = MetricsCollector(AdminClient(admin_socket(config)))
        metrics = MetricsPage(self.status, self._counters, self._traffic.page)
        envoy = AdminClient(admin_socket(config), timeout_seconds=30.0)
        views = partial(open_view, envoy)
        xds, routes = self._xds, (*self._identity.desk.routes(), *self._key_sets.routes(), *self._leaving.routes())
        self._endpoint = Endpoint(self.status, metrics.render, xds.wait_acked, views, xds.follow_acks, routes)
        self._operator_port = OperatorPort(TicketBox(client, config.node), envoy)
        self._operator: OperatorAccess | None = None

    def reload(self) -> None:
        """Read services.d again (it has changed, SIGHUP, another mesh default)."""
        self._proxied = self.state.settings.proxied
        self._workloads, faults = self._services.read(self._workloads, self._proxied)
        workloads = tuple(served(workload, self._config) for workload in self._workloads)
        gateway = gateway_workload(self._config, self._address)
        self._workloads = (*gateway, *self._workloads)
        self._served = (*gateway, *workloads)
        self._post(WorkloadsChanged(self._served, faults))
        self._registrar.set_workloads((*workloads, agent_entry(self._address)))
        self._take_credentials(read_credentials(self._config.secrets_dir, self._named_files))
        self._identity.set_workloads(self._workloads)

    def set_interception(self, interception: InterceptionConfig) -> None:
        """Capture otherwise from the next reload() on."""
        if interception != self._config.interception:
            self._config = msgspec.structs.replace(self._config, interception=interception)
            self._reconciler.set_options(plan_options(self._config))
            self._data_path.opens_without_envoy = interception.on_proxy_failure is OnProxyFailure.OPEN

    async def set_envoy_log_level(self, level: str) -> None:
        """Have Envoy log from another level on."""
        try:
            await self._supervisor.set_log_level(level)
        except HostError as error:
            log.warning("Envoy's log level takes effect at its next start: %s", error)

    def leave_standing(self) -> None:
        """Let the next stop leave Envoy, rules, names and registrations to the agent that comes next."""
        self._leaves_standing = True

    @property
    def works(self) -> bool:
        """Tell whether the reconciler keeps up with what happens, for systemd's watchdog."""
        return self._reconciler.mailbox.waiting_seconds < STUCK_SECONDS

    async def run(self, stop: asyncio.Event) -> None:
        """Run everything until `stop` is set, then stop gracefully. Raises HostError if the host can't carry it."""
        self.reload()
        try:
            await self._start()
            await self._run_parts(stop)
        finally:
            await self._endpoint.stop()
            await self._xds.stop()

    async def _start(self) -> None:
        """Start what listens, then Envoy; where another agent is, nothing is started beside it."""
        addresses = ("0.0.0.0", "::") if has_ipv6() else ("0.0.0.0",)
        await self._endpoint.start(self._config.run_dir / "admin.sock", addresses)
        await self._xds.start()
        await guard(self._data_path, self._config, self._served)
        await self._supervisor.start(bootstrap(bootstrap_options(self._config, self._workloads)))

    async def _run_parts(self, stop: asyncio.Event) -> None:
        tasks = [
            asyncio.create_task(coroutine, name=name)
            for name, coroutine in {
                "reconciler": self._reconciler.run(),
                "data path": self._data_path.run(),
                "envoy": self._supervisor.run(),
                "catalog": watch_catalog(self._client, self._post, self._followed),
                "rules": watch_config(self._client, self._post),
                "registrations": self._registrar.run(),
                "status": self._status_writer.run(),
                "last known": self._last_known.keep(
                    lambda: self.state.last_known(self._address), lambda: self.state.changes
                ),
                "virtual addresses": self._kept_vips.run(),
                "services.d": self._services.watch(self.reload),
                "certificates": self._identity.run(),
                "readiness": self._announce(),
                "key sets": self._key_sets.run(),
                "lists": self._lists.run(),
                "decisions": self._decisions.follow(),
                "metrics": self._traffic.run(),
                "entries": self._entries.run(),
                **({"envoy's log": self._envoy_log.follow()} if self._envoy_log else {}),
                **self._operator_parts(),
                **credential_parts(self._config.consul.token_file, self._client, self._registrar, self._post),
                "secrets": watch_credentials(
                    self._config.secrets_dir, self._take_credentials, lambda: self._named_files
                ),
                "garbage": garbage.keep_short(self._data_path.ready),
                "names": watch_names(self._config.state_dir / "dns" / FILE_NAME, self._data_path.ready, self._post),
            }.items()
        ]
        stopping = asyncio.create_task(stop.wait(), name="stop")
        done, _ = await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
        try:
            # A part that died is a fault of the agent: let systemd start a new one. Envoy, rules and names stay,
            # and the new agent adopts them.
            for task in done - {stopping}:
                task.result()
            await (self._leave() if self._leaves_standing else self._stop())
        finally:
            for task in [*tasks, stopping]:
                task.cancel()
            await asyncio.gather(*tasks, stopping, return_exceptions=True)

    def _operator_parts(self) -> dict[str, Coroutine[None, None, None]]:
        if not self._config.operator.enabled:
            return {}
        report = partial(FaultsChanged, "operator port")
        serving = self._operator_port.run(
            self._address, self._config.operator.port, self._take_operator, lambda faults: self._post(report(faults))
        )
        return {"operator port": serving}

    def _take_operator(self, access: OperatorAccess) -> None:
        self._operator = access
        self._update_status()

    async def _leave(self) -> None:
        """End alone: the next agent adopts what stands, and nobody notices."""
        self._unit.stopping("leaving Envoy, rules and names to the next agent")
        log.info("restarting: Envoy, rules, names and registrations stay")
        await self._last_known.save_finally(self.state.last_known(self._address))
        self._supervisor.release()

    async def _stop(self) -> None:
        """Leave in the order in which peers and local programs notice nothing."""
        self._unit.stopping("leaving the catalog")
        log.info("stopping: leaving the catalog, then draining for up to %g s", self._config.proxy.drain_seconds)
        await self._last_known.save_finally(self.state.last_known(self._address))
        await self._leaving.leave()
        self._unit.stopping("draining")
        try:
            await self._data_path.remove()
        finally:
            # Rules that can't be removed lead to a closed port from now on; an Envoy that nobody feeds would serve
            # yesterday's mesh instead. The HostError goes on to the operator.
            await self._supervisor.stop()
            await self._status_writer.close()

    async def _announce(self) -> None:
        """Once the data path serves: register the instances, tell systemd; a host that knows nothing yet tells it, too.

        Without Consul and anything known from before there is nothing to serve, and no reason to hold up the boot.
        """
        try:
            async with asyncio.timeout(FIRST_CONFIGURATION_SECONDS):
                await self._data_path.ready.wait()
        except TimeoutError:
            self._unit.ready()
            log.warning("nothing is served yet: waiting for %s", ", ".join(self.state.missing) or "Envoy")
            await self._data_path.ready.wait()
        self._registrar.set_certified(self._certified)
        self._registrar.set_ready(True)
        self._identity.settled()
        self._update_status()
        self._unit.ready()
        log.info("ready: Envoy has acknowledged its configuration")
        while True:
            await self._xds.wait_changed()
            if self._xds.state.settled:  # a mark before that would send mutual TLS to where it is not served yet
                self._registrar.set_certified(self._certified)
                self._identity.settled()

    def _take_credentials(self, read: CredentialsRead) -> None:
        self._post(CredentialsChanged(read.credentials, tuple(Fault("secrets", line) for line in read.problems)))

    def _publish(self, snapshot: MeshSnapshot, desired: Desired, revision: int) -> None:
        self._data_path.publish(desired, revision)
        self._traffic.publish(snapshot)
        self._entries.follow(desired.logs)
        self._certified = frozenset(snapshot.certificates)
        self._identity.published(snapshot)
        near = (snapshot.workloads, snapshot.settings.root_namespace)
        self._key_sets.follow(snapshot.security.key_sets(*near))
        self._lists.follow(snapshot.security.lists(*near))
        labels = self._config.gateway_labels
        if labels is not None:
            self._named_files = named_files(one for one in snapshot.ingress.gateways if one.selects(labels))
        if snapshot.vips != self._vips:
            self._vips = snapshot.vips
            self._kept_vips.keep(snapshot.vips)

    def _after_round(self) -> None:
        if self.state.settings.proxied is not self._proxied:
            self.reload()
        self._followed.follow(self.state.followed)
        self._update_status()

    def _update_status(self) -> None:
        status = self.status()
        self._unit.status(status_line(status, self._data_path.ready.is_set(), self.state.missing))
        self._status_writer.write(status)
        self._fault_log.note(status.faults + status.proxy.nacks)

    def _note_silence(self, reason: str | None) -> None:
        """Take what keeps Consul from hearing of this node, None if it does."""
        faults = (Fault("Consul", f"{reason}; proxy-status cannot show this node"),) if reason else ()
        self._post(FaultsChanged("status", faults))

    def status(self) -> NodeStatus:
        """Return this node's present status."""
        xds, process = self._xds.state, self._supervisor.process
        proxy = ProxyStatus(
            connected=xds.connected,
            version=process.version,
            config_revision=xds.published_revision,
            acked_revision=xds.acked_revision,
            nacks=bounded("xDS", xds.nacks),
            restarts=process.restarts,
            last_exit=process.last_exit,
        )
        return NodeStatus(
            node=self._config.node,
            address=self._address,
            agent_version=__version__,
            proxy=proxy,
            certificates=self._identity.certificates,
            operator=self._operator,
            scope=self.state.scope,
            trust_bundle=self._identity.acknowledged.version,
            faults=self.state.faults
            + trust_domain_faults(self._identity.certificates, self.state.settings.trust_domain)
            + self._registrar.faults,
            updated_at=round(time.time(), 3),
        )

    def _counters(self) -> Counters:
        sent = tuple(sorted(self._xds.state.resources_sent.items()))
        reconciler = self._reconciler
        entries, repairs = tuple(self._entries.counts()), self._data_path.repairs
        return Counters(reconciler.rounds, reconciler.last_round_seconds, sent, repairs, entries)
