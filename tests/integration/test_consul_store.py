"""The command line's store against a real Consul: check-and-set, transactions past their limits, external instances."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import msgspec
import pytest

from agent.adapters.consul.address import ConsulAddress
from agent.adapters.consul.external import ExternalInstance, ExternalInstances
from agent.adapters.consul.store import KvConnection, NodeStatuses, RuleStore, SettingsStore
from agent.errors import ConflictError, ConsulRefused, ConsulUnavailable, PartialWrite
from agent.mesh.names import config_key, status_key
from agent.mesh.service import Health, Port, Protocol, ServiceKey
from agent.mesh.status import NodeStatus
from tests.integration.consul_process import ConsulProcess
from tests.ports import free_port


@pytest.fixture(scope="module")
def address() -> Iterator[ConsulAddress]:
    with asyncio.Runner() as runner:
        consul = ConsulProcess()
        runner.run(consul.start())
        try:
            yield consul.address
        finally:
            runner.run(consul.stop())


def key(name: str) -> str:
    return config_key("default", "RouteRule", name)


def test_create_replace_apply_delete(address: ConsulAddress) -> None:
    store = RuleStore(address)
    (made,) = store.create({key("a"): b"1"})
    stored = store.get(key("a"))
    assert stored is not None
    assert (made.action, made.revision, stored.value) == ("created", stored.revision, b"1")
    with pytest.raises(ConflictError, match=r"routerule/a\.default exists already"):
        store.create({key("b"): b"1", key("a"): b"2"})
    assert store.get(key("b")) is None
    with pytest.raises(ConflictError, match=r"routerule/b\.default does not exist"):
        store.replace({key("a"): b"2", key("b"): b"2"})
    with pytest.raises(ConflictError, match="changed meanwhile"):
        store.replace({key("a"): b"2"}, {key("a"): made.revision - 1})
    (replaced,) = store.replace({key("a"): b"2"}, {key("a"): made.revision})
    assert replaced.revision > made.revision
    assert [written.action for written in store.apply({key("a"): b"2", key("b"): b"2"})] == ["unchanged", "created"]
    assert [stored.key for stored in store.list()] == [key("a"), key("b")]
    with pytest.raises(ConflictError, match="does not exist"):
        store.delete([key("a"), key("c")])
    assert [written.action for written in store.delete([key("a"), key("b")])] == ["deleted", "deleted"]
    assert store.list() == ()


def test_a_transaction_is_all_or_nothing(address: ConsulAddress, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else wins the race between our reading and our writing."""
    store, other = RuleStore(address), RuleStore(address)
    store.create({key("raced"): b"1"})
    present = store._present
    monkeypatch.setattr(store, "_present", lambda keys: (present(keys), other.apply({key("raced"): b"theirs"}))[0])
    with pytest.raises(ConflictError, match=r"routerule/raced\.default was changed by somebody else"):
        store.apply({key("innocent"): b"1", key("raced"): b"ours"})
    assert other.get(key("innocent")) is None
    other.delete([key("raced")])


def test_more_documents_than_a_transaction_takes(address: ConsulAddress, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RuleStore(address)
    many = {key(f"m{number:03}"): b"x" * 100 for number in range(150)}
    assert len(store.create(many)) == 150
    assert len({written.revision for written in store.replace(dict.fromkeys(many, b"y"))}) == 3
    assert len(store.delete(many)) == 150
    present, raced = store._present, key("m100")
    monkeypatch.setattr(store, "_present", lambda keys: (present(keys), RuleStore(address).apply({raced: b""}))[0])
    with pytest.raises(
        PartialWrite, match=r"64 of 150 documents were written, then: routerule/m100\.default"
    ) as caught:
        store.apply(many)
    assert caught.value.written == tuple(list(many)[:64])
    written = [stored.key for stored in store.list()]
    assert written == [*list(many)[:64], raced]
    RuleStore(address).delete(written)


def test_large_documents(address: ConsulAddress) -> None:
    store = RuleStore(address)
    documents = {key("big1"): b"x" * 300_000, key("big2"): b"x" * 300_000, key("max"): b"x" * 512 * 1024}
    assert [written.action for written in store.create(documents)] == ["created"] * 3
    assert {stored.key: stored.value for stored in store.list()} == documents
    assert [written.action for written in store.delete(documents)] == ["deleted"] * 3
    with pytest.raises(ConsulRefused, match=r"routerule/huge\.default has 524289 bytes"):
        store.create({key("huge"): b"x" * (512 * 1024 + 1)})


def test_settings_and_statuses(address: ConsulAddress) -> None:
    settings = SettingsStore(address)
    assert settings.get() is None
    revision = settings.set(b"{}", 0)
    with pytest.raises(ConflictError):
        settings.set(b"[]", 0)
    assert settings.set(b"[]", revision) > revision
    kv = KvConnection(address)
    kv.send("put", f"/v1/kv/{status_key('n1')}", data=msgspec.json.encode(NodeStatus("n1")))
    kv.send("put", f"/v1/kv/{status_key('n2')}", data=b"garbage")
    statuses, faults = NodeStatuses(address).read()
    assert statuses == [NodeStatus("n1")]
    assert [fault.subject for fault in faults] == ["hostmesh/status/n2"]


@pytest.mark.parametrize("host", ["10.5.5.5", "fd00::5"])
def test_external_instances(address: ConsulAddress, host: str) -> None:
    external = ExternalInstances(address)
    ports = (Port(3306, "mysql", Protocol.MYSQL), Port(9104, "http-metrics", Protocol.HTTP))
    instance = ExternalInstance(
        ServiceKey("shop", "db"), host, ports, (("version", "v1"),), (("note", "rented"),), "db-account"
    )
    external.register(instance)
    external.register(instance)
    (found,) = external.list()
    assert (found.service, found.address, found.ports, found.labels) == (instance.service, host, ports, instance.labels)
    assert (found.service_account, found.proxied, found.health) == ("db-account", False, Health.PASSING)
    with pytest.raises(ConflictError, match="not registered"):
        external.deregister(ServiceKey("default", "db"), host)
    assert external.deregister(instance.service, host) == ["hostmesh-db-3306-shop"]
    assert external.list() == ()


def test_a_consul_that_is_away_is_unavailable() -> None:
    address = ConsulAddress(port=free_port(), token="s3cret")
    with pytest.raises(ConsulUnavailable, match="check that the local Consul agent runs") as caught:
        RuleStore(address).list()
    assert "s3cret" not in str(caught.value)
