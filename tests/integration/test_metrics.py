"""Metrics of what passes the mesh, as Prometheus scrapes them from the agents of a whole lab."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import yaml

from agent.lab.host import Host
from agent.lab.lab import Lab
from agent.lab.plan import App, HostPlan
from tests.integration.meshlab import APP_UID, bookinfo, hostmesh, sent_resources, wait_settled
from tests.waiting import wait_for

SAMPLES = Path(__file__).parents[2] / "vagrant/samples/telemetry"
METRICS = """
{apiVersion: config.istio.io/v1alpha2, kind: metric, metadata: {name: bypath, namespace: default}, spec: {
  value: response.duration | "0ms", dimensions: {path: request.path | "none", code: response.code | 0,
    tenant: 'conditional(request.headers["x-tenant"].startsWith("go"), "gold", "another")',
    mtls: connection.mtls | false}}}
---
{apiVersion: config.istio.io/v1alpha2, kind: metric, metadata: {name: calls, namespace: default}, spec: {
  value: "1", dimensions: {from: 'source.labels["app"] | source.name | "unknown"'}}}
---
{apiVersion: config.istio.io/v1alpha2, kind: metric, metadata: {name: received, namespace: default}, spec: {
  value: connection.received.bytes | 0,
  dimensions: {source_service: source.service | "unknown", source_version: 'source.labels["version"] | "unknown"'}}}
---
{apiVersion: config.istio.io/v1alpha2, kind: prometheus, metadata: {name: shown, namespace: default}, spec: {metrics: [
  {name: by_path, instance_name: bypath.metric.default, kind: DISTRIBUTION, label_names: [path, code, tenant, mtls],
   buckets: {explicit_buckets: {bounds: [0.1, 60]}}},
  {name: greeter_received_bytes, instance_name: received.metric, kind: COUNTER,
   label_names: [source_service, source_version]}]}}
---
{apiVersion: config.istio.io/v1alpha2, kind: statsd, metadata: {name: sent, namespace: default}, spec: {
  address: "localhost:8125", prefix: mesh., metrics: {
    calls.metric.default: {type: COUNTER, name_template: "from.{{.from}}"}}}}
---
{apiVersion: config.istio.io/v1alpha2, kind: rule, metadata: {name: requests, namespace: default}, spec: {
  match: 'destination.labels["app"] == "ratings" || destination.service == "ratings.default.svc.cluster.local"',
  actions: [
    {handler: shown.prometheus, instances: [bypath.metric]}, {handler: sent.statsd, instances: [calls.metric]}]}}
---
{apiVersion: config.istio.io/v1alpha2, kind: rule, metadata: {name: connections, namespace: default}, spec: {
  match: 'context.protocol == "tcp" && destination.service == "greeter.default.svc.cluster.local"',
  actions: [{handler: shown.prometheus, instances: [received.metric]}]}}
