"""Services of one host that want the same port."""

from __future__ import annotations

import asyncio
from pathlib import Path

from agent.config import load_config
from agent.mesh.service import Port, Protocol, ServiceKey, Workload
from agent.runtime.workloads import ServicesFolder, one_identity_per_port

PORTS = (Port(9080, "http", Protocol.HTTP),)


def workload(name: str, account: str, proxied: bool = True) -> Workload:
    return Workload(ServiceKey("default", name), "10.0.0.1", PORTS, service_account=account, proxied=proxied)


DETAILS, SECOND = workload("details", "bookinfo-details"), workload("a", "default")


def test_a_new_service_never_takes_a_port() -> None:
    kept, (reason,) = one_identity_per_port((SECOND, DETAILS), before=(DETAILS,))
    assert kept == (DETAILS,)
    assert "service a.default: port 9080 is that of details.default" in reason


def test_of_two_new_ones_the_first_has_the_port() -> None:
    assert one_identity_per_port((SECOND, DETAILS), before=())[0] == (SECOND,)


def test_one_identity_or_no_proxy_share_a_port() -> None:
    both = (DETAILS, workload("b", "bookinfo-details"), workload("c", "default", proxied=False))
    assert one_identity_per_port(both, before=()) == (both, ())


async def test_a_changed_folder_is_told_once_it_rests(tmp_path: Path) -> None:
    (tmp_path / "services.d").mkdir()
    folder = ServicesFolder(load_config(tmp_path, tmp_path, tmp_path), "10.0.0.1")
    assert folder.read((), proxied=True) == ((), ())
    told: asyncio.Queue[tuple[str, ...]] = asyncio.Queue()

    def changed() -> None:
        told.put_nowait(tuple(str(found.service) for found in folder.read((), proxied=True)[0]))

    watching = asyncio.create_task(folder.watch(changed))
    try:
        (tmp_path / "services.d/web.yaml").write_text("name: web\nport: 80\n")
        assert await asyncio.wait_for(told.get(), 30) == ("web.default",)
        (tmp_path / "services.d/web.yaml").unlink()
        assert await asyncio.wait_for(told.get(), 30) == ()
    finally:
        watching.cancel()
