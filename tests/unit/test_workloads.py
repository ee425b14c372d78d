"""Services of one host that want the same port."""

from __future__ import annotations

from agent.mesh.service import Port, Protocol, ServiceKey, Workload
from agent.runtime.workloads import one_identity_per_port

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
