"""Access logs: what formats, filters and settings may say, and which of them a workload has."""

from __future__ import annotations

import pytest

from agent.api.checks.cel_syntax import cel_problem
from agent.api.checks.log_format import format_problem
from agent.api.problem import Verdict
from agent.api.settings import parse_settings, set_field
from agent.api.validate import find_problems
from agent.errors import ValidationError
from agent.mesh.access_log import line_format
from agent.mesh.settings import MeshSettings
from tests.golden.accepted_expressions import ACCEPTED
from tests.unit.api_samples import one

REFUSED = {
    "": "missing at its end",
    "a ==": "missing at its end",
    "(a": ") is missing",
    "a b": "b is too much",
    "[1, 2": "missing at its end",
    "foo(1)": "foo() with 1 arguments is not known",
    "string(1) == '1'": "string() with 1 arguments is not known",
    "a.b.c()": ".c() with 0 arguments is not known",
    "a.exists(x, x == 'b')": ".exists() with 2 arguments is not known",
    "request.path.matches('(')": "matches:",
    "has(1)": "has() takes a field",
    "has(a)": "has() takes a field",
    "google.rpc.X{a: 1}": "{ is too much",
    "'\\q' == a": "has an escape that is not known",
    "a = b": "= b cannot be read",
    "a.'b'": "a name is missing",
    "!-a": "a name is missing",
    "for == 1": "a name is missing",
    "a ? b": ": is missing",
    "(" * 100 + "a" + ")" * 100: "nested too deeply",
    "a" * 5000: "longer than",
    "99999999999999999999 > a": "is too large",
}


@pytest.mark.parametrize(("expression", "reason"), REFUSED.items(), ids=range(len(REFUSED)))
def test_what_envoy_would_not_take_is_refused(expression: str, reason: str) -> None:
    said = cel_problem(expression)
    assert said is not None
    assert reason in said


@pytest.mark.parametrize("expression", ACCEPTED)
def test_what_it_takes_passes(expression: str) -> None:
    assert cel_problem(expression) is None


def test_an_entry_whose_filter_cannot_be_had_is_refused_whole() -> None:
    head = "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {name: a}\n"
    spec = "spec: {accessLogging: [{providers: [{name: envoy}], filter: {expression: 'x.all(a, b)'}}]}"
    (problem,) = find_problems(one(head + spec))
    assert (problem.verdict, problem.path) == (Verdict.UNSUPPORTED, "spec.accessLogging[0]")


@pytest.mark.parametrize("text", [line_format().text, "%REQ(X?:PATH):10%%% %START_TIME%", "", "plain"])
def test_formats(text: str) -> None:
    assert format_problem(text) is None


@pytest.mark.parametrize("text", ["%", "%FOO%", "%REQ%", "%DURATION", "100 % %DURATION%", "%CEL(a)%", "%PATH(X)%"])
def test_formats_that_envoy_would_not_take(text: str) -> None:
    assert format_problem(text) is not None


WRONG = {
    "accessLogFile: /var/log/x": "is not /dev/stdout: access logs go to the host's journal",
    "accessLogFormat: '%NOPE%'": "%NOPE% is not a command",
    "{accessLogEncoding: JSON, accessLogFormat: '%DURATION%'}": "must be a JSON object of formats",
    '{accessLogEncoding: JSON, accessLogFormat: \'{"a": "%NOPE%"}\'}': "a: %NOPE% is not a command",
    "extensionProviders: [{name: a, envoyFileAccessLog: {path: /x}}]": "envoyFileAccessLog.path",
    "extensionProviders: [{name: a, envoyFileAccessLog: {path: /dev/stdout, logFormat: {text: '%'}}}]": "single %",
}


@pytest.mark.parametrize(("text", "reason"), WRONG.items())
def test_settings_that_cannot_be_had(text: str, reason: str) -> None:
    with pytest.raises(ValidationError) as refused:
        parse_settings(text, "mesh")
    assert reason in str(refused.value)


def test_settings_from_the_command_line() -> None:
    settings = set_field(MeshSettings(), "accessLogFile", "/dev/stdout")
    settings = set_field(settings, "accessLogEncoding", "JSON")
    settings = set_field(settings, "accessLogFormat", '{"path": "%REQ(:PATH)%"}')
    assert settings.access_log_file == "/dev/stdout"
    assert settings.access_log_format == '{"path": "%REQ(:PATH)%"}'
