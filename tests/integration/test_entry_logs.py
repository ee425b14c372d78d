"""What Mixer's rules log, with a real Envoy: stdio's lines, and fluentd's forward protocol, servers good and bad."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.api.lowering.lower import lower
from agent.cli.catalog_file import read_catalog
from agent.cli.documents import load_checked
from agent.cli.render_mesh import node_options, node_snapshot
from agent.mesh.mixer_logs import EntryLogs, Fluentd
from agent.mesh.routes import Fault
from agent.runtime.entry_log import EntryLog
from agent.translate.log_servers import log_socket
from agent.translate.plan import Planner
from tests.integration.guarded_mesh import PLAIN, REVIEWS, Guarded
from tests.waiting import wait_for

PAGE = "ns/default/sa/bookinfo-productpage"
ENTRY = """
apiVersion: "config.istio.io/v1alpha2"
kind: logentry
metadata:
  name: newlog
  namespace: istio-system
spec:
  severity: '"warning"'
  timestamp: request.time
  variables:
    source: source.labels["app"] | source.service | "unknown"
    user: source.user | "unknown"
    destination: destination.labels["app"] | destination.service | "unknown"
    responseCode: response.code | 0
    responseSize: response.size | 0
    latency: response.duration | "0ms"
  monitored_resource_type: '"UNSPECIFIED"'
---
"""
STDIO = """
apiVersion: "config.istio.io/v1alpha2"
kind: stdio
metadata: {name: newhandler, namespace: istio-system}
spec:
 severity_levels:
   warning: 1 # Params.Level.WARNING
 outputAsJson: true
---
"""


def rule(name: str, match: str, handler: str, entry: str = "newlog.logentry") -> str:
    return f"""
apiVersion: "config.istio.io/v1alpha2"
kind: rule
metadata: {{name: {name}, namespace: istio-system}}
spec: {{match: {json.dumps(match)}, actions: [{{handler: {handler}, instances: [{entry}]}}]}}
---
"""


AT: dict[str, str] = {}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """The page has an account and an address of its own."""
    host = Guarded(tmp_path_factory.mktemp("logs"))
    net = host.server.rpartition(".")[0]
    AT.update({"page": f"{net}.24", "elsewhere": f"{net}.99"})
    host.nodes = f", {{name: page, address: {AT['page']}}}"
    host.services = """
- name: productpage
  serviceAccount: bookinfo-productpage
  ports: [{name: http, port: 9995}]
  instances: [{node: page, proxied: true, labels: {app: productpage}}]
"""
    with host.applications():
        yield host


def logs_of(host: Guarded, rules: Path, mode: str = "PERMISSIVE") -> EntryLogs:
    """Return what the server's agent would make of what its Envoy writes."""
    catalog = read_catalog(host.catalog(mode), "catalog")
    lowered = lower(load_checked((str(rules),), "default").documents, [service.key for service in catalog.services])
    snapshot = node_snapshot(catalog, "server", lowered, None)
    return Planner().plan(snapshot, node_options(catalog.host, None, host.server)).logs


class Entries:
    """The agent's part, in a loop of its own beside the test."""

    def __init__(self, host: Guarded, rules: str, mode: str) -> None:
        (host.folder / "entry-rules.yaml").write_text(rules)
        logs = logs_of(host, host.folder / "entry-rules.yaml", mode)
        self.faults: tuple[Fault, ...] = ()
        written = max(host.folder.glob("server-*.log"), key=lambda path: path.stat().st_mtime)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(host, written, logs), daemon=True)
        self._thread.start()

    def _run(self, host: Guarded, written: Path, logs: EntryLogs) -> None:
        asyncio.set_event_loop(self._loop)
        (host.folder / "entries.read").write_text("0")
        self.log = EntryLog(written, host.folder / "none", host.folder, host.folder, self._note)
        self.log.follow(logs)
        self._task = self._loop.create_task(self.log.run())
        self._loop.run_forever()

    def _note(self, faults: tuple[Fault, ...]) -> None:
        self.faults = faults

    def counts(self) -> dict[tuple[str, str], int]:
        return {(handler, result): number for handler, result, number in self.log.counts()}

    def end(self) -> None:
        async def stop() -> None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._loop.stop()

        asyncio.run_coroutine_threadsafe(stop(), self._loop)
        self._thread.join(20)


@contextmanager
def logging_host(host: Guarded, rules: str, mode: str = "PERMISSIVE") -> Iterator[Entries]:
    with host.serving(rules, mode):
        entries = Entries(host, rules, mode)
        try:
            yield entries
        finally:
            entries.end()


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[dict[str, Any]]]:
    caplog.set_level(logging.DEBUG, "entries")

    def lines() -> list[dict[str, Any]]:
        return [json.loads(record.message) for record in caplog.records if record.name == "entries"]

    return lines


def ask(host: Guarded, at: str, caller: str, path: str = "/", **headers: str) -> int:
    host.source = AT[at]
    return host.status(path, caller, **headers)