"""
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


def apply(lab: Lab, *arguments: str, stdin: str = "") -> None:
    """Apply rules and wait until every Envoy has acknowledged them."""
    printed = hostmesh(lab, "apply", *arguments, stdin=stdin)
    wait_settled(lab, max(int(line.rsplit(" ", 1)[1]) for line in printed.splitlines() if "revision" in line))


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


def get(host: Host, times: int, path: str = "/ratings/0", headers: dict[str, str] | None = None) -> None:
    """Make requests from a host to ratings, whatever the answer."""
    address = host.exec("getent", "ahostsv4", "ratings").stdout.split()[0]
    for _ in range(times):
        host.get(path, address=address, headers={"Host": "ratings:9080", **(headers or {})})


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
    for metric in ("istio_request_bytes", "istio_response_bytes"):
        assert total(called, f"{metric}_count", reporter="destination", **pair) == 9
        assert total(caller, f"{metric}_count", **pair) == 0, "sizes are counted once, where requests arrive"
    assert total(called, "istio_response_bytes_sum", reporter="destination", **pair) > 0
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


def test_a_new_metric_counts_each_request_twice_and_changing_it_is_nothing_to_envoy(lab: Lab) -> None:
    called = lab["ratings"]
    apply(lab, "-f", str(SAMPLES / "new-telemetry.yaml"))
    get(lab["details"], 3)
    twice = {"source": "details.default.svc.cluster.local", "message": "twice the fun!"}
    wait_total(called, 6, "istio_double_request_count", destination="ratings.default.svc.cluster.local", **twice)
    sent = sent_resources(called)
    renamed = yaml.safe_load((SAMPLES / "new-telemetry.yaml").read_text().split("---")[1])
    renamed["spec"]["metrics"][0] |= {"name": "renamed", "kind": "DISTRIBUTION", "label_names": ["source"]}
    renamed["spec"]["metrics"][0]["buckets"] = {"linear_buckets": {"num_finite_buckets": 2, "width": 1}}
    apply(lab, "-f", "-", stdin=json.dumps(renamed))
    get(lab["details"], 4)
    wait_total(called, 4, "istio_renamed_bucket", source=twice["source"], le="2")
    assert total(called, "istio_renamed_bucket", source=twice["source"], le="1") == 0
    assert total(called, "istio_renamed_sum", source=twice["source"]) == 8
    assert "double_request_count" not in page(called)
    assert sent_resources(called) == sent


def is_counted_by_path(lab: Lab) -> bool:
    """Make a request, and tell whether one like it has been counted."""
    get(lab["details"], 1, "/new")
    return bool(scraped(lab["ratings"], "istio_by_path_count", path="/new"))


def counted(heard: str, name: str) -> list[int]:
    """Return what statsd's counter of that name was increased by."""
    return [int(found) for found in re.findall(rf"^{re.escape(name)}:(\d+)\|c$", heard, re.MULTILINE)]


def test_metrics_of_what_clients_say_of_connections_and_for_statsd(lab: Lab) -> None:
    called, heard = lab["ratings"], lab.folder / "heard"
    listen = "import socket,sys; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.bind(('127.0.0.1',8125));"
    listen += "print('in',flush=True);\nwhile True: print(s.recv(9999).decode(),flush=True)"
    with (
        heard.open("w") as output,
        subprocess.Popen(called.argv([sys.executable, "-c", listen], APP_UID), stdout=output) as server,
    ):
        try:
            wait_for(heard.read_text, "the server listens", 30)
            apply(lab, "-f", "-", stdin=METRICS)
            # Connections from before have their last request answered as before.
            wait_for(lambda: is_counted_by_path(lab), "a request is counted by its path", 60, 1)
            before = sum(counted(heard.read_text(), "mesh.from.details"))
            get(lab["details"], 2)
            get(lab["details"], 1, "/other", {"X-Tenant": "gold"})
            wait_for(lambda: sum(counted(heard.read_text(), "mesh.from.details")) >= before + 3, "calls sent", 60, 0.3)
        finally:
            server.kill()
    paths = {"tenant": "another", "mtls": "true"}
    wait_total(called, 2, "istio_by_path_count", path="/ratings/0", code="200", **paths)
    wait_total(called, 1, "istio_by_path_count", path="/other", code="404", tenant="gold", mtls="true")
    assert total(called, "istio_by_path_bucket", path="/ratings/0", code="200", le="60") == 2
    assert 0 <= total(called, "istio_by_path_sum", path="/ratings/0") < 60
    talk = (
        "import socket; s=socket.create_connection(('greeter',3307)); s.makefile().readline(); s.sendall(b'hello\\n');"
    )
    lab["details"].exec(sys.executable, "-c", talk + "s.makefile().readline(); s.close()", uid=APP_UID)
    source = {"source_service": "details.default.svc.cluster.local", "source_version": "v1"}
    wait_total(lab["greeter"], 6, "istio_greeter_received_bytes", **source)
