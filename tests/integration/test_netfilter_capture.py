"""What real iptables does with the rules, between two hosts: captured, left alone, refused. IPv4 and IPv6 alike."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network

import pytest

from agent.translate.netfilter import CallerSource, NetfilterText, OutboundMode
from tests.integration.capture import PROXY, PYTHON, USER, VIPS, connect, interception, listening, rules
from tests.integration.netns import Host, lan

APP, SSH, OUT, IN = 9080, 22, 15001, 15006


@pytest.fixture
def hosts() -> Iterator[dict[str, Host]]:
    """Return a client and a server; capture listeners and applications run on both."""
    with (
        lan("client", "server") as made,
        listening(made["client"], (OUT,), (IN, APP, SSH)),
        listening(made["server"], (OUT,), (IN, APP, SSH)),
    ):
        yield made


def apply(host: Host, text: NetfilterText) -> tuple[str, ...]:
    return asyncio.run(interception(host).apply(text.v4, text.v6))


def test_mesh_mode_captures_the_service_range_and_nothing_else(hosts: dict[str, Host]) -> None:
    client, server = hosts["client"], hosts["server"]
    apply(client, rules((APP,)))
    for vip, own, address in zip(VIPS, (client.v4, client.v6), (server.v4, server.v6), strict=True):
        to_vip, ssh_to_vip, other_port, direct, ssh = connect(
            client, (vip, APP), (vip, SSH), (vip, 3306), (address, APP), (address, SSH)
        )
        assert (to_vip.port, to_vip.original, to_vip.peer) == (OUT, (vip, APP), own)
        assert (other_port.port, other_port.original) == (OUT, (vip, 3306))
        assert ssh_to_vip.refused
        assert (direct.port, direct.original) == (APP, (address, APP))
        assert ssh.port == SSH


def test_inbound_ports_are_captured_and_ssh_is_not(hosts: dict[str, Host]) -> None:
    client, server = hosts["client"], hosts["server"]
    apply(server, rules((SSH, APP, *range(9100, 9120))))
    for address in (server.v4, server.v6):
        app, last, ssh = connect(client, (address, APP), (address, 9119), (address, SSH))
        assert (app.port, app.original) == (IN, (address, APP))
        assert (last.port, last.original) == (IN, (address, 9119))
        assert ssh.port == SSH


def test_capture_ports_refuse_direct_connections(hosts: dict[str, Host]) -> None:
    """Else anyone could borrow the identity that Envoy has."""
    client, server = hosts["client"], hosts["server"]
    before = connect(client, (server.v4, IN), (server.v6, IN))
    assert [reached.port for reached in before] == [IN, IN], "without rules the port is open to all"
    apply(server, rules((APP,)))
    remote = [(address, port) for address in (server.v4, server.v6) for port in (OUT, IN)]
    assert all(reached.refused for reached in connect(client, *remote))
    local = [(address, port) for address in ("127.0.0.1", "::1", server.v4, server.v6) for port in (OUT, IN)]
    for uid in (USER, 0, PROXY):
        assert all(reached.refused for reached in connect(server, *local, uid=uid))


def test_an_instance_on_the_own_host(hosts: dict[str, Host]) -> None:
    """Envoy reaches it through the inbound policy, and from there directly; Consul's checks see the application."""
    server = hosts["server"]
    apply(server, rules((APP,)))
    for address, loopback in ((server.v4, "127.0.0.1"), (server.v6, "::1")):
        outbound, inbound = connect(server, (address, APP), (loopback, APP), uid=PROXY)
        assert (outbound.port, outbound.original) == (IN, (address, APP))
        assert inbound.port == APP
        check, local_check = connect(server, (address, APP), (loopback, APP), uid=0)
        assert (check.port, local_check.port) == (APP, APP)


