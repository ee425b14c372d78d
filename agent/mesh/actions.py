"""What a route does to a request beside choosing where it goes; both generations of the API lower to these. Pure."""

from __future__ import annotations

from msgspec import Struct


class HeaderChanges(Struct, frozen=True):
    """Changes of a header block, names in lower case; values may hold Envoy's `%OPERATOR%`, and `%%` for `%`."""

    set: tuple[tuple[str, str], ...] = ()
    add: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()


class Headers(Struct, frozen=True):
    """Changes of a request's and its answer's headers."""

    request: HeaderChanges = HeaderChanges()
    response: HeaderChanges = HeaderChanges()
    authority: str = ""
    """The Host that the destination sees; empty: the caller's."""


class Redirect(Struct, frozen=True):
    """Answer with a redirection; what is None or empty stays as in the request."""

    code: int = 301
    scheme: str = ""
    authority: str = ""
    port: int | None = None
    keeps_port: bool = False
    """Name the port that the caller used."""
    path: str = ""
    """Replaces the whole path (and the query, if it has one itself)."""
    prefix: str = ""
    """Replaces the part of the path that the match names."""


class DirectResponse(Struct, frozen=True):
    """Answer at once with this."""

    status: int
    body: bytes = b""


class Rewrite(Struct, frozen=True):
    """Change the path: the part that the match names becomes `prefix`, or `pattern` (RE2) becomes `substitution`."""

    prefix: str = ""
    pattern: str = ""
    substitution: str = ""


class RetryPolicy(Struct, frozen=True):
    """When and how often a failed request is tried again."""

    attempts: int
    """Tries after the first one; 0: none at all."""
    on: tuple[str, ...] = ()
    """Envoy's conditions."""
    status_codes: tuple[int, ...] = ()
    per_try_seconds: float | None = None
    backoff_seconds: float | None = None
    """The first pause, which doubles; None: 25 ms."""
    other_localities: bool = False
    """Prefer instances of other localities than those tried."""
    other_hosts: bool = True
    """Prefer instances other than those tried."""


class Delay(Struct, frozen=True):
    """Hold a share of the requests back."""

    seconds: float
    percent: float = 100.0


class Abort(Struct, frozen=True):
    """Answer a share of the requests with an error, by HTTP status or by gRPC status."""

    http_status: int | None = None
    grpc_status: int | None = None
    percent: float = 100.0


class CorsPolicy(Struct, frozen=True):
    """Which pages of other origins may call; browsers ask by preflight requests, which are answered here."""

    origins: tuple[tuple[str, str], ...] = ()
    """(exact | prefix | regex, value); exact `*` is any."""
    methods: tuple[str, ...] = ()
    allow_headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    max_age_seconds: int | None = None
    credentials: bool | None = None
    forwards_unmatched: bool = True
    """A preflight of an unknown origin goes on to the destination."""


class HttpActions(Struct, frozen=True):
    """All that a route does to a request."""

    answer: Redirect | DirectResponse | None = None
    """Given instead of sending the request anywhere."""
    rewrite: Rewrite | None = None
    headers: Headers = Headers()
    timeout_seconds: float | None = None
    """Until the whole answer; None: no limit."""
    retries: RetryPolicy | None = None
    """None: what the mesh does without a rule."""
    delay: Delay | None = None
    abort: Abort | None = None
    cors: CorsPolicy | None = None

    @classmethod
    def empty(cls) -> HttpActions:
        """Return the actions of a route that changes nothing."""
        return cls()


LOST = HttpActions(DirectResponse(503))
"""What is done where none of a route's destinations is there: requests are answered, connections closed."""
