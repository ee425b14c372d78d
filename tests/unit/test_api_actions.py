"""What a route's HTTP actions may hold and what they mean, in both generations."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agent.api.checks.regex import rewrite_problem
from agent.api.document import Document
from agent.api.lowering.lower import lower
from agent.api.problem import Verdict
from agent.api.validate import find_problems
from agent.mesh.actions import Abort, Delay, DirectResponse, HeaderChanges, Redirect, RetryPolicy, Rewrite
from agent.mesh.routes import Route
from agent.mesh.service import ServiceKey
from tests.unit.api_samples import one

REVIEWS, RATINGS = ServiceKey("default", "reviews"), ServiceKey("default", "ratings")
INVALID, UNSUPPORTED = Verdict.INVALID, Verdict.UNSUPPORTED

RULE = """
apiVersion: config.istio.io/v1alpha2
kind: RouteRule
metadata: {name: r}
spec: {destination: {name: reviews}}
"""
SERVICE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: r}
spec: {hosts: [reviews], http: [{}]}
"""
TO = [{"destination": {"host": "reviews"}}]


def changed(sample: str, fields: dict[str, Any]) -> Document:
    """Return a rule whose (first HTTP route's) spec has these fields too."""
    document = one(sample)
    spec = msgspec.json.decode(msgspec.json.encode(document.spec))
    (spec if sample is RULE else spec["http"][0]).update(fields)
    return msgspec.structs.replace(document, spec=spec)


def problems(sample: str, **fields: Any) -> list[tuple[Verdict, str]]:
    """Return the verdicts about a rule whose (first HTTP route's) spec has these fields too."""
    found = find_problems(changed(sample, fields))
    return [(problem.verdict, f"{problem.path}: {problem.reason}") for problem in found]


def lowered(sample: str, **fields: Any) -> Route:
    result = lower([changed(sample, fields)], (REVIEWS, RATINGS))
    assert result.faults == ()
    (route,) = result.policies[REVIEWS].routes
    return route


@pytest.mark.parametrize(
    ("fields", "verdict", "text"),
    [
        ({"redirect": {}}, INVALID, "spec.redirect: says nothing about where to"),
        ({"redirect": {"uri": "/x"}, "route": [{"weight": 100}]}, INVALID, "spec: redirect and route exclude"),
        ({"redirect": {"uri": "/x"}, "rewrite": {"uri": "/"}}, INVALID, "spec: redirect and rewrite exclude"),
        ({"redirect": {"uri": "/x"}, "websocketUpgrade": True}, INVALID, "redirect and websocketUpgrade exclude"),
        ({"redirect": {"uri": "/x"}, "mirror": {"name": "b"}}, UNSUPPORTED, "spec.mirror: cannot be honoured beside"),
        ({"rewrite": {}}, INVALID, "spec.rewrite: changes nothing"),
        ({"rewrite": {"uri": "/a\nb"}}, INVALID, "spec.rewrite.uri: has a control character"),
        ({"rewrite": {"uri": "/a", "uriRegexRewrite": {}}}, INVALID, "uriRegexRewrite: unknown field"),
        ({"httpReqTimeout": {"simpleTimeout": {}}}, INVALID, "simpleTimeout.timeout: is missing"),
        ({"httpReqTimeout": {"simpleTimeout": {"timeout": "-1s"}}}, INVALID, '"-1s" is not a duration'),
        ({"httpReqTimeout": {"simpleTimeout": {"timeout": 1}}}, INVALID, "timeout: must be a duration such as 5s"),
        ({"httpReqTimeout": {"custom": {}}}, UNSUPPORTED, "httpReqTimeout.custom: cannot be honoured"),
        (
            {"httpReqTimeout": {"simpleTimeout": {"timeout": "1s", "overrideHeaderName": "x-time"}}},
            UNSUPPORTED,
            '"x-time" cannot be honoured: Envoy reads this from x-envoy-upstream-rq-timeout-ms only',
        ),
        ({"httpReqRetries": {"simpleRetry": {"attempts": -1}}}, INVALID, "-1 is out of range"),
        (
            {"httpReqRetries": {"simpleRetry": {"attempts": 1, "overrideHeaderName": "x"}}},
            UNSUPPORTED,
            "Envoy reads this from x-envoy-max-retries only",
        ),
        ({"httpFault": {}}, UNSUPPORTED, "spec.httpFault: has neither delay nor abort"),
        ({"httpFault": {"delay": {"percent": 101}}}, INVALID, "percent: 101 is out of range (0 to 100)"),
        ({"httpFault": {"delay": {"percent": 10}}}, INVALID, "delay: has no fixedDelay: it delays nothing"),
        ({"httpFault": {"delay": {"exponentialDelay": "1s"}}}, INVALID, "Envoy delays by a fixed time only"),
        ({"httpFault": {"abort": {"http2Error": "x"}}}, UNSUPPORTED, "Envoy aborts with a status only"),
        ({"httpFault": {"abort": {"httpStatus": 9000}}}, INVALID, "9000 is out of range (0 to 600)"),
        ({"httpFault": {"abort": {"httpStatus": 101}}}, UNSUPPORTED, "101 is no answer that Envoy gives"),
        ({"httpFault": {"abort": {"percent": 5}}}, UNSUPPORTED, "it aborts nothing"),
        ({"httpFault": {"abort": {"httpStatus": 500, "grpcStatus": "OK"}}}, INVALID, "exclude each other"),
        (
            {"httpFault": {"delay": {"fixedDelay": "1s", "overrideHeaderName": "x"}}},
            UNSUPPORTED,
            "delay.overrideHeaderName: cannot be honoured",
        ),
        ({"mirror": {}}, INVALID, "spec.mirror.name: is missing"),
        ({"corsPolicy": {"allowMethods": ["GET", "PUTT"]}}, INVALID, '"PUTT" is not allowed'),
        ({"corsPolicy": {"allowHeaders": ["Content-Type"]}}, INVALID, "write content-type"),
        ({"corsPolicy": {"maxAge": "1.5s"}}, INVALID, "1.5s is not a whole number of seconds"),
        ({"appendHeaders": {"name": ""}}, INVALID, "appendHeaders.name: is empty"),
        ({"appendHeaders": {"": "x"}}, INVALID, "is not a header name"),
        ({"appendHeaders": {"x": "50%"}}, INVALID, "has a single %"),
        ({"appendHeaders": {"x": "%NO_SUCH_THING%"}}, UNSUPPORTED, "%NO_SUCH_THING% is not an operator"),
        ({"route": [{"destination": {}}]}, INVALID, "spec.route[0].destination.name: is missing"),
    ],
)
def test_refused_in_a_route_rule(fields: dict[str, Any], verdict: Verdict, text: str) -> None:
    assert any(each[0] is verdict and text in each[1] for each in problems(RULE, **fields)), problems(RULE, **fields)