def test_stdio_prints_the_line_of_the_seeds(
    host: Guarded, told: Callable[[], list[dict[str, Any]]], caplog: pytest.LogCaptureFixture
) -> None:
    with logging_host(host, ENTRY + STDIO + rule("newlogstdio", "true", "newhandler.stdio")):
        assert ask(host, "page", PAGE) == 200
        assert ask(host, "elsewhere", PAGE) == 200
        assert ask(host, "page", PLAIN) == 200
        wait_for(lambda: len(told()) >= 3, "three lines")
    first, stranger, plain = told()
    variables = ["destination", "latency", "responseCode", "responseSize", "source", "user"]
    assert list(first) == ["level", "ts", "instance", *variables]
    assert first["level"] == "warn"
    assert first["instance"] == "newlog.logentry.istio-system"
    assert (first["destination"], first["source"]) == ("ratings", "productpage")
    assert first["user"] == f"mesh.test/{PAGE}"
    assert first["responseCode"] == 200
    assert first["responseSize"] > 0
    assert first["latency"].endswith("ms") or first["latency"].endswith("µs")
    assert stranger["source"] == "unknown", "no instance of that account is at that address"
    assert stranger["user"] == f"mesh.test/{PAGE}"
    assert (plain["source"], plain["user"]) == ("unknown", "unknown")
    assert {record.levelname for record in caplog.records if record.name == "entries"} == {"WARNING"}


def stdio(name: str, variables: dict[str, str], match: str = "true", more: str = "") -> str:
    """Return a rule that prints these variables."""
    return f"""
apiVersion: config.istio.io/v1alpha2
kind: logentry
metadata: {{name: {name}, namespace: istio-system}}
spec: {{severity: '"{name}"', variables: {json.dumps(variables)}}}
---
apiVersion: config.istio.io/v1alpha2
kind: stdio
metadata: {{name: {name}, namespace: istio-system}}
spec: {{severityLevels: {{refused: ERROR, quiet: 0}}, {more}}}
---
""" + rule(name, match, f"{name}.stdio", f"{name}.logentry")


RULES = (
    stdio("refused", {"code": "response.code", "path": "request.path"}, "response.code >= 400")
    + stdio("page", {"user": 'toLower(request.headers["X-User"])'}, 'source.labels["app"] == "productpage"')
    + stdio("quiet", {"x": "1"}, more="outputLevel: WARNING")
    + stdio("valueless", {"gone": 'request.headers["gone"] | request.referer'})
    + stdio(
        "tcp",
        {"bytes": "connection.received.bytes", "tls": "connection.mtls", "took": "connection.duration"},
        'context.protocol == "tcp"',
    )
    + """
apiVersion: config.istio.io/v1alpha2
kind: denier
metadata: {name: deny, namespace: istio-system}
spec: {status: {code: 7}}
---
apiVersion: config.istio.io/v1alpha2
kind: checknothing
metadata: {name: nothing, namespace: istio-system}
spec:
---
"""
    + rule("deny", 'request.path == "/forbidden"', "deny.denier", "nothing.checknothing")
)


def test_each_rule_writes_what_it_is_about(host: Guarded, told: Callable[[], list[dict[str, Any]]]) -> None:
    with logging_host(host, RULES) as entries:
        assert ask(host, "page", PAGE, "/a?b=c", x_user="Jason") == 200
        assert ask(host, "elsewhere", REVIEWS, "/forbidden") == 403
        host.source = AT["page"]
        assert host.greets(PAGE)
        wait_for(lambda: len(told()) >= 3, "three lines")
        wait_for(lambda: entries.counts().get(("valueless.stdio.istio-system", "no value"), 0) == 2, "two without")
        counts = entries.counts()
    by_name = {line["instance"].partition(".")[0]: line for line in told()}
    assert by_name.keys() == {"refused", "page", "tcp"}
    assert len(told()) == 3
    refused = by_name["refused"]
    assert (refused["level"], refused["code"], refused["path"]) == ("error", 403, "/forbidden")
    assert by_name["page"]["user"] == "jason"
    assert (by_name["tcp"]["bytes"], by_name["tcp"]["tls"]) == (6, True)
    assert counts["refused.stdio.istio-system", "written"] == 1
    assert ("", "unreadable line") not in counts


def fluentd(more: str = "") -> str:
    """Return the seeds' rule, with more of the handler."""
    return f"""
apiVersion: "config.istio.io/v1alpha2"
kind: fluentd
metadata: {{name: handler, namespace: istio-system}}
spec: {{address: "fluentd-es.logging:24224", pushIntervalDuration: 0.1s, {more}}}
---
""" + rule("newlogtofluentd", "true", "handler.fluentd")


HANDLER = "handler.fluentd.istio-system"


