"""Whole systemd machines for end-to-end tests: a Debian 12 root tree by debootstrap, booted by systemd-nspawn.

The tree is made once and kept under build/e2e; each machine writes to a disk in memory over it, which can outlive the
machine, for a reboot. Nothing of the host is changed: the machine has its own network namespace (made by the caller),
the disk a mount namespace, and no machine manager knows of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.integration.netns import Host, end, environment
from tests.waiting import wait_for

TOP = Path(__file__).parents[2]
PACKAGES = "systemd,systemd-sysv,dbus,udev,iptables,dnsmasq,iproute2,python3,procps,netbase,curl,ca-certificates"
"""What a small Debian server has, and what our packages depend on: the machine has no mirror to fetch it from."""


@dataclass(frozen=True)
class Machine:
    """A booted machine; `leader` is its init's process id on this host."""

    name: str
    leader: int
    host: Host

    def run(
        self, *argv: str | Path, check: bool = True, stdin: str | None = None, timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the machine as root and return it with its output; raises AssertionError if it fails."""
        done = subprocess.run(
            [*self._enter(), *map(str, argv)], input=stdin, capture_output=True, text=True, timeout=timeout, check=False
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(map(str, argv))}: exit {done.returncode}: {done.stdout}{done.stderr}")
        return done

    @contextmanager
    def load(self, url: str, text: str) -> Iterator[list[str]]:
        """Send requests from the machine while the block runs; the list holds those that failed, after it."""
        python = ["/usr/bin/python3", "-c", Path(__file__).with_name("load.py").read_text(), url, text]
        process = subprocess.Popen(
            [*self._enter(), *python],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        failures: list[str] = []
        try:
            yield failures
            result = json.loads(process.communicate(timeout=20)[0])
            assert result["total"] > 20, result
            failures += result["failures"]
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    def _enter(self) -> list[str]:
        enter = ["nsenter", "-t", str(self.leader), "-m", "-u", "-i", "-n", "-p", "-C", "--"]
        return [
            *enter,
            "env",
            "-i",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG=C.UTF-8",
        ]

    def write(self, path: str, text: str) -> None:
        """Write a file in the machine."""
        self.run("sh", "-c", 'mkdir -p "$(dirname "$1")" && cat >"$1"', "write", path, stdin=text)

    def power_off(self) -> None:
        """Shut the machine down in order, as for a reboot, and wait until it is off."""
        self.run("systemctl", "poweroff", "--no-block", check=False)
        wait_for(lambda: not Path(f"/proc/{self.leader}").exists(), "the machine is off", timeout=120, interval=0.1)

    def journal(self, unit: str) -> str:
        """Return a unit's log, for messages."""
        return self.run("journalctl", "--no-pager", "-n", "60", "-u", unit, check=False).stdout


@dataclass(frozen=True)
class Disk:
    """What machines write, over the Debian tree; mounted at `root` in the mount namespace of the process `holder`."""

    holder: int
    root: Path


_MOUNT_DISK = """
set -eu
mount -t tmpfs -o mode=755 tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
echo ready
exec sleep infinity
"""


@contextmanager
def disk() -> Iterator[Disk]:
    """Make a disk that is empty but for the Debian tree, and take it away with the block."""
    folder = TOP / "build/e2e" / f"disk-{uuid.uuid4().hex[:8]}"
    tree = root_tree()
    folder.mkdir()
    argv = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", _MOUNT_DISK, "disk", str(folder), str(tree)]
    holder = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True, env=environment())
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        yield Disk(holder.pid, folder / "root")
    finally:
        end(holder)
        folder.rmdir()


@contextmanager
def new_machine(host: Host, binds: Sequence[Path] = ()) -> Iterator[Machine]:
    """Boot a machine with a disk of its own, end both with the block."""
    with disk() as written, booted(host, written, binds) as machine:
        yield machine


