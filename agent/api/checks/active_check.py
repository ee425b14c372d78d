"""`activeCheck` of a service: how callers' Envoys look by themselves whether an instance serves. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agent.api.checks import words
from agent.api.checks.schema import Check, Report, boolean, either, integer, message, text
from agent.api.problem import one_line
from agent.mesh.service import ActiveCheck, CheckKind, Port

LEAST_INTERVAL_SECONDS = 0.1
"""Every calling host looks at every instance so often."""
_KINDS = tuple(kind.value for kind in CheckKind if kind)


def url_path(value: str) -> str | None:
    """Want the path of a URL."""
    if value.startswith("/") and value.isprintable() and " " not in value and len(value) <= 256:
        return None
    return f'"{one_line(value, 60)}" is not a path (it begins with "/")'


def _grpc_service(value: str) -> str | None:
    return None if value.isprintable() and len(value) <= 128 else "is no name of a gRPC service"


def _interval(value: str) -> str | None:
    wrong = words.duration(value)
    if wrong or words.seconds(value) >= LEAST_INTERVAL_SECONDS:
        return wrong
    return f"{value} is too short (at least {LEAST_INTERVAL_SECONDS * 1000:g}ms: every calling host looks so often)"


def _whole(report: Report, path: str, check: dict[str, Any]) -> None:
    given = [kind for kind in _KINDS if check.get(kind) not in (None, False)]
    if len(given) != 1:
        report.invalid(path, "give one of http: /path, grpc: SERVICE ('' for the whole server), tcp: true")


ACTIVE_CHECK: Check = message(
    {
        "http": text(url_path),
        "grpc": text(_grpc_service, empty=True),
        "tcp": boolean,
        "port": integer(1, 65535),
        "interval": either("a duration such as 1s", text=text(_interval)),
        "timeout": either("a duration such as 1s", text=text(words.duration)),
        "failures": integer(1, 100),
    },
    also=_whole,
)


def read_active_check(check: Mapping[str, Any] | None, ports: Iterable[Port]) -> ActiveCheck:
    """Return a check that validation found nothing wrong with; it looks at the first port unless it says otherwise."""
    if check is None:
        return ActiveCheck()
    given = {key: value for key, value in check.items() if value is not None and value is not False}
    kind = next(CheckKind(kind) for kind in _KINDS if kind in given)
    standard = ActiveCheck()
    return ActiveCheck(
        kind=kind,
        target=given[kind] if kind is not CheckKind.TCP else "",
        port=given.get("port") or next(iter(ports)).number,
        interval=words.seconds(given["interval"]) if "interval" in given else standard.interval,
        timeout=words.seconds(given["timeout"]) if "timeout" in given else standard.timeout,
        failures=given.get("failures", standard.failures),
    )