@pytest.mark.parametrize(
    ("fields", "verdict", "text"),
    [
        ({"redirect": {"uri": "/", "redirectCode": 400}}, INVALID, "400 is out of range"),
        ({"redirect": {"uri": "/", "redirectCode": 305}}, UNSUPPORTED, "redirectCode 305 cannot be honoured"),
        ({"redirect": {"port": 1, "derivePort": "FROM_REQUEST_PORT"}}, INVALID, "port and derivePort exclude"),
        ({"redirect": {"scheme": "ftp"}}, INVALID, '"ftp" is not allowed (one of http, https)'),
        ({"redirect": {"uri": "/"}, "fault": {"abort": {"httpStatus": 500}}}, INVALID, "redirect and fault exclude"),
        ({"redirect": {"uri": "/"}, "timeout": "1s"}, UNSUPPORTED, ".timeout: cannot be honoured beside redirect"),
        ({"redirect": {"uri": "/"}, "headers": {"request": {"remove": ["x"]}}}, UNSUPPORTED, ".headers.request"),
        ({"directResponse": {"status": 199}}, INVALID, "199 is out of range (200 to 600)"),
        ({"directResponse": {"status": 200, "body": {"bytes": "é"}}}, INVALID, "body.bytes: is not base64"),
        ({"directResponse": {"status": 200, "body": {"string": "x" * 2**21}}}, INVALID, "has 2097152 bytes"),
        ({"directResponse": {"status": 200}, "rewrite": {"uri": "/"}}, INVALID, "directResponse and rewrite exclude"),
        ({"route": TO, "redirect": {"uri": "/"}}, INVALID, "route and redirect exclude each other"),
        ({"route": TO, "rewrite": {"uriRegexRewrite": {"match": "["}}}, INVALID, "uriRegexRewrite.rewrite: is missing"),
        (
            {"route": TO, "rewrite": {"uriRegexRewrite": {"match": "(a)(?:b)", "rewrite": "\\2"}}},
            UNSUPPORTED,
            "\\2 is a group that the expression has not (it has 1)",
        ),
        (
            {"route": TO, "rewrite": {"authority": "a"}, "headers": {"request": {"set": {"Host": "b"}}}},
            INVALID,
            "the host is set 2 times",
        ),
        ({"route": TO, "timeout": "0s"}, INVALID, "at least 1ms"),
        ({"route": TO, "retries": {"attempts": 0, "retryOn": "5xx"}}, INVALID, "but attempts is 0"),
        ({"route": TO, "retries": {"attempts": 1, "retryOn": "5xx, reset"}}, INVALID, '" reset" is no condition'),
        ({"route": TO, "retries": {"attempts": 1, "perTryTimeout": "0.000000999s"}}, INVALID, "perTryTimeout"),
        ({"route": TO, "fault": {}}, INVALID, "fault: has neither delay nor abort"),
        (
            {"route": TO, "fault": {"delay": {"fixedDelay": "3s", "percentage": {"value": 0.00001}}}},
            INVALID,
            "is too small",
        ),
        ({"route": TO, "fault": {"abort": {"grpcStatus": "BAD_STATUS"}}}, INVALID, '"BAD_STATUS" is not allowed'),
        (
            {"route": TO, "mirror": {"host": "a"}, "mirrors": [{"destination": {"host": "a"}}]},
            INVALID,
            "mirror and mirrors exclude each other",
        ),
        ({"route": TO, "mirrorPercentage": {"value": 1}}, UNSUPPORTED, "there is no mirror beside it"),
        ({"route": TO, "mirror": {"host": "a"}, "mirrorPercentage": {"value": 101}}, INVALID, "101 is out of range"),
        ({"route": TO, "mirrors": [{}]}, INVALID, "mirrors[0].destination: is missing"),
        ({"route": TO, "corsPolicy": {"allowOrigins": [{}]}}, INVALID, "must be one of exact, prefix, regex"),
        ({"route": TO, "corsPolicy": {"allowOrigins": [{"regex": "("}]}}, INVALID, "is not an RE2 expression"),
        ({"route": TO, "headers": {"response": {"set": {"host": "x"}}}}, INVALID, '"host" cannot be changed here'),
        ({"route": TO, "headers": {"request": {"remove": [":path"]}}}, INVALID, '":path" cannot be changed here'),
        ({"route": TO, "headers": {"request": {"add": {"x": "a%b"}}}}, INVALID, "has a single %"),
        ({"route": TO, "appendHeaders": {"x": "y"}}, UNSUPPORTED, "has gone from Istio"),
    ],
)
def test_refused_in_a_virtual_service(fields: dict[str, Any], verdict: Verdict, text: str) -> None:
    found = problems(SERVICE, **fields)
    assert any(each[0] is verdict and text in each[1] for each in found), found