@contextmanager
def booted(host: Host, written: Disk, binds: Sequence[Path] = ()) -> Iterator[Machine]:
    """Boot a machine in that network namespace, end it with the block; `binds` are there, read-only, as /mnt/NAME."""
    name = f"hme-{uuid.uuid4().hex[:8]}"
    argv = [
        "nsenter",
        f"--target={written.holder}",
        "--mount",
        "--",
        "systemd-nspawn",
        "--quiet",
        "--boot",
        "--register=no",
        "--keep-unit",
        f"--machine={name}",
        f"--directory={written.root}",
        f"--network-namespace-path=/proc/{os.getpid()}/root/run/netns/{host.netns}",  # made after the disk's namespace
        "--capability=CAP_NET_ADMIN",  # given by itself only with --private-network
        "--resolv-conf=off",
        "--link-journal=no",
        "--console=pipe",
        *(f"--bind-ro={path}:/mnt/{path.name}" for path in binds),
    ]
    log = TOP / "build/e2e" / f"{name}.log"
    with log.open("wb") as output, _own_cgroups(name) as cgroups:
        process = subprocess.Popen(
            [*_ENTER_CGROUPS, " ".join(map(str, cgroups)), *argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env=environment(),
        )
        try:
            leader = wait_for(lambda: _leader(process, log), timeout=20)
            machine = Machine(name, leader, host)
            wait_for(lambda: _is_up(machine), timeout=120, interval=0.2)
            yield machine
            log.unlink()
        finally:
            end(process, seconds=15)


_ENTER_CGROUPS = ("sh", "-c", 'for it in $0; do echo $$ >"$it/cgroup.procs"; done; exec "$@"')


@contextmanager
def _own_cgroups(name: str) -> Iterator[list[Path]]:
    """Make the control groups of one machine: in those of another one its systemd would remove that one's units'."""
    made = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controller, path = line.split(":", 2)
        kind = {"name=systemd": "systemd", "": "unified"}.get(controller)
        mount = Path("/sys/fs/cgroup") / (kind or "")
        if kind == "unified" and not mount.exists():
            mount = mount.parent  # a machine with the one hierarchy alone
        folder = mount / path.lstrip("/") / name
        if kind and (folder.parent / "cgroup.procs").exists():
            folder.mkdir()
            made.append(folder)
    try:
        yield made
    finally:
        for folder in made:
            inner = sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True)
            for group in (*inner, folder):
                with suppress(OSError):  # its last process may be ending still
                    group.rmdir()


def root_tree() -> Path:
    """Return the Debian tree, made with debootstrap from the mirror of this machine's own apt if it isn't there."""
    digest = hashlib.sha256(PACKAGES.encode()).hexdigest()[:12]
    tree = TOP / "build/e2e" / f"root-{digest}"
    if not tree.exists():
        scratch = tree.with_name(f".{tree.name}")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.parent.mkdir(parents=True, exist_ok=True)
        _run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", scratch, _mirror())
        _prepare(scratch)
        scratch.rename(tree)
    return tree


def _prepare(tree: Path) -> None:
    """Make the tree what a host looks like whose operator has let dnsmasq answer its names."""
    (tree / "etc/hostname").unlink(missing_ok=True)
    (tree / "etc/resolv.conf").write_text("nameserver 127.0.0.1\n")
    (tree / "etc/dnsmasq.d/local.conf").write_text("no-resolv\nbind-interfaces\nlisten-address=127.0.0.1\n")
    shutil.rmtree(tree / "var/cache/apt/archives", ignore_errors=True)


def _mirror() -> str:
    """Return the Debian mirror that this machine's apt uses."""
    for file in [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]:
        if not file.is_file():
            continue
        for line in file.read_text().splitlines():
            for word in line.split():
                if "://" in word and word.rstrip("/").endswith("/debian"):
                    return word
    raise AssertionError("no Debian mirror found in /etc/apt")


def _run(*argv: str | Path) -> None:
    done = subprocess.run([*map(str, argv)], capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, f"{argv[0]}: exit {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}"


def _leader(process: subprocess.Popen[bytes], log: Path) -> int:
    assert process.poll() is None, f"systemd-nspawn ended: {log.read_text(errors='replace')[-2000:]}"
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        if os.path.exists(f"/proc/{child}/ns/pid") and os.readlink(f"/proc/{child}/ns/pid") != os.readlink(
            "/proc/self/ns/pid"
        ):
            return int(child)
    return 0


def _is_up(machine: Machine) -> bool:
    state = machine.run("systemctl", "is-system-running", check=False).stdout.strip()
    return state in ("running", "degraded")
