"""The adapter with real iptables: idempotent, repairs drift, replaces older versions, leaves no trace."""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from agent.adapters.command import SystemRunner
from agent.adapters.netfilter.interception import Interception
from agent.errors import HostError
from agent.translate.netfilter import CALLERS_V6, CallerSource, NetfilterText, OutboundMode
from tests.integration.capture import PROXY, V6, interception, rules
from tests.integration.netns import TOOL_PATH, Host, lan

FOREIGN = """*filter
:FIREWALL - [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m comment --comment "not -j HOSTMESH_INPUT" -j FIREWALL
-A FIREWALL -p tcp -m tcp --dport 22 -j ACCEPT
COMMIT
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT -p tcp -m tcp --dport 8081 -j REDIRECT --to-ports 8082
COMMIT
"""
OLDER_VERSION = """*nat
:HOSTMESH_OLD - [0:0]
:HOSTMESH_OUTPUT - [0:0]
-A OUTPUT -p tcp -j HOSTMESH_OUTPUT
-A OUTPUT -p tcp -j HOSTMESH_OUTPUT
-A HOSTMESH_OUTPUT -p tcp -m tcp --dport 1 -j HOSTMESH_OLD
-A HOSTMESH_OLD -p tcp -j REDIRECT --to-ports 1
COMMIT
*mangle
:HOSTMESH_MARK - [0:0]
-A PREROUTING -j HOSTMESH_MARK
COMMIT
"""


@pytest.fixture
def host() -> Iterator[Host]:
    with lan("host") as hosts:
        yield hosts["host"]


def restore(host: Host, text: str) -> None:
    for command in ("iptables-restore", "ip6tables-restore"):
        host.run(command, "--noflush", stdin=text)


def state(host: Host) -> list[str]:
    """Return all rules and routes, without comments, counters and tables in which nothing is."""
    lines = []
    for save in ("iptables-save", "ip6tables-save"):
        for table in host.run(save).stdout.split("COMMIT\n"):
            own = [line.split("[")[0] for line in table.splitlines() if line and line[0] in "*:-"]
            if any(line.startswith("-") or (line[0] == ":" and " - " in line) for line in own):
                lines += [f"{save} {line}" for line in own]
    for version in ("-4", "-6"):
        lines += host.run("ip", version, "route").stdout.splitlines()
    return lines


def apply(adapter: Interception, text: NetfilterText) -> tuple[str, ...]:
    return asyncio.run(adapter.apply(text.v4, text.v6))


def diff(adapter: Interception, text: NetfilterText) -> tuple[str, ...]:
    return asyncio.run(adapter.diff(text.v4, text.v6))


@pytest.mark.parametrize("mode", OutboundMode)
def test_twice_is_the_same_and_removal_leaves_no_trace(host: Host, mode: OutboundMode) -> None:
    restore(host, FOREIGN)
    before = state(host)
    text = rules(
        tuple(range(9000, 9040)),
        mode,
        excluded_cidrs=(IPv4Network("10.1.0.0/16"), V6),
        excluded_uids=(7,),
        included_uids=(8, 9) if mode is OutboundMode.MESH else (),
        callers=(CallerSource(8), CallerSource(70000)),
        closed=True,
    )
    assert apply(interception(host), text)
    applied = state(host)
    assert sum("HOSTMESH_" in line and line.split()[1] == "-A" for line in applied) > 20
    assert [line for line in applied if line in before] == before
    assert diff(interception(host), text) == (), "iptables prints the rules as translate/netfilter.py writes them"
    assert apply(interception(host), text) == ()
    assert state(host) == applied
    asyncio.run(interception(host).remove())
    assert state(host) == before
    asyncio.run(interception(host).remove())


