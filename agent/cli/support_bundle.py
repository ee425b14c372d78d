"""`hostmesh support-bundle`: all about this host that somebody who helps will ask for, in one file without secrets."""

from __future__ import annotations

import io
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

import click

from agent.cli.command import Command
from agent.cli.service import config_dir_option
from agent.errors import ConfigError, HostError, HostmeshError

if TYPE_CHECKING:
    from agent.adapters.consul.store import KvConnection

COMMAND_SECONDS = 20.0
MAX_PART = 16 * 2**20
"""Bytes of one part; of a longer one the end is kept, which is what happened last."""
_CONFIGURATION = ("agent.yaml", "cluster.env", "sidecar.env", "ca.yaml", "services.d/*.y*ml")
_SECRET_FILES = ("join-token", "consul-token", "*token*", "*.key", "secrets/*/*.key")
_COMMANDS = {
    "iptables-save.txt": "iptables-save",
    "ip6tables-save.txt": "ip6tables-save",
    "addresses.txt": "ip addr",
    "routes.txt": "ip route show table all",
    "sockets.txt": "ss -lntup",
    "unit.txt": "systemctl status --no-pager hostmesh-agent hostmesh-ca dnsmasq consul",
    "journal-agent.txt": "journalctl --no-pager -n 5000 -u hostmesh-agent",
    "journal-ca.txt": "journalctl --no-pager -n 2000 -u hostmesh-ca",
    "packages.txt": "dpkg -l hostmesh-* dnsmasq* iptables consul",
    "kernel.txt": "uname -a",
    "memory.txt": "free -m",
    "disk.txt": "df -h",
}
_SYSTEM_FILES = ("/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/hosts", "/etc/dnsmasq.d/*", "/etc/os-release")
P = ParamSpec("P")


@click.command(
    "support-bundle",
    cls=Command,
    examples="""
hostmesh support-bundle
hostmesh support-bundle --out /root/web-1.tar.gz
""",
)
@click.option("--out", metavar="FILE", help="What to write (default: hostmesh-NODE-TIME.tar.gz here).")
@click.option("--run-dir", metavar="DIR", envvar="HOSTMESH_RUN_DIR", default="/run/hostmesh", show_default=True)
@click.option("--state-dir", metavar="DIR", default="/var/lib/hostmesh", show_default=True)
@config_dir_option
def support_bundle(out: str | None, run_dir: str, state_dir: str, config_dir: Path) -> None:
    """Collect configuration, state, logs and what `hostmesh doctor` finds into one file (as root).

    Keys, tokens and passwords are taken out: those of this host by their values, and whatever looks like one. Names,
    addresses and rules stay. What cannot be had is a line in its place.
    """
    from agent.adapters.files import write_atomic
    from agent.cli.scrub import scrub

    known = _known_secrets(config_dir, Path(state_dir))
    parts = dict(_parts(config_dir, Path(state_dir), Path(run_dir)))
    node = _node(config_dir)
    name = f"hostmesh-{node}-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for path, text in sorted(parts.items()):
            data = scrub(text[-MAX_PART:], known).encode()
            entry = tarfile.TarInfo(f"{name}/{path}")
            entry.size, entry.mtime, entry.mode = len(data), int(time.time()), 0o600
            archive.addfile(entry, io.BytesIO(data))
    target = Path(out or f"{name}.tar.gz")
    write_atomic(target, packed.getvalue(), mode=0o600)
    click.echo(
        f"{target}: {len(parts)} parts, {len(packed.getvalue()) // 1024} KiB; look into it before you give it away"
    )


def _parts(config_dir: Path, state_dir: Path, run_dir: Path) -> Iterator[tuple[str, str]]:
    """Return (path in the bundle, text)."""
    from agent import __version__

    yield "version.txt", f"hostmesh {__version__}\n"
    yield "doctor.json", _told(_examined, config_dir, state_dir, run_dir)
    for pattern in _CONFIGURATION:
        for path in sorted(config_dir.glob(pattern)):
            yield f"etc/{path.relative_to(config_dir)}", _told(_read, path)
    for pattern in _SYSTEM_FILES:
        for path in sorted(Path("/").glob(pattern[1:])):
            yield f"system{path}", _told(_read, path)
    for name in ("dns/hostmesh", "vips.json", "envoy.log"):
        yield f"state/{name.replace('/', '-')}", _told(_read, state_dir / name)
    for name, command in _COMMANDS.items():
        yield f"system/{name}", _told(_run, command)
    yield from _agents_own(run_dir)
    yield from _of_consul(config_dir, state_dir, run_dir)


