"""The DNS servers behind this host's own, as resolv.conf files name them."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.adapters.dns.upstreams import read_upstreams
from agent.api.checks import words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("nameserver 10.0.0.2\nnameserver fd00::2\nnameserver 10.0.0.2\n", ("10.0.0.2", "fd00::2")),
        ("# nameserver 10.0.0.9\nsearch a b\nnameserver\t10.0.0.2 trailing\n", ("10.0.0.2",)),
        ("nameserver 127.0.0.53\nnameserver ::1\nnameserver 0.0.0.0\nnameserver fe80::1%eth0\nnameserver x\n", ()),
        ("", ()),
    ],
)
def test_servers_that_are_not_this_host(tmp_path: Path, text: str, found: tuple[str, ...]) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text(text)
    assert read_upstreams([file]) == found


def test_the_first_file_that_names_one_counts(tmp_path: Path) -> None:
    own, behind = tmp_path / "own", tmp_path / "behind"
    own.write_text("nameserver 127.0.0.1\n")
    behind.write_bytes(b"nameserver 10.0.0.2 # \xff\n")
    assert read_upstreams([tmp_path / "absent", own, behind]) == ("10.0.0.2",)


@pytest.mark.parametrize("text", ["10.0.0.2", "10.0.0.2:5353", "fd00::2", "[fd00::2]:53"])
def test_a_dns_server(text: str) -> None:
    assert words.dns_server(text) is None


@pytest.mark.parametrize(
    "text", ["", "dns.example", "10.0.0.2:0", "10.0.0.2:x", "10.0.0.2#53", "[10.0.0.2]:53", "[::1]"]
)
def test_no_dns_server(text: str) -> None:
    assert words.dns_server(text)
