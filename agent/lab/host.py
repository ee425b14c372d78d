"""One lab host: its namespaces, its folders and its processes.

A host's network namespace has a name (`ip netns`); its mount and host-name namespaces live as long as its `anchor`, a
sleeping process. There /etc/resolv.conf, nsswitch.conf and hosts are the host's own, and so is /dev/shm (Envoy's).
"""

from __future__ import annotations

import http.client
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from agent.errors import HostError
from agent.lab import network
from agent.lab.hostfiles import APP_UID
from agent.lab.outside import BUNDLE
from agent.lab.plan import CHECKOUT, HostPlan
from agent.lab.processes import ProcessId, identify, in_network_namespaces, name_of
from agent.lab.programs import SEARCH_PATH
from agent.lab.state import HostState

LOG_TAIL_LINES = 15
_FIRST_UNPRIVILEGED_PORT = 1024

# Absent or dangling /etc/resolv.conf: the resolver's own default is 127.0.0.1, which is just what is wanted.
# COVER is a folder above the checkout that other users may not enter (/root): an open folder is laid over it, in which
# there is nothing but the checkout, so that every path stays as it is.
_ANCHOR = """
set -e
hostname "$HOST_NAME"
for file in resolv.conf nsswitch.conf hosts; do
  if [ -e "/etc/$file" ]; then mount --bind "$ROOT/etc/$file" "/etc/$file"; fi
done
trusted="$ROOT/etc/ca-certificates.crt"
if [ -e "$trusted" ] && [ -e "$BUNDLE" ]; then mount --bind "$trusted" "$BUNDLE"; fi
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
if [ -n "$COVER" ]; then
  mkdir -p "$ROOT/checkout"
  mount --bind "$CHECKOUT" "$ROOT/checkout"
  mount -t tmpfs -o mode=755 tmpfs "$COVER"
  mkdir -p "$CHECKOUT"
  mount --move "$ROOT/checkout" "$CHECKOUT"
fi
cd /
echo ready
exec sleep infinity >/dev/null
"""


