"""The mesh's names beside Debian's unbound, bind and systemd-resolved on port 53: what `hostmesh dns` tells them.

Each with the dnsmasq of hostmesh-dns.service, a real Consul, and a server for all other names.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.adapters.dns.hosts import HostsFile
from agent.mesh.service import ServiceKey
from agent.mesh.vips import allocate
from agent.translate.dns import hosts_file
from tests.integration.capture import V4, V6
from tests.integration.dnsquery import Answer, ask
from tests.integration.netns import Host, environment, lan
from tests.integration.test_dns_names import UPSTREAM, UPSTREAMS_OWN, running_consul, running_dnsmasq
from tests.programs import NAME_SERVERS
from tests.waiting import wait_for

REVIEWS, CART, LATE = ServiceKey("default", "reviews"), ServiceKey("shop", "cart"), ServiceKey("default", "late")
OUTSIDE = ServiceKey("", "www.shop.example")
VIPS = allocate({}, (REVIEWS, CART, LATE, OUTSIDE), V4, V6)
LIBRARIES = {"LD_LIBRARY_PATH": str(NAME_SERVERS / "usr/lib/x86_64-linux-gnu")}
HOSTMESH = Path(sys.executable).with_name("hostmesh")
UNBOUND = f"""
include: "FOLDER/hostmesh.conf"
server:
    interface: 127.0.0.1
    directory: "FOLDER"
    chroot: ""
    username: ""
    pidfile: ""
    use-syslog: no
forward-zone:
    name: "."
    forward-addr: {UPSTREAM}
"""
BIND = f"""
include "FOLDER/hostmesh.conf";
options {{
    directory "FOLDER"; pid-file none; session-keyfile none; listen-on {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};
    dnssec-validation no; forward only; forwarders {{ {UPSTREAM}; }};
}};
controls {{ }};
"""


_CAPABILITIES = "-all,+net_raw,+net_bind_service,+setpcap"
AS_RESOLVED = (
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    f"--inh-caps={_CAPABILITIES}",
    f"--ambient-caps={_CAPABILITIES}",
)
PRIVATE_RUN = """
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/dbus /run/systemd/resolve
chown 65534:65534 /run/systemd/resolve
echo ready
exec sleep infinity >/dev/null
"""
BUS = """<busconfig>
  <type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_destination="*" eavesdrop="true"/><allow receive_sender="*"/>
  </policy>
</busconfig>
"""


@dataclass(frozen=True)
class Beside:
    """A host where another program has port 53."""

    host: Host
    hosts: HostsFile
    folder: Path
    server: str = "127.0.0.1"

    def write(self, *services: ServiceKey) -> None:
        """Put the names of these services on the host."""
        self.hosts.write(hosts_file(services, VIPS, "default"))

    def ask(self, name: str, kind: str = "A") -> Answer:
        """Ask the program on port 53."""
        return ask(self.host, (name, kind), server=self.server, timeout=5)[0]

    def answers(self, name: str, key: ServiceKey) -> bool:
        """Tell whether a name is a service's virtual addresses, and nothing else."""
        v4, v6 = self.ask(name).values, self.ask(name, "AAAA").values
        return (v4, v6) == ((str(VIPS[key].v4),), (str(VIPS[key].v6),))


@pytest.fixture(scope="module")
def beside() -> Iterator[Beside]:
    with lan("host", subnet=81) as hosts, tempfile.TemporaryDirectory() as name:
        host, folder = hosts["host"], Path(name)
        folder.chmod(0o755)  # dnsmasq reads as its own user
        names = HostsFile(folder / "dns")
        names.prepare()
        (folder / "own.conf").write_text(hostmesh("dns", "dnsmasq", f"--state-dir={folder}"))
        with (
            running_dnsmasq(host, folder, f"--listen-address={UPSTREAM}", *UPSTREAMS_OWN, name="upstream"),
            running_consul(host, folder),
            running(
                host, folder, "dnsmasq", "-k", f"-C{folder}/own.conf", "-x", "", "--log-facility=-", "--log-queries"
            ),
        ):
            wait_for(lambda: "127.0.0.1:15053" in host.run("ss", "-Hlun").stdout, "the mesh's own dnsmasq")
            yield Beside(host, names, folder)


