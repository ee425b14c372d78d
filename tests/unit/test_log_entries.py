"""What Mixer's rules log: what may be asked for, what Envoy is told to write, how an entry looks."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

import pytest
import yaml

from agent.adapters.proxy import log_follow
from agent.adapters.proxy.log_follow import EnvoyLog
from agent.api.expressions import parse
from agent.api.lowering.lower import Lowered, lower
from agent.api.problem import Verdict
from agent.api.validate import find_problems
from agent.mesh.expressions.evaluate import evaluate
from agent.mesh.expressions.tree import Attribute, Type, Value
from agent.mesh.expressions.vocabulary import VOCABULARY
from agent.mesh.mixer_logs import HEADERS, LOGGED, Fluentd, Level, Stdio
from agent.mesh.service import ServiceKey
from agent.translate import cel
from agent.translate.log_lines import Line, line_log, streams_of
from agent.translate.log_record import Record, forwarded, go_duration, printed
from tests.unit.api_samples import one, read

HEAD = {"apiVersion": "config.istio.io/v1alpha2", "metadata": {"name": "x", "namespace": "istio-system"}}


def problems(kind: str, spec: str) -> list[tuple[Verdict, str]]:
    text = yaml.safe_dump({**HEAD, "kind": kind, "spec": yaml.safe_load(spec)})
    return [(problem.verdict, problem.reason) for problem in find_problems(one(text))]


REFUSED = [
    ("logentry", "variables: {a: origin.ip}", "origin.ip is not known when requests are logged"),
    ("logentry", "variables: {a: request.headers}", "request.headers cannot be logged whole (name single ones)"),
    ("logentry", "variables: {a: 'request.headers[request.path]'}", "the name of a header must be written down"),
    ("logentry", "severity: request.auth.principal", "request.auth.principal is not known when requests are logged"),
    ("stdio", "{logStream: FILE, outputPath: /tmp/x}", "logStream: FILE: entries go to the host's journal"),
    ("stdio", "{maxRotatedFiles: 3}", "are for files, and entries go to the host's journal"),
    ("rule", "{actions: [{handler: a.stdio, instances: [a.metric]}]}", "stdio writes no metric here"),
    (
        "rule",
        "{match: 'api.service == \"x\"', actions: [{handler: a.stdio, instances: [a.logentry]}]}",
        "api.service is not known when requests are logged",
    ),
]


@pytest.mark.parametrize(("kind", "spec", "reason"), REFUSED)
def test_what_cannot_be_logged_is_refused_by_name(kind: str, spec: str, reason: str) -> None:
    ((verdict, said),) = problems(kind, spec)
    assert verdict is Verdict.UNSUPPORTED
    assert reason in said


ACCEPTED = [
    ("logentry", 'variables: {a: origin.ip | ip("0.0.0.0"), b: \'response.headers["x-a"] | ""\'}'),
    ("logentry", "monitored_resource_type: '\"UNSPECIFIED\"'"),
    ("stdio", "{severity_levels: {warning: 1, bad: ERROR}, outputAsJson: false, metricLevel: 1}"),
    ("rule", "{match: response.code >= 500, actions: [{handler: a.fluentd, instances: [a.logentry.b]}]}"),
]


@pytest.mark.parametrize(("kind", "spec"), ACCEPTED)
def test_what_can_be_logged(kind: str, spec: str) -> None:
    assert problems(kind, spec) == []


def test_every_attribute_that_may_be_asked_for_is_known() -> None:
    """Of a line that says everything each has a value: what Envoy is told to write is what is read."""
    rules = RULES.replace("ASKED", "".join(f"{name.replace('.', '_')}: {name}, " for name in sorted(PLAIN)))
    stream = streams_of(lowered(rules).security.logs).requests
    assert stream is not None
    source: Mapping[str, Value | None] = {f"source.{name}": "x" for name in ("service", "name")}
    said = {name: SAID.get(VOCABULARY[name], "7") for name in PLAIN} | {"response.duration": 1500, "at": NOW}
    said |= {"by": "spiffe://a/ns/b/sa/c", "from": "10.0.0.1"}
    line = Line(said, source)
    for name in PLAIN - {each for each in PLAIN if each.startswith("source.") and each not in ATOMS}:
        assert line.value(Attribute(name, VOCABULARY[name])) is not None, name
    assert line.value(Attribute("source.user", Type.STRING)) == "a/ns/b/sa/c"
    assert line.value(Attribute("response.duration", Type.DURATION)) == timedelta(microseconds=1500)
    written = str(line_log(stream, "file"))
    assert all(name in written for name in ATOMS - {"source.user", "source.principal"})


NOW = "2026-11-20T18:36:55.931Z"
SAID: dict[Type, Any] = {Type.IP_ADDRESS: "10.0.0.1", Type.TIMESTAMP: NOW, Type.INT64: 7, Type.DURATION: 7}
ATOMS = {"source.ip", "source.port", "source.user", "source.principal"} | {
    name
    for name in LOGGED
    if name.split(".")[0] in ("request", "response")
    or name in ("connection.id", "connection.mtls", "connection.requested_server_name", "context.time")
} - set(HEADERS)
PLAIN = ATOMS | {"source.service", "source.name"}
RULES = """
apiVersion: config.istio.io/v1alpha2
kind: logentry
metadata: {name: newlog, namespace: istio-system}
spec: {severity: '"x"', variables: {ASKED}}
---
apiVersion: config.istio.io/v1alpha2
kind: stdio
metadata: {name: handler, namespace: istio-system}
spec: {}
---
apiVersion: config.istio.io/v1alpha2
kind: rule
metadata: {name: all, namespace: istio-system}
spec: {actions: [{handler: handler.stdio, instances: [newlog.logentry]}]}
"""


def lowered(text: str) -> Lowered:
    return lower(read(text), [ServiceKey("default", "ratings")])


def test_headers_are_found_whatever_their_case() -> None:
    line = Line({"request.headers:x-a": "1", "request.headers:x-b": None}, {})
    values = {"request.headers": line.value(Attribute("request.headers", Type.STRING_MAP))}
    asked = {'request.headers["X-A"]': "1", 'request.headers["x-b"] | "none"': "none", 'request.headers["x-b"]': ""}
    assert {text: evaluate(parse(text), values) for text in asked} == asked  # type: ignore[arg-type]


@pytest.mark.parametrize("missing", ["logentry", "stdio"])
def test_a_rule_waits_for_what_it_names(missing: str) -> None:
    text = "---".join(part for part in RULES.replace("ASKED", "").split("---") if f"kind: {missing}" not in part)
    found = lowered(text)
    assert found.security.logs == ()
    (fault,) = found.faults
    assert f"is inactive until there is {'newlog' if missing == 'logentry' else 'handler'}.{missing}" in fault.reason


def test_a_rule_of_another_namespace_is_for_its_own_services() -> None:
    own = lowered(RULES.replace("ASKED", "").replace("istio-system", "default")).security
    assert own.of_workload(ServiceKey("default", "ratings"), (), "istio-system").logs
    assert not own.of_workload(ServiceKey("other", "ratings"), (), "istio-system").logs


DURATIONS = {0: "0s", 250: "250µs", 6848: "6.848ms", 39_000: "39ms", 1_500_000: "1.5s", 61_000_000: "1m1s"}


@pytest.mark.parametrize(("microseconds", "text"), DURATIONS.items())
def test_durations_are_gos(microseconds: int, text: str) -> None:
    assert go_duration(timedelta(microseconds=microseconds)) == text


RECORD = Record(
    "newlog.logentry.istio-system",
    "WARNING",
    datetime(2017, 9, 21, 4, 33, 31, 249_000, UTC),
    {"latency": timedelta(microseconds=6848), "ip": ip_address("10.0.0.1"), "ok": True, "tag": "mine", "level": "x"},
)


def test_a_line_of_stdio() -> None:
    sink = Stdio("h", (("bad", Level.ERROR), ("warning", Level.WARNING)))
    text = (
        '{"level":"warn","ts":"2017-09-21T04:33:31.249Z","instance":"newlog.logentry.istio-system",'
        '"latency":"6.848ms","ip":"10.0.0.1","ok":true,"tag":"mine"}'
    )
    assert printed(sink, RECORD) == (Level.WARNING, text)
    plain = printed(Stdio("h", (), as_json=False), RECORD)
    assert plain[0] is Level.INFO
    assert plain[1].startswith("2017-09-21T04:33:31.249Z\tinfo\tnewlog.logentry.istio-system\t{")


def test_a_record_of_fluentd() -> None:
    tag, at, record = forwarded(Fluentd("h", "a", 1, whole_milliseconds=True), RECORD)
    assert (tag, at) == ("mine", RECORD.at)
    assert record == {"latency": 6, "ip": "10.0.0.1", "ok": True, "level": "x", "severity": "WARNING"}
    assert forwarded(Fluentd("h", "a", 1), RECORD)[2]["latency"] == "6.848ms"


def test_cel_as_text() -> None:
    tree = cel.both(cel.is_there(cel.name("a.b")), cel.call("_==_", cel.name("a"), cel.Constant("')%")))
    assert cel.text(tree) == "(has(a.b) && (a == '\\U00000027\\U00000029\\U00000025'))"
    assert cel.text(cel.within(cel.Constant("x"), cel.Table((("x", "y"),)))) == "('x' in {'x': 'y'})"
    assert cel.text(cel.at(cel.name("m"), cel.Constant(1))) == "m[(1)]"


def test_a_file_that_grows_too_fast_is_emptied_and_its_lines_counted(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_follow, "MAX_BACKLOG_BYTES", 100)
    path, told = tmp_path / "log", list[str]()
    log = EnvoyLog(path, tmp_path / "place", told.append)
    path.write_text("x\n" * 51)
    assert log.pass_on()
    assert (log.lost, told, path.read_text()) == (51, [], "")
    path.write_text("y\n")
    log.pass_on()
    assert told == ["y"]
    with path.open("a") as file:
        for _ in range(9):
            file.write("z" * 49 + "\n")
            file.flush()
            log.pass_on()
    assert path.stat().st_size <= 400
    assert (len(told), log.lost) == (9, 52), "what was read is not lost"