@pytest.mark.parametrize(
    ("sample", "fields", "is_in_force"),
    [
        (RULE, {"httpFault": {"delay": {"fixedDelay": "1s", "overrideHeaderName": "x"}}}, True),
        (RULE, {"httpReqTimeout": {"simpleTimeout": {"timeout": "1s", "overrideHeaderName": "x"}}}, True),
        (RULE, {"httpReqRetries": {"custom": {}}}, True),
        (RULE, {"appendHeaders": {"x": "%NO_SUCH_THING%"}}, True),
        (SERVICE, {"redirect": {"uri": "/", "redirectCode": 305}}, False),
        (SERVICE, {"redirect": {"uri": "/"}, "headers": {"request": {"remove": ["x"]}}}, True),
        (SERVICE, {"route": TO, "mirrorPercent": 1}, True),
        (SERVICE, {"route": TO, "rewrite": {"uriRegexRewrite": {"match": "a", "rewrite": "\\2"}}}, True),
        (SERVICE, {"route": TO, "headers": {"response": {"set": {"x": "%NO_SUCH_THING%"}}}}, True),
        (SERVICE, {"delegate": {"name": "x"}}, False),
    ],
)
def test_what_stays_in_force_without_what_cannot_be_honoured(
    sample: str, fields: dict[str, Any], is_in_force: bool
) -> None:
    result = lower([changed(sample, fields)], (REVIEWS,))
    assert bool(result.policies) is is_in_force
    assert result.faults


def test_route_rule_defaults() -> None:
    route = lowered(RULE)
    assert route.actions.timeout_seconds == 15.0
    assert route.actions.retries is None
    assert [weighted.weight for weighted in route.destinations] == [100]


def test_virtual_service_defaults() -> None:
    route = lowered(SERVICE, route=TO)
    assert route.actions.timeout_seconds is None
    assert route.actions.retries is None


