"""An active check as a value of the catalog's service meta: JSON, so that other programs can register one. Pure.

`{"http": "/healthz", "port": 9080, "interval": 1, "timeout": 1, "failures": 1}`; `"grpc": "SERVICE"` or `"tcp": true`
in place of `http`; times in seconds. Everything but the kind has a default.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from agent.mesh.service import ActiveCheck, CheckKind

_STANDARD = ActiveCheck()


class _Written(Struct, forbid_unknown_fields=True, omit_defaults=True):
    http: Annotated[str, Meta(pattern=r"^/[!-~]{0,255}\Z")] | None = None
    grpc: Annotated[str, Meta(pattern=r"^[ -~]{0,128}\Z")] | None = None
    tcp: bool = False
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    interval: Annotated[float, Meta(ge=0.1, le=3600)] = _STANDARD.interval
    timeout: Annotated[float, Meta(ge=0.001, le=3600)] = _STANDARD.timeout
    failures: Annotated[int, Meta(ge=1, le=100)] = _STANDARD.failures

    @property
    def kinds(self) -> list[tuple[CheckKind, str]]:
        given = [(CheckKind.HTTP, self.http), (CheckKind.GRPC, self.grpc), (CheckKind.TCP, "" if self.tcp else None)]
        return [(kind, target) for kind, target in given if target is not None]


_DECODER = msgspec.json.Decoder(_Written)


def written(check: ActiveCheck) -> str:
    """Return the meta value of a check."""
    value = _Written(
        http=check.target if check.kind is CheckKind.HTTP else None,
        grpc=check.target if check.kind is CheckKind.GRPC else None,
        tcp=check.kind is CheckKind.TCP,
        port=check.port,
        interval=check.interval,
        timeout=check.timeout,
        failures=check.failures,
    )
    return msgspec.json.encode(value).decode()


def read(text: str, port: int) -> ActiveCheck | str:
    """Return the check that a meta value says, for this port unless it names another; or what is wrong with it."""
    try:
        value = _DECODER.decode(text)
    except (msgspec.DecodeError, UnicodeError) as error:
        return f"meta hostmesh-active-check can't be read: {str(error)[:120]}"
    if len(value.kinds) != 1:
        return 'meta hostmesh-active-check must have one of "http", "grpc" and "tcp"'
    ((kind, target),) = value.kinds
    return ActiveCheck(kind, target, value.port or port, value.interval, value.timeout, value.failures)