def test_an_older_version_is_replaced(host: Host) -> None:
    apply(interception(host), rules((9080,)))
    fresh = state(host)
    asyncio.run(interception(host).remove())
    restore(host, OLDER_VERSION)
    host.run("ip", "route", "add", "240.0.0.0/16", "dev", "lo", "proto", "72")
    differences = apply(interception(host), rules((9080,)))
    assert "+ ipv4 nat: -A OUTPUT -p tcp -j HOSTMESH_OUTPUT" in differences
    assert "+ ipv4 route: 240.0.0.0/16 dev lo" in differences
    assert state(host) == fresh


def test_an_older_version_is_removed(host: Host) -> None:
    before = state(host)
    restore(host, OLDER_VERSION)
    host.run("ip", "-6", "route", "add", "fd99::/64", "dev", "lo", "proto", "72")
    asyncio.run(interception(host).remove())
    assert state(host) == before


def test_drift_is_found_and_repaired(host: Host) -> None:
    adapter, text = interception(host), rules((9080,))
    apply(adapter, text)
    good = state(host)
    host.run("iptables", "-t", "nat", "-F")
    host.run("ip6tables", "-I", "OUTPUT", "-j", "HOSTMESH_VIP")
    host.run("ip", "route", "flush", "proto", "72")
    found = diff(adapter, text)
    assert "- ipv4 nat: -A OUTPUT -j HOSTMESH_OUTPUT" in found
    assert "+ ipv6 filter: -A OUTPUT -j HOSTMESH_VIP" in found
    assert "- ipv4 route: 240.240.0.0/16 dev lo" in found
    assert apply(adapter, text) == found
    assert state(host) == good
    assert apply(adapter, text) == ()


@pytest.mark.parametrize(
    "flush",
    [
        "iptables -F; iptables -t nat -F; ip6tables -F; ip6tables -t nat -F",
        "for t in filter nat; do iptables -t $t -F; iptables -t $t -X; ip6tables -t $t -F; ip6tables -t $t -X; done",
        "iptables -P FORWARD DROP; iptables -I INPUT -p tcp -j ACCEPT; iptables -t nat -I OUTPUT -p tcp -j RETURN",
        "ip6tables -I INPUT -j ACCEPT; ip6tables -t nat -I PREROUTING -j ACCEPT",
        "iptables -N DOCKER-USER; iptables -I FORWARD -j DOCKER-USER",
        "ip route flush proto 72; ip -6 route flush proto 72",
    ],
)
def test_what_other_tools_do_is_found_and_repaired(host: Host, flush: str) -> None:
    """Flushed tables, and rules put before ours: an ACCEPT there would let anyone borrow Envoy's identity."""
    adapter, text = interception(host), rules((9080,), closed=True)
    apply(adapter, text)
    host.run("sh", "-c", flush)
    assert diff(adapter, text)
    assert apply(adapter, text)
    assert diff(interception(host), text) == ()
    for save in ("iptables-save", "ip6tables-save"):
        for chain in ("INPUT", "OUTPUT", "PREROUTING"):
            first = next(line for line in host.run(save).stdout.splitlines() if line.startswith(f"-A {chain} "))
            assert first.split()[-1].startswith("HOSTMESH_"), first


def test_the_guard_comes_alone_and_never_in_the_place_of_what_captures(host: Host) -> None:
    adapter, text = interception(host), rules((9080,), closed=True)
    assert asyncio.run(adapter.guard(text.v4, text.v6))
    for save in ("iptables-save", "ip6tables-save"):
        said = host.run(save).stdout
        assert "-A HOSTMESH_INPUT ! -i lo" in said
        assert "REDIRECT" not in said
    apply(adapter, text)
    good = state(host)
    assert not asyncio.run(adapter.guard(rules((9081,), closed=True).v4, text.v6))
    assert state(host) == good


def test_a_hundred_starts_and_stops_leave_nothing_behind(host: Host) -> None:
    restore(host, FOREIGN)
    before, text = state(host), rules((9080,), closed=True, callers=(CallerSource(8),))

    async def start_and_stop() -> None:
        for number in range(100):
            adapter = interception(host)
            if number % 10 == 0:  # as at boot
                await adapter.guard(text.v4, text.v6)
            await adapter.apply(text.v4, text.v6)
            await adapter.remove()

    asyncio.run(start_and_stop())
    assert state(host) == before


