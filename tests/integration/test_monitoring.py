"""What watches a mesh, on a mesh with traffic: Prometheus through Consul, dashboards, alerts and the service graph."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from agent.lab.hostfiles import APP_UID
from agent.lab.lab import Lab
from agent.lab.monitoring import with_monitoring
from agent.lab.plan import CHECKOUT, App, python_app
from agent.lab.programs import SEARCH_PATH
from agent.servicegraph.prometheus import Prometheus
from agent.servicegraph.server import GraphServer
from tests.integration.browser import Page, browser
from tests.integration.meshlab import HOSTMESH, agents, bookinfo, hostmesh
from tests.ports import free_port, free_ports
from tests.waiting import wait_for

MONITORING = CHECKOUT / "monitoring"
DASHBOARDS = sorted((MONITORING / "grafana" / "dashboards").glob("*.json"))
SPAN = "20s"
"""What `$__rate_interval` is here; the lab's Prometheus reads every 2 s."""
CALLS = {
    ("productpage.default (v1)", "details.default (v1)"),
    *(("productpage.default (v1)", f"reviews.default (v{version})") for version in (1, 2, 3)),
    *((f"reviews.default (v{version})", "ratings.default (v1)") for version in (2, 3)),
}
TCP_CALL = ("productpage.default (v1)", "tcp-echo.default (v1)")
ECHO = (
    "import socket; s = socket.create_connection(('tcp-echo', 9000), 10); s.sendall(b'hello\\n'); s.recv(9); s.close()"
)
NOWHERE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: nowhere}
spec:
  hosts: [ratings]
  http:
    - match: [{uri: {prefix: /nowhere}}]
      route: [{destination: {host: nobody}}]
    - route: [{destination: {host: ratings}}]
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Bookinfo with a TCP service, watched, and asked for its page all the time."""
    plan = with_monitoring(bookinfo("10.78.61.0/24"), *free_ports(2))
    echo = App(
        "tcp-echo",
        (*python_app(CHECKOUT / "vagrant" / "httpbin" / "tcp_echo.py", 9000), "one"),
        port=9000,
        protocol="tcp",
        labels={"app": "tcp-echo", "version": "v1"},
        health_path="",
    )
    hosts = tuple(
        msgspec.structs.replace(host, apps=(*host.apps, echo)) if host.name == "details" else host
        for host in plan.hosts
    )
    with Lab(msgspec.structs.replace(plan, hosts=hosts)) as lab, readers(lab.state.page):
        hostmesh(lab, "apply", "-f", "-", stdin=NOWHERE)
        lab["productpage"].exec(sys.executable, "-c", ECHO, uid=APP_UID)
        # Known from two readings on: rates are of what grew between them.
        wait_for(lambda: {ends(edge) for edge in graph(lab)["edges"]} >= CALLS | {TCP_CALL}, "every call is seen", 90)
        wait_for(lambda: all(edge["rate"] > 0 for edge in graph(lab)["edges"] if ends(edge) in CALLS), "rates", 90)
        see_a_renewal(lab)
        yield lab


def see_a_renewal(lab: Lab) -> None:
    """Have certificates renewed twice: Prometheus sees how much a number grows, not that it comes."""

    def calls() -> float:
        found = asked(lab, "query", query="sum(hostmesh_ca_call_seconds_count)")["result"]
        return float(found[0]["value"][1]) if found else 0.0

    before = calls()
    for _ in range(2):
        hostmesh(lab, "cert", "renew", "--run-dir", str(lab["details"].path("run")))
        wait_for(lambda: calls() > before, "the CA's calls are counted", 60)


class readers:
    """Somebody who reads the page all the time, until the block ends."""

    def __init__(self, url: str) -> None:
        self._url, self._ended = url, threading.Event()
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _read(self) -> None:
        while not self._ended.wait(0.1):
            with suppress(OSError), urllib.request.urlopen(self._url, timeout=10) as answer:
                answer.read()


def get(url: str, **parameters: str) -> bytes:
    with urllib.request.urlopen(f"{url}?{urllib.parse.urlencode(parameters)}", timeout=20) as answer:
        body: bytes = answer.read()
        return body


def asked(lab: Lab, path: str, **parameters: str) -> Any:
    return json.loads(get(f"{lab.state.prometheus}/api/v1/{path}", **parameters))["data"]


def graph(lab: Lab, **parameters: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(get(f"{lab.state.servicegraph}/graph", time_horizon="30s", **parameters))
    return document


def ends(edge: dict[str, Any]) -> tuple[str, str]:
    return edge["source"], edge["target"]


def promtool(*words: str) -> str:
    program = shutil.which("promtool", path=SEARCH_PATH)
    assert program, "no promtool: .ci/setup dev"
    folder = MONITORING / "prometheus"
    done = subprocess.run([program, *words], capture_output=True, text=True, check=False, timeout=60, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_finds_nothing_wrong() -> None:
    assert "SUCCESS" in promtool("check", "config", "prometheus.yml")
    assert "SUCCESS" in promtool("test", "rules", "hostmesh.rules.test.yml")


def test_prometheus_finds_every_agent_through_consul(lab: Lab) -> None:
    wanted = {("hostmesh-agent", host.name) for host in agents(lab)} | {("hostmesh-ca", "127.0.0.1:15014")}

    def targets() -> set[tuple[str, str]]:
        found = asked(lab, "targets")["activeTargets"]
        return {(it["labels"]["job"], it["labels"]["instance"]) for it in found if it["health"] == "up"}

    wait_for(lambda: targets() == wanted, "every agent and the CA is read", 60)
    told = json.loads(get(f"{lab.state.servicegraph}/targets"))  # for a Prometheus that cannot ask Consul
    assert {(it["labels"]["instance"], *it["targets"]) for it in told} == {
        (host.name, f"{host.address}:15020") for host in agents(lab)
    }
    rules = [rule["name"] for group in asked(lab, "rules")["groups"] for rule in group["rules"]]
    assert len(rules) >= 14
    known = lab["productpage"].exec("getent", "hosts", "hostmesh-agent", check=False)
    assert known.returncode != 0, known.stdout  # no service of the mesh


def replaced(query: str) -> str:
    """Return a query as Grafana would send it, with the variables' values chosen."""
    service = "tcp-echo" if "istio_tcp" in query else "reviews"
    values = {
        "$__rate_interval": SPAN,
        "$reporter": "destination",
        "$service": f"{service}.default.svc.cluster.local",
        "$namespace": "default",
        "$workload": "reviews-v2",
        "$instance": ".*",
    }
    for name, value in values.items():
        query = query.replace(name, value)
    assert "$" not in query
    return query


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_panel_has_data(lab: Lab, path: Path) -> None:
    panels = [panel for panel in json.loads(path.read_text())["panels"] if panel["type"] != "row"]

    def has_data(query: str) -> bool:
        found = asked(lab, "query", query=replaced(query))["result"]
        return any(math.isfinite(float(series["value"][1])) for series in found)

    def all_have_data() -> bool:
        empty = [
            (it["title"], query["expr"]) for it in panels for query in it["targets"] if not has_data(query["expr"])
        ]
        assert not empty
        return True

    assert len(panels) >= 8
    wait_for(all_have_data, timeout=60)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_variable_has_values(lab: Lab, path: Path) -> None:
    for variable in json.loads(path.read_text())["templating"]["list"]:
        if variable["type"] == "query":
            series, label = (
                replaced(variable["definition"]).removeprefix("label_values(").removesuffix(")").rsplit(",", 1)
            )
            found = asked(lab, f"label/{label.strip()}/values", **{"match[]": series})
            assert found, variable["definition"]