def test_all_mode(hosts: dict[str, Host]) -> None:
    client, server = hosts["client"], hosts["server"]
    apply(client, rules(outbound=OutboundMode.ALL, excluded_outbound_ports=(25,), excluded_uids=(4,)))
    for vip, address in zip(VIPS, (server.v4, server.v6), strict=True):
        to_vip, app, ssh = connect(client, (vip, APP), (address, APP), (address, SSH))
        assert (to_vip.port, to_vip.original) == (OUT, (vip, APP))
        assert (app.port, app.original) == (OUT, (address, APP))
        assert ssh.port == SSH
        assert connect(client, (address, APP), uid=PROXY)[0].port == APP
        assert connect(client, (address, APP), uid=4)[0].port == APP
    assert [reached.refused for reached in connect(client, (server.v4, 25), (server.v4, 8500))] == [True, True]
    assert [r.port for r in connect(client, ("127.0.0.1", APP), ("::1", APP), (client.v4, APP))] == [APP, APP, APP]
    excluded = (IPv4Network("10.77.0.0/16"), IPv6Network("fd00:77::/64"))
    apply(client, rules(outbound=OutboundMode.ALL, excluded_cidrs=excluded))
    assert [r.port for r in connect(client, (server.v4, APP), (server.v6, APP))] == [APP, APP]


def test_closed_ports_refuse_other_hosts_whatever_is_not_redirected(hosts: dict[str, Host]) -> None:
    """Before Envoy is ready, and after another tool flushed nat; nothing else of the host is touched."""
    client, server = hosts["client"], hosts["server"]
    text = rules((APP,), closed=True)
    asyncio.run(interception(server).guard(text.v4, text.v6))
    for _ in range(2):
        for address, loopback in ((server.v4, "127.0.0.1"), (server.v6, "::1")):
            app, ssh = connect(client, (address, APP), (address, SSH))
            assert app.refused
            assert ssh.port == SSH
            own = connect(server, (address, APP), (loopback, APP), uid=0)  # Consul's checks
            assert [reached.port for reached in own] == [APP, APP]
        apply(server, text)
        reached = connect(client, (server.v4, APP), (server.v6, APP), (server.v4, SSH), (server.v6, SSH))
        assert [one.port for one in reached] == [IN, IN, SSH, SSH]
        server.run("sh", "-c", "iptables -t nat -F; ip6tables -t nat -F")


def test_users_are_told_apart_and_nobody_takes_anothers_place(hosts: dict[str, Host]) -> None:
    client = hosts["client"]
    caller = CallerSource(8)
    apply(client, rules())
    assert impostor(client, str(caller.v4), VIPS[0], USER), "without callers nobody is refused an address"
    apply(client, rules(callers=(caller, CallerSource(70000)), excluded_uids=(4,)))
    for vip, own, source in zip(VIPS, (client.v4, client.v6), (caller.v4, caller.v6), strict=True):
        (reached,) = connect(client, (vip, APP), uid=8)
        assert (reached.port, reached.original, reached.peer) == (OUT, (vip, APP), str(source))
        (reached,) = connect(client, (vip, APP))
        assert (reached.port, reached.peer) == (OUT, own)
        assert connect(client, (vip, APP), uid=4)[0].refused
        for uid in (USER, 0, 4):
            assert not impostor(client, str(source), vip, uid)


def impostor(host: Host, source: str, target: str, uid: int) -> bool:
    """Tell whether a program reaches Envoy from an address that it took itself."""
    return host.run(*PYTHON, IMPOSTOR, source, target, uid=uid).stdout == "connected"


IMPOSTOR = """
import socket, sys
source, target = sys.argv[1:]
with socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET) as client:
    client.settimeout(1)
    if ":" in source:
        client.setsockopt(socket.IPPROTO_IPV6, 78, 1)  # IPV6_FREEBIND: any program may take any address
    client.bind((source, 0))
    try:
        client.connect((target, 9080))
    except OSError:  # nothing can be answered to an IPv6 address that nobody has, not even a reset
        pass
    else:
        print("connected", end="")
"""


