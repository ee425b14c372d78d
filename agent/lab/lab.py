"""A whole lab: brings its hosts up in the right order, waits until they serve, and removes every trace of them.

The Python face of `hostmesh lab`, and what integration tests build their meshes with:

    with Lab(LabPlan(hosts=(...), name="hmt-a", prefix="hmt-a-")) as lab:
        lab["productpage"].get("/productpage")
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from agent.adapters.files import write_atomic
from agent.adapters.proxy.shared_memory import remove_shared_memory
from agent.adapters.proxy.state import read_state
from agent.errors import HostError, UserError
from agent.lab import netns_files, network
from agent.lab.host import Host, folder_to_cover
from agent.lab.hostfiles import AGENT_UID, APP_UID, CA_UID, CONSUL_UID, DNS_UID, host_files
from agent.lab.outside import AUTHORITY, BUNDLE, certificates
from agent.lab.plan import CHECKOUT, App, Forward, HostPlan, LabPlan
from agent.lab.processes import ProcessId, identify, kill, kill_all
from agent.lab.programs import PROGRAMS, find_programs
from agent.lab.readiness import (
    Condition,
    agent_ready,
    agent_settled,
    app_ready,
    ca_ready,
    consul_ready,
    names_ready,
    page_ready,
    registered,
    wait_all,
)
from agent.lab.state import HostState, LabState, StateFile
from agent.lab.tokens import create_tokens

RUN = Path("/run")
_FOLDERS = ("etc/services.d", "etc/secrets", "var/dns", "run", "log", "consul", "app")

_USERS: dict[str, tuple[int, tuple[str, ...]]] = {
    "consul": (CONSUL_UID, ()),
    "ca": (CA_UID, ()),
    "dnsmasq": (DNS_UID, ("net_bind_service",)),
    "agent": (AGENT_UID, ("net_admin", "net_raw", "net_bind_service")),
}
"""Part → the user it runs as and the capabilities it keeps."""
_PROGRAMS = {"ca": "hostmesh-ca", "agent": "hostmesh-agent"}


class Lab:
    """One lab on this machine. `report` gets a line at the beginning of each step."""

    def __init__(self, plan: LabPlan, report: Callable[[str], None] = lambda _: None) -> None:
        self.plan = plan
        self.folder = RUN / plan.name
        self.hosts: dict[str, Host] = {}
        self._report = report
        self._file = StateFile(self.folder)
        self._state = LabState(plan.name)
        self._forwarders: dict[str, subprocess.Popen[bytes]] = {}

    def __getitem__(self, host: str) -> Host:
        return self.hosts[host]

    def __iter__(self) -> Iterator[Host]:
        return iter(self.hosts.values())

    def __enter__(self) -> Lab:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    @property
    def state(self) -> LabState:
        """Return what was started and where it can be reached."""
        return self._state

    def up(self, timeout: float = 120.0, keep: bool = False) -> None:
        """Bring everything up and wait until it serves, at most timeout seconds.

        Raises UserError if the lab is there already, HostError (with host, part and log) if something fails; then all
        is taken down again unless keep.
        """
        programs = find_programs((*PROGRAMS, *self.plan.programs))
        if any(network.exists(name) for name in self.plan.namespaces):
            raise UserError(f"lab: namespaces of {self.plan.name} are there already: `hostmesh lab down` removes them")
        try:
            self.folder.mkdir(mode=0o755)  # of two that come up at once, only one gets past here
        except FileExistsError as error:
            raise UserError(f"lab: {self.folder} is there already: `hostmesh lab down` removes it") from error
        self._file.save(self._state)
        try:
            self._bring_up(programs, time.monotonic() + timeout)
        except BaseException:
            if not keep:
                self.down()
            raise

    def attach(self) -> bool:
        """Take up a lab that another process made; False if there is none. Raises HostError if its state is damaged."""
        state = self._file.load()
        if state is None:
            return False
        self._state = state
        plans = {plan.name: plan for plan in self.plan.hosts}
        self.hosts = {
            name: Host(plans.get(name, HostPlan(name, agent="agent" in host.parts)), host, self.folder / name)
            for name, host in state.hosts.items()
        }
        return True

    def down(self) -> None:
        """Remove every trace, also of a lab that another process made; nothing if there is none."""
        try:
            state = self._file.load() or self._state
        except HostError:
            state = self._state  # damaged: the plan's own names are all there is to go by
        processes = {*state.processes(), *self._state.processes()}
        namespaces = list(dict.fromkeys([*state.namespaces(), *self.plan.namespaces]))
        inodes = {inode for name in namespaces if (inode := network.inode_of(name)) is not None}
        kill_all(processes, inodes)
        for host in self:
            host.reap()
        for child in self._forwarders.values():
            child.wait()
        for name in namespaces:
            network.delete_namespace(name)
            netns_files.hide(name, self.folder)
        self._remove_folder()
        self.hosts, self._state, self._forwarders = {}, LabState(self.plan.name), {}

    def _remove_folder(self) -> None:
        """Remove the folder under /run, if it is a lab's (an empty one is what a crash left at the first step)."""
        if self._file.path.exists():
            for note in self.folder.glob("*/run/envoy/envoy.state"):
                if envoy := read_state(note):
                    remove_shared_memory(envoy.base_id)  # its agent, which would have, was killed
            shutil.rmtree(self.folder)
        elif self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def start(self, host: str, part: str, before: Sequence[str] = ()) -> ProcessId:
        """Start a part of a host (again): consul, ca, dnsmasq, agent, or an application by its service's name.

        `before` stands before the command line of what is no application: `env NAME=VALUE`.
        """
        started = self._start_program(self[host], part, before) if part in _USERS else self[host].start_app(part)
        self._file.save(self._state)
        return started

    def start_agent(self, host: str) -> ProcessId:
        """Start hostmesh-agent on a host."""
        return self.start(host, "agent")

    def _start_program(self, host: Host, part: str, before: Sequence[str] = ()) -> ProcessId:
        uid, capabilities = _USERS[part]
        return host.start(part, [*before, *self._command_line(host, part)], uid, capabilities)

    def _command_line(self, host: Host, part: str) -> list[str]:
        program = _PROGRAMS.get(part, part)
        argv = [find_programs((program,))[program]]
        if part == "consul":
            return [*argv, "agent", f"-config-file={host.path('etc/consul.json')}"]
        if part == "ca":
            return [*argv, "--config", str(host.path("etc/ca.yaml"))]
        if part == "dnsmasq":
            options = ["--keep-in-foreground", "--log-facility=-", "--pid-file="]
            return [*argv, *options, f"--conf-file={host.path('etc/dnsmasq.conf')}"]
        folders = [
            word
            for kind in ("config", "state", "run")
            for word in (f"--{kind}-dir", str(self._agent_folder(host.name, kind)))
        ]
        return [*argv, *folders]

    def stop(self, host: str, part: str, seconds: float = 20.0) -> None:
        """End a part by SIGTERM and wait for it; raises HostError if it stays."""
        self._end(host, part, kill_first=False, seconds=seconds)

    def kill(self, host: str, part: str) -> None:
        """End a part (also `envoy`) by SIGKILL and wait until it is gone."""
        self._end(host, part, kill_first=True, seconds=5.0)

    def wait(self, conditions: Mapping[tuple[str, str], Condition], timeout: float = 30.0) -> None:
        """Wait until the condition of each (host, part) holds; raises HostError with the part's log if it doesn't."""
        wait_all(self.hosts, conditions, time.monotonic() + timeout)

    def _bring_up(self, programs: Mapping[str, str], deadline: float) -> None:
        self._report("network: a bridge and a namespace for each host")
        self._make_folders(programs)
        network.create_network(self.plan)
        cover = folder_to_cover()
        for host in self:
            host.anchor(cover)
            netns_files.show(host.namespace, host.root)
        self._file.save(self._state)
        self._report("Consul, names, certificate authority and applications")
        for host in self:
            self._start_infrastructure(host)
        self._start_forwarders()
        self._file.save(self._state)
        wait_all(self.hosts, self._conditions(ca_ready, lambda plan: plan.ca, "ca"), deadline)
        self._report("agents and their Envoys")
        for host in self:
            if host.plan.agent:
                self._write_token(host)
                self.start_agent(host.name)
        self._report("waiting: Consul's members, names, health of the applications")
        wait_all(self.hosts, self._infrastructure_conditions(), deadline)
        self._report("waiting: each Envoy connected to its agent")
        wait_all(self.hosts, self._conditions(agent_ready, lambda plan: plan.agent, "agent"), deadline)
        self._report("waiting: every instance in the catalog and passing")
        wait_all(self.hosts, self._registrations(), deadline)
        self._report("waiting: every Envoy has its certificate and knows every instance")
        wait_all(self.hosts, self._knowledge(), deadline)
        if self.plan.page_host:
            self._report("waiting: the page, through the mesh")
            page = self[self.plan.page_host]
            wait_all(self.hosts, {(page.name, "productpage"): page_ready(page)}, deadline)
        self._start_optional()
        self._state.complete = True
        self._file.save(self._state)

    def _make_folders(self, programs: Mapping[str, str]) -> None:
        self.folder.chmod(0o755)  # other users' processes pass through, whatever the umask
        nsswitch = Path("/etc/nsswitch.conf")
        names = nsswitch.read_text() if nsswitch.exists() else ""
        for plan in self.plan.hosts:
            root = self.folder / plan.name
            self._state.hosts[plan.name] = HostState(str(self.plan.address(plan.name)), self.plan.namespace(plan.name))
            self.hosts[plan.name] = Host(plan, self._state.hosts[plan.name], root)
            for folder in ("", "etc", *_FOLDERS):
                (root / folder).mkdir(parents=True, exist_ok=True)
                (root / folder).chmod(0o755)
            for name, text in host_files(self.plan, plan, root, programs["envoy"], names).items():
                write_atomic(root / "etc" / name, text.encode(), mode=0o644)
            owner = CA_UID if plan.ca else AGENT_UID
            owners = {"var": owner, "run": owner, "consul": CONSUL_UID, "app": APP_UID}
            owners |= {"var/dns": AGENT_UID, "etc/secrets": AGENT_UID}
            for folder, uid in owners.items():
                os.chown(root / folder, uid, uid)
        self._certify_outside()
        self._state.bridge_namespace = self.plan.name
        self._file.save(self._state)

    def _certify_outside(self) -> None:
        """Give the outside's servers certificates, and let every host trust them beside what this machine trusts."""
        outside = self.plan.only("names")
        if outside is None:
            return
        files = certificates(outside.names)
        bundle = (BUNDLE.read_bytes() if BUNDLE.exists() else b"") + files.pop(AUTHORITY)
        for host in self:
            write_atomic(host.path("etc/ca-certificates.crt"), bundle, mode=0o644)
        for name, data in files.items():
            path = self[outside.name].path(f"app/{name}")
            write_atomic(path, data)
            os.chown(path, APP_UID, APP_UID)

    def _start_infrastructure(self, host: Host) -> None:
        if host.plan.consul:
            self._start_program(host, "consul")
        if host.plan.ca:
            self._start_program(host, "ca")
            self._state.ca_socket = str(host.path("run/admin.sock"))
        self._start_program(host, "dnsmasq")
        for app in host.plan.apps:
            if app.argv and not app.is_optional:
                host.start_app(app.service)

    def _start_optional(self) -> None:
        """Start what the mesh does not need, as far as it is installed; nobody waits for it."""
        late = [(one, app) for one in self for app in one.plan.apps if app.is_optional]
        for host, app in late:
            try:
                find_programs(app.programs)
            except HostError as error:
                self._report(f"without {app.service}: {str(error).removeprefix('lab: ')}")
                continue
            host.start_app(app.service)
            if forward := next((one for one in self.plan.forwards if one.name == app.service), None):
                self._forward(forward)
                self._state.zipkin = f"http://127.0.0.1:{forward.port}"

    def _start_forwarders(self) -> None:
        later = {app.service for host in self for app in host.plan.apps if app.is_optional}
        for forward in self.plan.forwards:
            if forward.name not in later:
                self._forward(forward)
        addresses = {forward.name: f"127.0.0.1:{forward.port}" for forward in self.plan.forwards}
        if page := addresses.get("page"):
            self._state.page = f"http://{page}/productpage"
        if consul := addresses.get("consul"):
            self._state.consul = f"http://{consul}"
        if "prometheus" in addresses:
            self._state.prometheus = f"http://{addresses['prometheus']}"
            self._state.servicegraph = f"http://{addresses['servicegraph']}"
        self._state.gateway, self._state.gateway_tls = addresses.get("gateway", ""), addresses.get("gateway-tls", "")

    def _forward(self, forward: Forward) -> None:
        namespace = str(network.NAMESPACES / self.plan.namespace(forward.host))
        argv = [sys.executable, "-m", "agent.lab.forward", str(forward.port), namespace, str(forward.target_port)]
        with (self.folder / f"forward-{forward.name}.log").open("ab") as log:
            child = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=CHECKOUT, start_new_session=True
            )
        self._forwarders[forward.name] = child
        self._state.forwarders[forward.name] = identify(child.pid) or ProcessId(child.pid, 0)

    def _write_token(self, host: Host) -> None:
        """Put the join tokens of the host's identities where the agent looks for them: a line for each."""
        if not self._state.ca_socket:
            return
        tokens = create_tokens(Path(self._state.ca_socket), host.plan.identities)
        path = host.path("etc/join-token")
        write_atomic(path, "".join(f"{identity} {token}\n" for identity, token in tokens).encode())
        os.chown(path, AGENT_UID, AGENT_UID)

    def _conditions(
        self, ready: Callable[[Host], Condition], wanted: Callable[[HostPlan], bool], part: str
    ) -> dict[tuple[str, str], Condition]:
        return {(host.name, part): ready(host) for host in self if wanted(host.plan)}

    def _infrastructure_conditions(self) -> dict[tuple[str, str], Condition]:
        conditions = self._conditions(consul_ready, lambda plan: plan.consul, "consul")
        conditions |= self._conditions(names_ready, lambda _: True, "dnsmasq")
        for host in self:
            for app in host.plan.apps:
                if app.argv and not app.is_optional:
                    conditions[host.name, app.service] = app_ready(host, app)
        return conditions

    def _registrations(self) -> dict[tuple[str, str], Condition]:
        return {(host.name, app.service): registered(host, app) for host, app in self._registered()}

    def _knowledge(self) -> dict[tuple[str, str], Condition]:
        instances = {(host.address, app.port) for host, app in self._registered()}
        return self._conditions(lambda host: agent_settled(host, instances), lambda plan: plan.agent, "agent")

    def _registered(self) -> list[tuple[Host, App]]:
        return [(host, app) for host in self if host.plan.agent for app in host.plan.apps if app.argv]

    def _agent_folder(self, host: str, kind: str) -> Path:
        return self[host].path({"config": "etc", "state": "var", "run": "run"}[kind])

    def _end(self, host: str, part: str, kill_first: bool, seconds: float) -> None:
        pid = self[host].pid(part)
        process = identify(pid) if pid is not None else None
        if process is None:
            raise HostError(f"lab: host {host}: {part} does not run")
        kill(process, signal.SIGKILL if kill_first else signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while process.is_running:
            if time.monotonic() > deadline:
                raise HostError(f"lab: host {host}: {part} (pid {process.pid}) does not end within {seconds:.0f} s")
            self[host].reap()
            time.sleep(0.01)
        self[host].forget(part)