def test_the_graph_has_every_call(lab: Lab) -> None:
    whole = graph(lab)
    assert {ends(edge) for edge in whole["edges"]} == CALLS | {TCP_CALL}
    assert whole["nodes"]["reviews.default (v3)"] == {"service": "reviews", "namespace": "default", "version": "v3"}
    for edge in whole["edges"]:
        assert edge["mtls"] == "yes", edge
        assert edge["protocol"] == ("tcp" if ends(edge) == TCP_CALL else "http")
    assert {ends(edge) for edge in graph(lab, filter_empty="true")["edges"]} >= CALLS
    text = get(f"{lab.state.servicegraph}/dotgraph", time_horizon="30s").decode()
    assert '"productpage.default (v1)" -> "reviews.default (v3)" [label="mTLS: yes' in text
    picture = get(f"{lab.state.servicegraph}/dotviz", time_horizon="30s").decode()
    assert "<svg " in picture
    assert ">ratings.default (v1)<" in picture


@pytest.mark.parametrize("parameters", [{"time_horizon": "soon"}, {"filter_empty": "perhaps"}])
def test_a_question_that_is_none_is_refused(lab: Lab, parameters: dict[str, str]) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(f"{lab.state.servicegraph}/graph", **parameters)
    assert caught.value.code == 400
    assert "must be" in caught.value.read().decode()