def test_users_that_are_left_out_or_the_only_ones(hosts: dict[str, Host]) -> None:
    client, server = hosts["client"], hosts["server"]
    apply(client, rules(included_uids=(USER,), included_outbound_ports=(APP,)))
    for vip, address in zip(VIPS, (server.v4, server.v6), strict=True):
        assert [reached.port for reached in connect(client, (vip, 3306), (address, APP))] == [OUT, OUT]
        other = connect(client, (vip, 3306), (address, APP), uid=4)
        assert other[0].refused
        assert other[1].port == APP


@pytest.mark.parametrize("default_route", [False, True])
def test_uncaptured_service_traffic_fails_at_once_and_stays_here(default_route: bool) -> None:
    with lan("client", "server", default_route=default_route) as hosts:
        client, server = hosts["client"], hosts["server"]
        with listening(client, (OUT,)):
            apply(client, rules())
            assert [reached.port for reached in connect(client, *((vip, APP) for vip in VIPS))] == [OUT, OUT]
            with client.running("tcpdump", "-n", "-l", "-i", "eth0", stdout=-1, stderr=-1) as dump:
                assert dump.stdout is not None
                assert dump.stderr is not None
                while b"listening on" not in dump.stderr.readline():
                    pass
                assert all(reached.refused for reached in connect(client, *((vip, APP) for vip in VIPS), uid=PROXY))
                apply(client, rules(outbound=OutboundMode.NONE))
                assert all(reached.refused for reached in connect(client, *((vip, APP) for vip in VIPS)))
                for vip in VIPS:
                    client.run(*PYTHON, UDP, vip, check=True)
                client.run(*PYTHON, MARKER, server.v4)
                seen: list[str] = []
                while not seen or f"{server.v4}.9999" not in seen[-1]:
                    seen.append(dump.stdout.readline().decode())
                assert not [line for line in seen if "240.240." in line or "fdf0:240" in line]


UDP = """
import socket, sys, time
started = time.monotonic()
with socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM) as sender:
    sender.settimeout(3)
    try:
        sender.connect((sys.argv[1], 9080))
        sender.send(b"x")
        sender.recv(10)
    except OSError as error:
        assert not isinstance(error, TimeoutError), error
    else:
        raise AssertionError("answered")
assert time.monotonic() - started < 0.5
"""
MARKER = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    sender.sendto(b"marker", (sys.argv[1], 9999))
"""

ECHO = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2]))) as connection:
    stream = connection.makefile("rw")
    print(stream.readline().strip(), flush=True)
    for line in sys.stdin:
        stream.write(line)
        stream.flush()
        print(stream.readline().strip(), flush=True)
"""


def test_open_connections_survive_rules_coming_and_going(hosts: dict[str, Host]) -> None:
    """Conntrack begins to look when the rules come, and takes the next packet of an old connection for a new one."""
    client, server = hosts["client"], hosts["server"]
    with client.running(*PYTHON, ECHO, server.v4, str(APP), stdin=-1, stdout=-1) as echo:
        assert echo.stdin is not None
        assert echo.stdout is not None
        assert json.loads(echo.stdout.readline())["port"] == APP
        for step in range(3):
            if step == 1:
                text = rules((APP,), OutboundMode.ALL)
                apply(client, text)
                apply(server, text)
            if step == 2:
                for host in (client, server):
                    asyncio.run(interception(host).remove())
            echo.stdin.write(f"still here {step}\n".encode())
            echo.stdin.flush()
            assert echo.stdout.readline() == f"still here {step}\n".encode()


def test_forwarded_traffic_is_not_captured(hosts: dict[str, Host]) -> None:
    """A host that routes for others (containers, virtual machines) captures what is for itself only."""
    client, server = hosts["client"], hosts["server"]
    apply(server, rules((APP,)))
    server.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    client.run("ip", "route", "add", "10.88.0.0/24", "via", server.v4)
    client.run("ip", "route", "add", "240.240.0.0/16", "via", server.v4)
    elsewhere, service = connect(client, ("10.88.0.1", APP), (VIPS[0], APP))
    assert elsewhere.port is None, "the server has no way there, and must not answer itself"
    assert service.refused, "a neighbour's service traffic is not sent on either"