class Server:
    """A server of the forward protocol at the socket that Envoy would listen at; how it answers can be changed."""

    def __init__(self, path: Path, answer: Callable[[socket.socket, Any], None]) -> None:
        self.messages: list[Any] = []
        self.answer = answer
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._path = path
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        said = b""
        with connection:
            while piece := connection.recv(65536):
                said += piece
                try:
                    message = msgspec.msgpack.decode(said)
                except msgspec.DecodeError:
                    continue
                said = b""
                self.messages.append(message)
                self.answer(connection, message)

    def end(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._path.unlink()


def acknowledge(connection: socket.socket, message: Any) -> None:
    connection.sendall(msgspec.msgpack.encode({"ack": message[2]["chunk"]}))


def socket_of(host: Guarded) -> Path:
    return Path(log_socket(str(host.folder), Fluentd("", "fluentd-es.logging", 24224)))


def test_fluentd_gets_records_and_what_it_does_not_take_comes_again(host: Guarded) -> None:
    def refuse(connection: socket.socket, _message: Any) -> None:
        connection.shutdown(socket.SHUT_RDWR)

    with logging_host(host, ENTRY + fluentd("integerDuration: true")) as entries, ExitStack() as stack:
        assert ask(host, "page", PAGE) == 200
        wait_for(lambda: bool(entries.faults), "nobody is there")
        assert entries.faults[0].subject == HANDLER
        server = Server(socket_of(host), refuse)
        stack.callback(server.end)
        wait_for(lambda: len(server.messages) >= 2, "sent again")
        server.answer = acknowledge
        wait_for(lambda: entries.counts().get((HANDLER, "sent")) == 1, "sent")
        assert entries.faults == ()
        tag, events, options = server.messages[-1]
        ((time, record),) = events
        assert tag == "newlog.logentry.istio-system"
        assert options["size"] == 1
        assert time.code == 0
        seconds, nanoseconds = struct.unpack(">II", time.data)
        assert seconds > 1_700_000_000
        assert nanoseconds < 10**9
        assert record.pop("latency") >= 0
        assert record.pop("responseSize") > 0
        expected = {"source": "productpage", "destination": "ratings", "user": f"mesh.test/{PAGE}"}
        assert record == expected | {"responseCode": 200, "severity": "warning"}


def silent(_connection: socket.socket, _message: Any) -> None:
    """Say nothing."""


def garbage(connection: socket.socket, _message: Any) -> None:
    connection.sendall(b"\xc1" * 100_000)


@pytest.mark.parametrize("answer", [silent, garbage])
def test_a_server_that_is_slow_or_hostile_costs_entries_and_nothing_else(
    host: Guarded, answer: Callable[[socket.socket, Any], None]
) -> None:
    with logging_host(host, ENTRY + fluentd("pushTimeoutDuration: 0.5s, instanceBufferSize: 5")) as entries:
        server = Server(socket_of(host), answer)
        try:
            for _ in range(30):
                assert ask(host, "page", PAGE) == 200
            wait_for(lambda: entries.counts().get((HANDLER, "lost"), 0) >= 25, "counted", 60)
            assert entries.faults, "it is told"
            server.answer = acknowledge
            wait_for(lambda: entries.faults == () or not ask(host, "page", PAGE), "it is well again", 60)
            assert entries.counts()[HANDLER, "sent"] >= 1
        finally:
            server.end()


def test_access_logs_are_written_as_telemetry_objects_say(host: Guarded) -> None:
    """The mesh logs everything as JSON; of ratings only what fails is wanted, of the database nothing."""
    rules = """
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: ratings}
spec:
  selector: {matchLabels: {app: ratings}}
  accessLogging:
  - {providers: [{name: envoy}], filter: {expression: "request.path.startsWith('/no')"}}
  - {providers: [{name: short}]}
"""
    short = '{name: short, envoyFileAccessLog: {path: /dev/stdout, logFormat: {text: "%REQ(:PATH)% %RESPONSE_CODE%"}}}'
    settings = f", accessLogFile: /dev/stdout, accessLogEncoding: JSON, extensionProviders: [{short}]"
    host.settings, before = settings, host.settings
    try:
        with host.serving(rules):
            written = max(host.folder.glob("server-*.log"), key=lambda path: path.stat().st_mtime)
            assert ask(host, "page", PAGE, "/yes") == 200
            assert ask(host, "page", PAGE, "/no?a=b") == 200
            host.source = AT["page"]
            assert host.greets(PAGE)
            wait_for(lambda: len(written.read_text().splitlines()) >= 4, "four lines")
            lines = written.read_text().splitlines()
    finally:
        host.settings = before
    objects = [json.loads(line) for line in lines if line.startswith("{")]
    assert sorted(line for line in lines if not line.startswith("{")) == ["/no?a=b 200", "/yes 200"]
    request, connection = sorted(objects, key=lambda one: one["path"] is None)
    assert (request["path"], request["response_code"], request["method"]) == ("/no?a=b", 200, "GET")
    assert request["downstream_peer_uri_san"] == f"spiffe://mesh.test/{PAGE}"
    assert connection["upstream_cluster"].startswith("inbound|")
    assert connection["bytes_received"] == 6
