"""Addresses, index rules, back-off, transaction chunks, status documents: the pure parts of the Consul adapter."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.adapters.consul.address import ConsulAddress
from agent.adapters.consul.polling import BACKOFF_CAP, Backoff, next_index
from agent.adapters.consul.status import MAX_DOCUMENT, encode_status
from agent.adapters.consul.store import MAX_OPERATIONS, MAX_REQUEST, _Change, chunks, object_name
from agent.adapters.consul.transport import refusal_of
from agent.errors import ConfigError, ConsulRefused, ConsulUnavailable
from agent.mesh.routes import Fault
from agent.mesh.status import NodeStatus


def test_the_environment_as_consul_itself_reads_it(tmp_path: Path) -> None:
    assert ConsulAddress.from_environment({}) == ConsulAddress("127.0.0.1", 8500, "http")
    (tmp_path / "token").write_text("s3cret\n")
    address = ConsulAddress.from_environment(
        {
            "CONSUL_HTTP_ADDR": "consul.example:8501",
            "CONSUL_HTTP_SSL": "true",
            "CONSUL_HTTP_TOKEN_FILE": str(tmp_path / "token"),
            "CONSUL_CACERT": "/ca.pem",
            "CONSUL_HTTP_SSL_VERIFY": "false",
            "CONSUL_NAMESPACE": "ignored",
        }
    )
    assert (address.url, address.token, address.ca_file) == ("https://consul.example:8501", "s3cret", "/ca.pem")
    assert not address.verify
    assert "s3cret" not in repr(address)
    assert ConsulAddress.from_environment({"CONSUL_HTTP_TOKEN": "other"}).token == "other"


@pytest.mark.parametrize(
    "text", ["unix:///run/consul.sock", "ftp://x", "http://", "host:port", "http://h/path", "http://me:pw@h:1"]
)
def test_a_bad_address_says_what_to_write(text: str) -> None:
    with pytest.raises(ConfigError, match=r"CONSUL_HTTP_ADDR.*write HOST:PORT"):
        ConsulAddress.from_environment({"CONSUL_HTTP_ADDR": text})


def test_a_bad_token_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"CONSUL_HTTP_TOKEN_FILE: .*absent"):
        ConsulAddress.from_environment({"CONSUL_HTTP_TOKEN_FILE": str(tmp_path / "absent")})
    (tmp_path / "two").write_text("one\ntwo\n")
    with pytest.raises(ConfigError, match=r"CONSUL_HTTP_TOKEN_FILE: .*more than one word"):
        ConsulAddress.from_environment({"CONSUL_HTTP_TOKEN_FILE": str(tmp_path / "two")})


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("localhost", True), ("127.9.9.9", True), ("10.0.0.1", False), ("::1", False)],
)
def test_source_addresses_need_ipv4_loopback(host: str, loopback: bool) -> None:
    assert ConsulAddress(host=host).is_loopback_v4 is loopback


@pytest.mark.parametrize(("previous", "answered", "then"), [(0, 7, 7), (7, 8, 8), (7, 7, 7), (7, 3, 0), (0, 0, 1)])
def test_index_rules(previous: int, answered: int, then: int) -> None:
    assert next_index(previous, answered) == then


def test_backoff_grows_to_its_cap_and_resets() -> None:
    backoff = Backoff()
    delays = [backoff.next() for _ in range(50)]
    assert 0.05 <= delays[0] <= 0.1
    assert all(BACKOFF_CAP / 2 <= delay <= BACKOFF_CAP for delay in delays[10:])
    backoff.reset()
    assert backoff.next() <= 0.1


@given(st.lists(st.integers(0, 300_000), max_size=150))
def test_chunks_keep_order_and_limits(sizes: list[int]) -> None:
    changes = [_Change(f"k{number}", "created", 0, b"x" * size) for number, size in enumerate(sizes)]
    cut = chunks(changes)
    assert [change for chunk in cut for change in chunk] == changes
    for chunk in cut:
        assert 0 < len(chunk) <= MAX_OPERATIONS
        assert len(msgspec.json.encode([change.operation for change in chunk])) <= MAX_REQUEST or len(chunk) == 1


def test_object_names() -> None:
    assert object_name("hostmesh/config/shop/routerule/x") == "routerule/x.shop"
    assert object_name("hostmesh/mesh") == "hostmesh/mesh"


@pytest.mark.parametrize(
    ("status", "kind"), [(403, ConsulRefused), (413, ConsulRefused), (429, ConsulUnavailable), (500, ConsulUnavailable)]
)
def test_an_outage_and_a_refusal_differ(status: int, kind: type[Exception]) -> None:
    assert isinstance(refusal_of(status, "http://c/v1/x", b"reason\nmore"), kind)
    assert refusal_of(404, "http://c/v1/x", b"") is None


def test_a_status_document_stays_small() -> None:
    status = NodeStatus("n", faults=tuple(Fault(f"key {number}", "x" * 500) for number in range(5000)))
    value = encode_status(status)
    assert len(value) <= MAX_DOCUMENT
    kept = msgspec.json.decode(value, type=NodeStatus).faults
    assert kept[0] == status.faults[0]
    assert kept[-1].subject == "more faults"