def test_both_generations_mean_the_same() -> None:
    old = lowered(
        RULE,
        rewrite={"uri": "/new", "authority": "other"},
        httpReqTimeout={"simpleTimeout": {"timeout": "1m30s"}},
        httpFault={"delay": {"percent": 10, "fixedDelay": "7.000s"}, "abort": {"httpStatus": 400}},
        mirror={"name": "ratings"},
        corsPolicy={"allowOrigin": ["*"], "maxAge": "5s", "allowCredentials": True},
        appendHeaders={"x-a": "1"},
    )
    new = lowered(
        SERVICE,
        route=TO,
        rewrite={"uri": "/new", "authority": "other"},
        timeout="90s",
        fault={"delay": {"percentage": {"value": 10}, "fixedDelay": "7s"}, "abort": {"httpStatus": 400}},
        mirror={"host": "ratings"},
        corsPolicy={"allowOrigins": [{"exact": "*"}], "maxAge": "5s", "allowCredentials": True},
        headers={"request": {"add": {"X-A": "1"}}},
    )
    assert old.actions == new.actions
    assert old.mirrors == new.mirrors
    assert old.destinations == new.destinations
    assert old.actions.delay == Delay(7.0, 10.0)
    assert old.actions.abort == Abort(400)
    assert old.actions.rewrite == Rewrite("/new")
    assert old.actions.headers.authority == "other"


def test_retries() -> None:
    old = lowered(RULE, httpReqRetries={"simpleRetry": {"attempts": 3, "perTryTimeout": "250ms"}})
    assert old.actions.retries == RetryPolicy(3, ("5xx", "connect-failure", "refused-stream"), per_try_seconds=0.25)
    new = lowered(SERVICE, route=TO, retries={"attempts": 2, "retryOn": "503,reset", "backoff": "10ms"})
    assert new.actions.retries == RetryPolicy(2, ("reset", "retriable-status-codes"), (503,), backoff_seconds=0.01)
    assert lowered(SERVICE, route=TO, retries={}).actions.retries == RetryPolicy(0)


def test_answers() -> None:
    assert lowered(RULE, redirect={"uri": "/x"}).actions.answer == Redirect(path="/x")
    assert lowered(RULE, redirect={"uri": "/x"}).destinations == ()
    redirect = {"uri": "%PREFIX()%/v2", "redirectCode": 302, "derivePort": "FROM_REQUEST_PORT"}
    assert lowered(SERVICE, redirect=redirect).actions.answer == Redirect(302, keeps_port=True, prefix="/v2")
    response = {"status": 418, "body": {"bytes": "aGk="}}
    assert lowered(SERVICE, directResponse=response).actions.answer == DirectResponse(418, b"hi")


def test_shares() -> None:
    fault = {"delay": {"fixedDelay": "1s"}, "abort": {"httpStatus": 500, "percentage": {"value": 0}}}
    actions = lowered(SERVICE, route=TO, fault=fault).actions
    assert actions.delay == Delay(1.0, 100.0)
    assert actions.abort == Abort(500, percent=0.0)
    mirrored = lowered(SERVICE, route=TO, mirror={"host": "ratings"}, mirrorPercent=7)
    assert [mirror.percent for mirror in mirrored.mirrors] == [7.0]
    several = [{"destination": {"host": "ratings"}}, {"destination": {"host": "ratings"}, "percentage": {"value": 1}}]
    assert [mirror.percent for mirror in lowered(SERVICE, route=TO, mirrors=several).mirrors] == [100.0, 1.0]


def test_other_destination_of_a_route_rule() -> None:
    route = lowered(
        RULE, route=[{"weight": 30, "destination": {"name": "ratings"}, "labels": {"v": "1"}}, {"weight": 70}]
    )
    assert [(w.destination.service, w.weight) for w in route.destinations] == [(RATINGS, 30), (REVIEWS, 70)]


def test_header_names_lose_their_case_and_the_host_is_the_authority() -> None:
    changes = {"set": {"X-B": "2", ":Authority": "h", "x-a": ""}, "remove": ["X-C", "x-c"]}
    headers = lowered(SERVICE, route=TO, headers={"request": changes}).actions.headers
    assert headers.request == HeaderChanges(set=(("x-a", ""), ("x-b", "2")), remove=("x-c",))
    assert headers.authority == "h"


@pytest.mark.parametrize(
    ("pattern", "substitution", "fine"),
    [
        ("(a)(b)", r"\2\1\0\\", True),
        ("(?P<x>a)", r"\1", True),
        ("(?:a)", r"\1", False),
        ("(?i)a", r"\1", False),
        (r"\(a\)[(]", r"\1", False),
        ("a", "\\", False),
        ("a", r"\x", False),
    ],
)
def test_substitutions(pattern: str, substitution: str, fine: bool) -> None:
    assert (rewrite_problem(pattern, substitution) is None) is fine