def test_as_another_user_with_two_capabilities(host: Host) -> None:
    capabilities = "-all,+net_admin,+net_raw"
    setpriv = ["setpriv", f"--reuid={PROXY}", f"--regid={PROXY}", "--clear-groups"]
    setpriv += [f"--inh-caps={capabilities}", f"--ambient-caps={capabilities}", f"--bounding-set={capabilities}"]
    before = state(host)
    adapter = interception(host, *setpriv)
    assert apply(adapter, rules((9080,)))
    assert diff(interception(host), rules((9080,))) == ()
    asyncio.run(adapter.remove())
    assert state(host) == before
    with pytest.raises(HostError, match=r"iptables-save.*Permission denied"):
        apply(interception(host, "setpriv", "--reuid=1337", "--clear-groups"), rules())


def test_without_ipv6(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    host.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
    before = state(host)
    adapter = interception(host)
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            apply(adapter, rules((9080,)))
    assert [record.getMessage() for record in caplog.records if "IPv4 only" in record.getMessage()] == [
        "interception is for IPv4 only: IPv6 is disabled (net.ipv6.conf.lo.disable_ipv6)"
    ]
    assert diff(interception(host), rules((9080,))) == ()
    asyncio.run(adapter.remove())
    assert state(host) == before


def test_without_ip6tables(host: Host) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in ("iptables-save", "iptables-restore", "ip", "cat"):
            tool = shutil.which(name, path=TOOL_PATH)
            assert tool is not None
            (Path(folder) / name).symlink_to(tool)
        adapter = interception(host, "/usr/bin/env", f"PATH={folder}")
        assert apply(adapter, rules((9080,)))
        assert apply(adapter, rules((9080,))) == ()
        assert "HOSTMESH_" in host.run("iptables-save").stdout
        assert "HOSTMESH_" not in host.run("ip6tables-save").stdout
        asyncio.run(adapter.remove())
        assert "HOSTMESH_" not in host.run("iptables-save").stdout


def test_a_foreign_route_for_the_range_is_spared(host: Host) -> None:
    host.run("ip", "route", "add", "240.240.0.0/16", "dev", "eth0")
    with pytest.raises(HostError, match=r"ip -4 route add 240.240.0.0/16 dev lo proto 72: .*File exists"):
        apply(interception(host), rules())
    assert "240.240.0.0/16 dev eth0" in host.run("ip", "route").stdout


def test_refused_rules_change_nothing(host: Host) -> None:
    apply(interception(host), rules((9080,)))
    good = state(host)
    broken = rules((9081,))
    broken = NetfilterText(broken.v4.replace("--to-ports 15001", "--to-ports 99999"), broken.v6)
    with pytest.raises(HostError, match=r"interception: rules not changed: .*iptables-restore"):
        apply(interception(host), broken)
    changed = [line for line in state(host) if line not in good]
    assert not [line for line in changed if "15006" in line or "REDIRECT" in line], "nat is one transaction"


class FirewallInBetween:
    """Runs real commands, and once, before the first restore, what another program does at that moment."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._runner = SystemRunner(host.argv(()))
        self._done = False

    async def run(self, argv: Sequence[str], stdin: str | None = None) -> str:
        """Run the command."""
        if argv[0] == "iptables-restore" and not self._done:
            self._done = True
            await self._runner.run(["iptables", "-t", "nat", "-F", "OUTPUT"])
        return await self._runner.run(argv, stdin)


def test_rules_that_change_in_between_are_read_again(host: Host) -> None:
    apply(interception(host), rules((9080,)))
    adapter = Interception(FirewallInBetween(host), (IPv4Network("240.240.0.0/16"), V6, CALLERS_V6))
    apply(adapter, rules((9081,)))
    assert diff(interception(host), rules((9081,))) == ()
