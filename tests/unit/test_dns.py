"""Names for dnsmasq: no hostile catalog name gets in, and the files are kept as they must be."""

from __future__ import annotations

import os
import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.adapters.dns.hosts import HostsFile
from agent.adapters.dns.vip_table import VipTable
from agent.errors import HostError
from agent.mesh.service import ServiceKey
from agent.mesh.snapshot import Vip
from agent.mesh.vips import allocate
from agent.translate.dns import HEADER, hosts_file

V4 = IPv4Network("240.240.0.0/16")
V6 = IPv6Network("fdf0:240:240::/112")
NAMES = st.one_of(
    st.sampled_from(["reviews", "Reviews", "a-b", "www.google.com", "x y", "x\n1.2.3.4 bank", "localhost", "-a", "é"]),
    st.text(max_size=70),
)
KEYS = st.sets(st.builds(ServiceKey, NAMES.filter(bool), NAMES), max_size=8)
NAME = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
LINE = re.compile(rf"(240\.240\.\d+\.\d+|fdf0:240:240::[0-9a-f]+)( {NAME}(\.{NAME})*)+")
KNOWN_FORMS = re.compile(rf"{NAME}(\.service\.consul|\.{NAME}(\.svc(\.cluster\.local)?)?)?")


@settings(max_examples=60, deadline=None)
@given(KEYS)
def test_any_catalog_gives_a_sound_file(keys: set[ServiceKey]) -> None:
    text = hosts_file(keys, allocate({}, keys, V4, V6), "default")
    assert text.startswith(HEADER)
    body = text.removeprefix(HEADER)
    assert body == "" or body.endswith("\n")
    owners: dict[str, set[str]] = {}
    for line in body.split("\n")[:-1]:
        assert LINE.fullmatch(line), line
        address, *names = line.split(" ")
        for name in names:
            assert KNOWN_FORMS.fullmatch(name), name
            owners.setdefault(name, set()).add(address)
    assert all(len(addresses) == 2 for addresses in owners.values()), "one IPv4 and one IPv6 address for each name"
    assert "localhost" not in owners


def test_a_service_without_an_address_is_left_out() -> None:
    assert hosts_file([ServiceKey("default", "reviews")], {}, "default") == HEADER


def test_a_host_outside_has_its_own_name_alone() -> None:
    keys = [ServiceKey("", name) for name in ("www.google.com", "*.foo.com", "10.0.0.0/8", "a_b.com", "localhost")]
    text = hosts_file(keys, allocate({}, keys, V4, V6), "default")
    assert [line.split()[1:] for line in text.removeprefix(HEADER).splitlines()] == [["www.google.com"]] * 2


def test_names_that_differ_by_case_are_one() -> None:
    keys = [ServiceKey("default", "Web"), ServiceKey("default", "web"), ServiceKey("shop", "WEB")]
    vips = allocate({}, keys, V4, V6)
    text = hosts_file(keys, vips, "default")
    assert [line.split()[0] for line in text.splitlines() if " web " in line] == [
        str(vips[keys[0]].v4),
        str(vips[keys[0]].v6),
    ]
    assert f"{vips[keys[2]].v4} web.shop web.shop.svc" in text


def test_the_hosts_file_is_written_when_it_changes(tmp_path: Path) -> None:
    hosts = HostsFile(tmp_path / "dns")
    hosts.prepare()
    assert hosts.path.read_bytes() == b""
    assert oct(hosts.path.stat().st_mode & 0o777) == "0o644"
    assert hosts.write("10.0.0.1 a\n")
    inode = hosts.path.stat().st_ino
    assert not hosts.write("10.0.0.1 a\n")
    assert hosts.path.stat().st_ino == inode
    hosts.prepare()
    assert hosts.path.read_text() == "10.0.0.1 a\n", "names of before survive a restart of the agent"
    hosts.clear()
    assert [path.name for path in hosts.path.parent.iterdir()] == ["hostmesh"]
    assert hosts.path.read_bytes() == b""


def test_names_are_taken_away_where_no_new_file_can_be_made(tmp_path: Path) -> None:
    hosts = HostsFile(tmp_path)
    hosts.write("10.0.0.1 a\n")
    (tmp_path / f".hostmesh.{os.getpid()}.tmp").mkdir()  # in the way of the next file, as a full disk is
    with pytest.raises(HostError, match="cannot be written"):
        hosts.write("10.0.0.1 b\n")
    hosts.clear()
    assert hosts.path.read_bytes() == b""


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match="cannot be made"):
        HostsFile(tmp_path / "file" / "dns").prepare()


def test_the_table_of_addresses_survives_a_restart(tmp_path: Path) -> None:
    vips = allocate({}, [ServiceKey("default", "reviews"), ServiceKey("shop", "cart é")], V4, V6)
    table = VipTable(tmp_path / "vips.json")
    assert table.load() == ({}, ())
    table.save(vips)
    assert VipTable(tmp_path / "vips.json").load() == (vips, ())
    assert oct(table.path.stat().st_mode & 0o777) == "0o600"


GOOD = b'{"version":1,"vips":[{"namespace":"default","name":"a","v4":"240.240.0.1","v6":"fdf0:240:240::1"}]}'


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\x00",
        GOOD[:40],
        b"[]",
        GOOD.replace(b":1,", b":2,", 1),
        GOOD.replace(b"240.240.0.1", b"240.240.0.256"),
        GOOD.replace(b'"fdf0:240:240::1"', b"7"),
    ],
)
def test_a_corrupt_table_starts_anew_and_is_told(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "vips.json").write_bytes(data)
    vips, faults = VipTable(tmp_path / "vips.json").load()
    assert vips == {}
    assert [fault.subject for fault in faults] == [str(tmp_path / "vips.json")]
    assert "\n" not in faults[0].reason


def test_a_good_table_is_read(tmp_path: Path) -> None:
    (tmp_path / "vips.json").write_bytes(GOOD)
    vip = Vip(IPv4Address("240.240.0.1"), IPv6Address("fdf0:240:240::1"))
    assert VipTable(tmp_path / "vips.json").load() == ({ServiceKey("default", "a"): vip}, ())


def test_no_catalog_entry_becomes_a_name_of_the_internet() -> None:
    keys = [ServiceKey("com", "github"), ServiceKey("io", "docker"), ServiceKey("shop", "web"), ServiceKey("vm", "db")]
    names = set(hosts_file(keys, allocate({}, keys, V4, V6), "default").split())
    assert names.isdisjoint({"github.com", "docker.io"})
    assert names >= {"github.com.svc.cluster.local", "docker.io.svc", "web.shop", "db.vm"}