def _agents_own(run_dir: Path) -> Iterator[tuple[str, str]]:
    from agent.adapters.agent_socket import AgentSocket
    from agent.runtime.views import VIEWS

    agent = AgentSocket(run_dir / "admin.sock")
    for name in ("status", "metrics"):
        yield f"agent/{name}.txt", _told(_asked, agent.ask, f"/{name}")
    for name in VIEWS:
        yield f"envoy/{name}.txt", _told(_asked, agent.view, name)


def _of_consul(config_dir: Path, state_dir: Path, run_dir: Path) -> Iterator[tuple[str, str]]:
    """The rules, settings and services, as this host's own token sees them."""
    from agent.adapters.consul.store import KvConnection
    from agent.config import load_config
    from agent.mesh.names import KV_CONFIG, KV_MESH
    from agent.runtime.configuration_check import consul_address

    try:
        kv = KvConnection(consul_address(load_config(config_dir, state_dir, run_dir)))
    except HostmeshError as error:
        yield "consul/none.txt", f"{error}\n"
        return
    for name, path in {
        "rules.json": f"/v1/kv/{KV_CONFIG}",
        "settings.json": f"/v1/kv/{KV_MESH}",
        "services.json": "/v1/catalog/services",
        "nodes.json": "/v1/catalog/nodes",
    }.items():
        raw = [("recurse", "true")] if path.endswith("/") else []
        yield f"consul/{name}", _told(_decoded, kv, path, raw)


def _decoded(kv: KvConnection, path: str, query: list[tuple[str, str]]) -> str:
    from agent.adapters.consul.kv import decode_values

    answer = kv.send("get", path, query)
    if "/kv/" not in path:
        return str(answer.body)
    values = decode_values(answer.body.encode()) if answer.code == 200 else {}
    return "".join(
        f"{key} (revision {index})\n{value.decode(errors='replace')}\n" for key, (index, value) in values.items()
    )


def _known_secrets(config_dir: Path, state_dir: Path) -> set[str]:
    """Return the secrets of this host's own files, line by line: a log may have a part of one."""
    files = [path for pattern in _SECRET_FILES for path in config_dir.glob(pattern)]
    files += [path for path in (state_dir / "certificates").glob("**/*") if path.is_file()]
    found: set[str] = set()
    for path in files:
        text = _told(_read, path)
        if path.parent.name != "certificates" and path.suffix != ".key":
            found |= {word for line in text.splitlines() for word in line.split() if not word.startswith("ns/")}
            continue
        key = text.partition("PRIVATE KEY-----")[2].partition("-----END")[0]
        found |= {line for line in key.splitlines() if len(line) > 16}
    return found


def _node(config_dir: Path) -> str:
    import socket

    from agent.config import load_config

    try:
        return load_config(config_dir, Path(), Path()).node
    except ConfigError:
        return socket.gethostname()


def _examined(config_dir: Path, state_dir: Path, run_dir: Path) -> str:
    from msgspec import to_builtins

    from agent.cli.doctor import examine
    from agent.cli.output import to_json

    return to_json(to_builtins(examine(config_dir, state_dir, run_dir)))


def _asked(ask: Callable[[str], bytes], name: str) -> str:
    return ask(name).decode(errors="replace")


def _told(get: Callable[P, str], *args: P.args, **named: P.kwargs) -> str:
    """Return the text, or in its place why it cannot be had."""
    try:
        return get(*args, **named)
    except HostmeshError as error:
        return f"(not to be had: {error})\n"


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError as error:
        raise HostError(f"{path}: {error.strerror or error}") from error


def _run(command: str) -> str:
    try:
        done = subprocess.run(command.split(), capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(f"{command}: {error}") from error
    return done.stdout + done.stderr