def hostmesh(*arguments: str) -> str:
    done = subprocess.run([str(HOSTMESH), *arguments], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def running(host: Host, folder: Path, *argv: str | Path) -> Iterator[None]:
    log = folder / f"{Path(argv[0]).name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            host.argv(argv), env=environment() | LIBRARIES, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield
    finally:
        assert process.poll() is None, log.read_text()
        process.terminate()
        process.wait(10)


def unbound(beside: Beside) -> AbstractContextManager[None]:
    (beside.folder / "unbound.conf").write_text(UNBOUND.replace("FOLDER", str(beside.folder)))
    program = NAME_SERVERS / "usr/sbin/unbound"
    return running(beside.host, beside.folder, program, "-d", "-c", beside.folder / "unbound.conf")


def bind(beside: Beside) -> AbstractContextManager[None]:
    (beside.folder / "named.conf").write_text(BIND.replace("FOLDER", str(beside.folder)))
    program = NAME_SERVERS / "usr/sbin/named"
    return running(beside.host, beside.folder, program, "-f", "-n", "1", "-c", beside.folder / "named.conf")


@pytest.mark.parametrize("start", [unbound, bind])
def test_what_is_printed_makes_a_name_server_answer_the_meshs_names(
    beside: Beside, start: Callable[[Beside], AbstractContextManager[None]]
) -> None:
    beside.write(REVIEWS, CART, OUTSIDE)
    (beside.folder / "hostmesh.conf").write_text("")
    with start(beside):
        assert what_is_told(beside) == [
            f"{start.__name__} at 127.0.0.1 answers this host's programs and does not know "
            f"reviews.default.svc.cluster.local: hostmesh dns forward {start.__name__} (docs/names.md)"
        ]
    printed = hostmesh("dns", "forward", start.__name__, f"--state-dir={beside.folder}")
    (beside.folder / "hostmesh.conf").write_text(printed)
    with start(beside):
        wait_for(lambda: beside.answers("reviews.default.svc.cluster.local", REVIEWS), printed)
        names_are_the_meshs_and_the_rest_is_not(beside)
        assert what_is_told(beside) == ["True"]


def what_is_told(beside: Beside, server: str = "127.0.0.1") -> list[str]:
    """Return what the agent's watch finds on that host."""
    code = f"""
from pathlib import Path
from agent.adapters.dns.question import Unknown, knows
found = knows({server!r}, Path({str(beside.hosts.path)!r}).read_text())
print(f"{{found}}: {{found.mend}}" if isinstance(found, Unknown) else found)
"""
    return beside.host.run(sys.executable, "-c", code).stdout.splitlines()


def names_are_the_meshs_and_the_rest_is_not(beside: Beside) -> None:
    for name, key in (
        ("reviews.default.svc.cluster.local", REVIEWS),
        ("reviews.default", REVIEWS),
        ("reviews.service.consul", REVIEWS),
        ("cart.shop", CART),
        ("cart.shop.svc.cluster.local", CART),
        ("www.shop.example", OUTSIDE),
    ):
        assert beside.answers(name, key), name
    assert beside.ask("reviews.service.consul", "SRV").values[0].startswith("9080 ")
    assert beside.ask("v1.reviews.service.consul").values == ("10.0.0.5",)
    assert beside.ask("lab.node.consul").values == ("127.0.0.1",)
    assert beside.ask("other.example").values == ("93.184.216.34",)
    assert beside.ask("late.default.svc.cluster.local").code == 3
    beside.write(REVIEWS, CART, OUTSIDE, LATE)
    wait_for(lambda: beside.answers("late.default.svc.cluster.local", LATE), "a new name is there")
    beside.write(REVIEWS, CART, OUTSIDE)
    wait_for(lambda: beside.ask("late.default.svc.cluster.local").code == 3, "a removed one is gone", timeout=10)


def test_without_names_nothing_is_printed(beside: Beside, tmp_path: Path) -> None:
    done = subprocess.run(
        [str(HOSTMESH), "dns", "forward", "bind", f"--state-dir={tmp_path}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "start hostmesh-agent" in done.stderr


@contextmanager
def resolved_host(beside: Beside) -> Iterator[Callable[..., str]]:
    """Run systemd-resolved with a system bus of its own; yields how to run a command there, as root."""
    keeper = beside.host.argv(["unshare", "-m", "sh", "-c", PRIVATE_RUN])
    anchor = subprocess.Popen(keeper, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, start_new_session=True)
    enter = ["nsenter", f"--target={anchor.pid}", "--mount", "--net", "--"]
    path = f"{NAME_SERVERS / 'usr/bin'}:{environment()['PATH']}"
    there = environment() | {"PATH": path}

    def run(*argv: str | Path) -> str:
        done = subprocess.run([*enter, *map(str, argv)], capture_output=True, text=True, env=there, check=False)
        return done.stdout + done.stderr

    @contextmanager
    def daemon(name: str, *argv: str | Path) -> Iterator[None]:
        with (beside.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen([*enter, *map(str, argv)], stdout=log, stderr=log, env=there)
        try:
            yield
        finally:
            process.terminate()
            process.wait(10)

    try:
        assert anchor.stdout is not None
        assert anchor.stdout.readline() == b"ready\n"
        (beside.folder / "bus.conf").write_text(BUS)
        with (
            daemon("bus", "dbus-daemon", f"--config-file={beside.folder}/bus.conf", "--nofork"),
            daemon("resolved", "setpriv", *AS_RESOLVED, NAME_SERVERS / "lib/systemd/systemd-resolved"),
        ):
            wait_for(lambda: "Global" in run("resolvectl", "status"), "systemd-resolved")
            yield run
    finally:
        anchor.kill()
        anchor.wait(10)


def test_systemd_resolved_asks_for_the_meshs_names_and_for_nothing_else(beside: Beside) -> None:
    beside.write(REVIEWS, CART, OUTSIDE)
    with resolved_host(beside) as run:
        run("resolvectl", "dns", "eth0", UPSTREAM)
        wait_for(lambda: "systemctl start hostmesh-resolved" in what_is_told(beside, "127.0.0.53")[0], "it is told")
        apply = (HOSTMESH, "dns", "resolved", f"--state-dir={beside.folder}")
        assert run(*apply) == ""
        stub = Beside(beside.host, beside.hosts, beside.folder, "127.0.0.53")
        wait_for(lambda: stub.answers("reviews.default.svc.cluster.local", REVIEWS), run("resolvectl", "status"))
        names_are_the_meshs_and_the_rest_is_not(stub)
        assert str(VIPS[REVIEWS].v4) in run("resolvectl", "query", "-4", "reviews"), "by the search list"
        assert "search default.svc.cluster.local shop.svc" in run("cat", "/run/systemd/resolve/stub-resolv.conf")
        assert "other.example" not in (beside.folder / "dnsmasq.log").read_text(), "it was never asked for that"

        beside.hosts.clear()  # what the agent does when it is stopped
        assert run(*apply) == ""
        assert "hostmesh" not in run("ip", "link")
        wait_for(lambda: stub.ask("reviews.default").values == (), "the name is gone")
        assert stub.ask("other.example").values == ("93.184.216.34",)