class Host:
    """A host of a lab that is up or coming up."""

    def __init__(self, plan: HostPlan, state: HostState, root: Path) -> None:
        self.plan = plan
        self.name = plan.name
        self.root = root
        self._state = state
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def address(self) -> str:
        """Return the address on the bridge."""
        return self._state.address

    @property
    def namespace(self) -> str:
        """Return the name of the network namespace."""
        return self._state.namespace

    def path(self, name: str) -> Path:
        """Return a path under the host's folder: etc/…, var/…, run/…, log/…"""
        return self.root / name

    def argv(self, argv: Sequence[str], uid: int = 0, capabilities: Sequence[str] = ()) -> list[str]:
        """Return the command line that runs argv on this host as that user with these (ambient) capabilities."""
        anchor = self._state.parts["anchor"]
        enter = ["nsenter", f"--target={anchor.pid}", "--net", "--mount", "--uts", "--"]
        if uid == 0:
            return [*enter, *argv]
        user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
        kept = ",".join(["-all", *(f"+{capability}" for capability in capabilities)])
        return [*enter, *user, f"--inh-caps={kept}", f"--ambient-caps={kept}", *argv]

    def exec(
        self,
        *argv: str,
        uid: int = 0,
        check: bool = True,
        timeout: float = 30.0,
        stdin: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on this host to its end (timeout in seconds); raises HostError if it fails and check."""
        done = subprocess.run(
            self.argv(argv, uid),
            input=stdin or "",
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self._environment(environment or {}),
            check=False,
        )
        if check and done.returncode:
            text = " ".join((done.stderr or done.stdout).split())
            raise HostError(f"{self.name}: `{' '.join(argv)}`: exit {done.returncode}: {text}")
        return done

    def become(self, argv: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
        """Replace this process by a command on this host, as root and with this terminal; raises HostError."""
        command = self.argv(argv)
        # `hostmesh` there finds this host's own agent, as it does on a real host.
        own = {"HOSTMESH_RUN_DIR": str(self.path("run")), "HOSTMESH_SECRETS_DIR": str(self.path("etc/secrets"))}
        try:
            os.execvpe(command[0], command, self._environment({**own, **environment}))
        except OSError as error:
            raise HostError(f"{self.name}: {command[0]}: {error.strerror}") from error

    def anchor(self, cover: Path | None) -> ProcessId:
        """Start the process that keeps the host's namespaces, and wait until they are set up; raises HostError."""
        argv = ["ip", "netns", "exec", self.namespace, "unshare", "--mount", "--uts", "sh", "-c", _ANCHOR]
        variables = {
            "HOST_NAME": self.name,
            "ROOT": str(self.root),
            "CHECKOUT": str(CHECKOUT),
            "COVER": str(cover or ""),
            "BUNDLE": str(BUNDLE),
        }
        with self.path("log/anchor.log").open("ab") as log:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment(variables),
                start_new_session=True,
            )
        assert process.stdout is not None
        with process.stdout as output:
            if output.readline() != b"ready\n":
                process.wait()
                raise HostError(f"lab: host {self.name}: namespaces cannot be set up: {self.log('anchor')}")
        return self._remember("anchor", process)

    def start(
        self,
        part: str,
        argv: Sequence[str],
        uid: int,
        capabilities: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> ProcessId:
        """Start a process that stays; its output goes to log/PART.log."""
        with self.path(f"log/{part}.log").open("ab") as log:
            process = subprocess.Popen(
                self.argv(argv, uid, capabilities),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(environment or {}),
                start_new_session=True,
            )
        return self._remember(part, process)

    def start_app(self, service: str) -> ProcessId:
        """Start the process of one of this host's applications."""
        app = next(app for app in self.plan.apps if app.service == service)
        capabilities = ("net_bind_service",) if app.port < _FIRST_UNPRIVILEGED_PORT else ()
        environment = {**app.environment, "STATE_DIRECTORY": str(self.path("app"))}
        return self.start(service, app.argv, APP_UID, capabilities, environment)

    def pid(self, part: str) -> int | None:
        """Return the pid of a part that runs; `envoy` is found by its name, as it is the agent's child."""
        known = self._state.parts.get(part)
        if known is not None:
            self.reap()
            return known.pid if known.is_running else None
        inode = network.inode_of(self.namespace)
        found = in_network_namespaces({inode}) if inode else ()
        return next((process.pid for process in found if name_of(process.pid) == part), None)

    def log(self, part: str, lines: int = LOG_TAIL_LINES) -> str:
        """Return the last lines of a part's log."""
        try:
            text = self.path(f"log/{part}.log").read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def get(
        self,
        path: str,
        port: int = 9080,
        address: str = "127.0.0.1",
        headers: Mapping[str, str] | None = None,
        timeout: float = 5.0,
    ) -> tuple[int, str]:
        """Return status and body of an HTTP GET made from this host, without starting a process; raises OSError."""
        connection = http.client.HTTPConnection(address, port, timeout=timeout)
        connection.sock = network.connect(self.namespace, (address, port), timeout)
        try:
            connection.request("GET", path, headers={"Connection": "close", **(headers or {})})
            response = connection.getresponse()
            return response.status, response.read().decode("utf-8", "replace")
        except http.client.HTTPException as error:
            raise ConnectionError(f"{address}:{port}: {error!r}") from error
        finally:
            connection.close()

    def dead_parts(self) -> list[str]:
        """Return the parts that were started and do not run any more."""
        self.reap()
        return [part for part, process in self._state.parts.items() if not process.is_running]

    def _remember(self, part: str, process: subprocess.Popen[bytes]) -> ProcessId:
        identity = identify(process.pid)
        self._children[process.pid] = process
        # One that is dead already keeps its pid with an impossible start time, and so counts as dead.
        self._state.parts[part] = identity or ProcessId(process.pid, 0)
        return self._state.parts[part]

    def forget(self, part: str) -> None:
        """Count a part that was ended on purpose as not started."""
        self._state.parts.pop(part, None)

    def reap(self) -> None:
        """Collect ended children of this process, so that no zombies stay."""
        for pid, child in list(self._children.items()):
            if child.poll() is not None:
                del self._children[pid]

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        """A clean environment: the caller's proxies and Python settings are not the hosts' business."""
        base = {"PATH": SEARCH_PATH, "LANG": "C.UTF-8", "HOME": "/", "HOSTNAME": self.name, "PYTHONUNBUFFERED": "1"}
        return {**base, **more}


def folder_to_cover(path: Path = CHECKOUT) -> Path | None:
    """Return the topmost folder above path that other users may not enter, None if there is none."""
    for folder in reversed(path.parents):
        if not os.stat(folder).st_mode & 0o001:
            return folder
    return None