async def test_the_page_in_a_browser(lab: Lab) -> None:
    async with browser() as page:
        await page.open(f"{lab.state.servicegraph}/?time_horizon=30s")
        await page.wait("document.querySelectorAll('.row').length === 7")
        names = await page.value("[...document.querySelectorAll('.row')].map(row => row.dataset.node)")
        assert set(names) == {name for call in CALLS | {TCP_CALL} for name in call}
        assert await page.value("document.querySelectorAll('.edge').length") == 7
        assert await page.value("document.querySelectorAll('.label .lock').length") >= 6
        assert await page.value("document.querySelectorAll('table tr.pick').length") == 7
        light = await page.value("getComputedStyle(document.body).backgroundColor")
        await _nothing_overlaps(page)
        # Live: the time at the top goes on by itself.
        before = await page.value("document.getElementById('status-text').textContent")
        await page.wait(f"document.getElementById('status-text').textContent !== {json.dumps(before)}")
        # A version that is picked shows who calls it and whom it calls.
        await page.value(
            "document.querySelector(\"[data-node='reviews.default (v3)']\").dispatchEvent(new MouseEvent('click'))"
        )
        assert "productpage v1" in await page.value("document.getElementById('details').textContent")
        assert "ratings v1" in await page.value("document.getElementById('details').textContent")
        assert await page.value("document.querySelectorAll('.edge:not(.dim)').length") == 2
        await page.value("document.getElementById('filter-empty').click()")
        assert "filter_empty=true" in await page.value("location.search")
        await page.open(f"{lab.state.servicegraph}/?time_horizon=30s", dark=True)
        await page.wait("document.querySelectorAll('.row').length === 7")
        assert await page.value("getComputedStyle(document.body).backgroundColor") != light
        assert len(await page.screenshot()) > 20_000
        assert page.complaints == []


async def _nothing_overlaps(page: Page) -> None:
    """Boxes and labels lie beside each other, and all of it is on the screen."""
    boxes = await page.value(
        "[...document.querySelectorAll('.group .box, .label rect')].map(it => {"
        "const at = it.getBoundingClientRect(); return [at.left, at.top, at.right, at.bottom]})"
    )
    stage = await page.value(
        "(({left, top, right, bottom}) => [left, top, right, bottom])(graph.getBoundingClientRect())"
    )
    for index, (left, top, right, bottom) in enumerate(boxes):
        assert stage[0] <= left < right <= stage[2]
        assert stage[1] <= top < bottom <= stage[3]
        for other in boxes[:index]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top, (boxes, index)


async def nobody() -> dict[str, str]:
    return {}


@asynccontextmanager
async def graph_without_prometheus() -> AsyncIterator[str]:
    port = free_port()
    server = GraphServer(Prometheus(f"http://127.0.0.1:{free_port()}"), nobody)
    runner = web.AppRunner(server.application())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


async def test_without_prometheus_the_page_says_so() -> None:
    async with graph_without_prometheus() as url, browser() as page:
        await page.open(url)
        told = await page.wait("document.getElementById('message').textContent")
        assert "Prometheus at http://127.0.0.1:" in told
        assert "does not answer" in told
        assert await page.value("document.getElementById('status').className") == "lost"


def test_dashboard_prints_the_address_or_says_that_nothing_is_there(lab: Lab) -> None:
    port = lab.state.servicegraph.rsplit(":", 1)[1]

    def dashboard(port: str) -> subprocess.CompletedProcess[str]:
        command = [str(HOSTMESH), "dashboard", "servicegraph", "--port", port]
        return subprocess.run(command, capture_output=True, text=True, env={"PATH": "/usr/bin"}, check=False)

    done = dashboard(port)
    assert (done.returncode, done.stdout) == (0, f"http://127.0.0.1:{port}/\n"), done.stderr
    away = dashboard(str(free_port()))
    assert away.returncode == 1
    assert "servicegraph: nothing answers on 127.0.0.1 port" in away.stderr


def test_failures_are_seen(lab: Lab) -> None:
    """Last: the lab is not whole afterwards."""
    lab.kill("details", "details")

    def share() -> float:
        to_details = [edge for edge in graph(lab)["edges"] if edge["target"].startswith("details.default")]
        return max((edge["errors"] for edge in to_details), default=0.0)

    wait_for(lambda: share() > 0.1, "the graph shows errors", 60)
