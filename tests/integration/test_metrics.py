"""Metrics of what passes the mesh, as Prometheus scrapes them from the agents of a whole lab."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from agent.lab.host import Host
from agent.lab.lab import Lab
from agent.lab.plan import App, HostPlan
from tests.integration.meshlab import APP_UID, bookinfo
from tests.waiting import wait_for

GREETER = str(Path(__file__).with_name("greeter.py"))
_SAMPLE = re.compile(r"(\w+)\{(.*)\} (\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
Sample = tuple[dict[str, str], float]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Bookinfo, and a TCP service."""
    plan = bookinfo("10.78.61.0/24")
    greeter = App("greeter", (sys.executable, GREETER, "3307", "greeter"), 3307, "mysql", health_path="")
    with Lab(msgspec.structs.replace(plan, hosts=(*plan.hosts, HostPlan("greeter", (greeter,))))) as lab:
        yield lab


def page(host: Host) -> str:
    """Return what the host's port 15020 answers to a scrape from the network."""
    return host.exec("curl", "-sS", "--compressed", f"http://{host.address}:15020/metrics").stdout


def scraped(host: Host, name: str, **wanted: str) -> list[Sample]:
    """Return the samples of a metric with these labels."""
    found = [match for line in page(host).splitlines() if (match := _SAMPLE.fullmatch(line)) and match[1] == name]
    samples = [(dict(_LABEL.findall(match[2])), float(match[3])) for match in found]
    return [(labels, value) for labels, value in samples if wanted.items() <= labels.items()]


def total(host: Host, name: str, **wanted: str) -> float:
    """Return the sum of a metric's samples with these labels."""
    return sum(value for _, value in scraped(host, name, **wanted))


def wait_total(host: Host, wanted: float, name: str, **labels: str) -> None:
    """Wait until the sum of a metric's samples with these labels is that much."""
    wait_for(lambda: total(host, name, **labels) == wanted, f"{name}{labels} at {host.plan.name} is {wanted}", 40, 0.3)


def get(host: Host, times: int, path: str = "/ratings/0", service: str = "ratings") -> None:
    """Make requests from a host, whatever the answer."""
    address = host.exec("getent", "ahostsv4", service).stdout.split()[0]
    for _ in range(times):
        host.get(path, address=address, headers={"Host": f"{service}:9080"})


def test_requests_are_counted_at_both_ends_with_istios_labels(lab: Lab) -> None:
    caller, called = lab["details"], lab["ratings"]  # which calls nobody else
    get(caller, 7)
    get(caller, 2, "/nothing-here")
    pair = {"source_workload": "details-v1", "destination_service": "ratings.default.svc.cluster.local"}
    for host, reporter in ((caller, "source"), (called, "destination")):
        wait_total(host, 7, "istio_requests_total", reporter=reporter, response_code="200", **pair)
        wait_total(host, 2, "istio_requests_total", reporter=reporter, response_code="404", **pair)
        ((labels, _),) = scraped(host, "istio_requests_total", reporter=reporter, response_code="404", **pair)
        assert labels == {
            **labels,
            "source_app": "details",
            "source_version": "v1",
            "source_principal": "spiffe://cluster.local/ns/default/sa/bookinfo-details",
            "destination_workload": "ratings-v1",
            "destination_workload_namespace": "default",
            "destination_principal": "spiffe://cluster.local/ns/default/sa/bookinfo-ratings",
            "destination_service_name": "ratings",
            "request_protocol": "http",
            "response_flags": "-",
            "connection_security_policy": "mutual_tls",
        }
        assert total(host, "istio_request_duration_milliseconds_count", reporter=reporter, **pair) == 9
        assert total(host, "istio_response_bytes_count", reporter=reporter, **pair) == 9
        assert total(host, "istio_response_bytes_sum", reporter=reporter, **pair) > 0
    old = {"source_service": "details.default.svc.cluster.local", "source_version": "v1", "connection_mtls": "true"}
    assert total(called, "istio_request_count", response_code="404", **old) == 2
    assert total(called, "envoy_server_uptime") == 0  # it has no labels, so it is no sample with labels
    assert "\nenvoy_server_uptime " in page(called)


def test_connections_are_counted_when_they_open_and_their_bytes_when_they_end(lab: Lab) -> None:
    caller, called = lab["ratings"], lab["greeter"]
    before = page(called)
    talk = "import socket,sys; s=socket.create_connection(('greeter',3307)); s.makefile().readline(); print('in');"
    talk += "sys.stdout.flush(); sys.stdin.readline(); s.sendall(b'x'*99+b'\\n'); s.makefile().readline(); s.close()"
    assert "istio_tcp" not in before
    with subprocess.Popen(
        caller.argv([sys.executable, "-c", talk], APP_UID), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as talking:
        assert talking.stdin is not None
        assert talking.stdout is not None
        assert talking.stdout.readline() == "in\n"
        ends = ((caller, "source"), (called, "destination"))
        pair = {"source_workload": "ratings-v1", "destination_service_name": "greeter"}
        for host, reporter in ends:
            wait_total(host, 1, "istio_tcp_connections_opened_total", reporter=reporter, **pair)
            assert total(host, "istio_tcp_connections_closed_total") == 0
        talking.communicate("\n", timeout=30)
    for host, reporter in ends:
        wait_total(host, 1, "istio_tcp_connections_closed_total", reporter=reporter, **pair)
        wait_total(host, 100, "istio_tcp_received_bytes_total", reporter=reporter, **pair)
        wait_total(host, 100 + len("hello from greeter\n"), "istio_tcp_sent_bytes_total", reporter=reporter, **pair)
        ((labels, _),) = scraped(host, "istio_tcp_sent_bytes_total", reporter=reporter, **pair)
        assert labels["destination_principal"].startswith("spiffe://cluster.local/ns/default/sa/")
        assert labels["request_protocol"] == "tcp"
        assert total(host, "istio_tcp_connections_opened_total", **pair) == 1


def test_requests_that_reach_nobody_are_counted_by_their_caller(lab: Lab) -> None:
    vip = lab["reviews-v3"].exec("getent", "ahostsv4", "ratings").stdout.split()[0]
    status, _ = lab["reviews-v3"].get("/", address=vip, headers={"Host": "nobody-at-all:9080"})
    assert status == 503
    nobody = {"reporter": "source", "destination_service": "PassthroughCluster", "response_code": "503"}
    wait_total(lab["reviews-v3"], 1, "istio_requests_total", source_workload="reviews-v3", **nobody)
