"""Random rule sets and requests, small enough in vocabulary that rules overlap and requests meet them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.integration.routing_reference import Request

Strategy = st.SearchStrategy[Any]

_NAMES = ("reviews", "ratings")
"""The services that rules are about; they send to others, too."""
_COOKIE = r"^(.*?;)?\s*(user=jason)(;.*)?$"


def _some(strategies: dict[str, Strategy]) -> Strategy:
    return st.fixed_dictionaries({}, optional=strategies)


def _weighted(*parts: tuple[int, Strategy]) -> Strategy:
    """Draw from the strategies by weight (one_of would take the same one given twice for one)."""
    return st.sampled_from([strategy for weight, strategy in parts for _ in range(weight)]).flatmap(lambda drawn: drawn)


def _few(strategies: dict[str, Strategy]) -> Strategy:
    """Draw one or two of the fields, seldom three: a match with many conditions meets no request."""
    one = st.one_of(*(strategy.map(_as(name)) for name, strategy in strategies.items()))
    several = _weighted((4, st.tuples(one)), (2, st.tuples(one, one)), (1, st.tuples(one, one, one)))
    return several.map(lambda fields: {name: value for field in fields for name, value in field.items()})


def _from(strategy: Strategy, least: int, most: int) -> Strategy:
    """Draw lists of all lengths alike (hypothesis itself prefers short ones)."""
    counts = st.sampled_from(range(least, most + 1))
    return counts.flatmap(lambda count: st.lists(strategy, min_size=count, max_size=count))


def _as(key: str) -> Any:
    return lambda value: {key: value}


_VALUES = st.one_of(
    st.sampled_from(["", "a", "A", "ab", "a,b"]).map(lambda value: {"exact": value}),
    st.sampled_from(["a", "b", "user="]).map(lambda value: {"prefix": value}),
    st.sampled_from(["a.*", "[a-z]+", "a|b", "(?i)a", ".+,b", _COOKIE]).map(lambda value: {"regex": value}),
)
_SCALARS = st.sampled_from(["a", "ab"])
_HEADER_NAMES = st.sampled_from(["foo", "X-User", "cookie"])
_HEADER_NAMES_OF_OLD = st.sampled_from(["foo", "x-user", "cookie"])
_URIS = st.one_of(
    st.sampled_from(["/", "/a", "/A/b", "/a/b", "/a%20b", "/a%2Fb", "/a;v=1"]).map(lambda value: {"exact": value}),
    st.sampled_from(["/", "/a", "/a/", "/A", "/a%2F"]).map(lambda value: {"prefix": value}),
    st.sampled_from(["/a.*", "/[a-z]+", "/(a|b)/b", "/a(/.*)?", ".*b", "(?i)/a"]).map(lambda value: {"regex": value}),
)
_METHODS = st.one_of(st.sampled_from([{"exact": "GET"}, {"prefix": "P"}, {"regex": "P.*|GET"}, {"exact": "get"}]))
_AUTHORITIES = st.sampled_from([{"exact": "reviews"}, {"prefix": "r"}, {"regex": ".*:[0-9]+"}, {"exact": "REVIEWS"}])
_SCHEMES = st.sampled_from([{"exact": "http"}, {"exact": "https"}])
_LABELS = st.sampled_from([{"version": "v1"}, {"version": "v2"}, {"app": "page", "version": "v1"}, {"env": "x"}])

# The first generation.

_INSTANCES = st.sampled_from(
    [{}, {"track": "stable"}, {"track": "stable", "version": "v2"}]
    + [{"version": version} for version in ("v1", "v2", "v3", "v9")]
)
_OTHER = st.sampled_from(
    [{"name": "details"}, {"name": "ratings", "namespace": "other"}, {"service": "ratings.default.svc.cluster.local"}]
)
_ROUTE = st.fixed_dictionaries({}, optional={"labels": _INSTANCES, "destination": _OTHER})
_ROUTES: Strategy = st.one_of(
    st.just([]),
    _ROUTE.map(lambda route: [route]),
    st.tuples(_ROUTE, _ROUTE).map(lambda two: [{**two[0], "weight": 100}, {**two[1], "weight": 0}]),
    st.tuples(_ROUTE, _ROUTE).map(lambda two: [{**two[0], "weight": 0}, {**two[1], "weight": 100}]),
)
_SOURCES = st.sampled_from(
    [{"name": "page"}, {"name": "reviews"}, {"name": "page", "namespace": "other"}]
    + [{"name": "page", "labels": {"version": version}} for version in ("v1", "v2")]
)
_OLD_HEADERS = st.dictionaries(_HEADER_NAMES_OF_OLD, st.one_of(_VALUES, _SCALARS), min_size=1, max_size=2)
_OLD_REQUEST = _weighted(
    (3, _few({"uri": _URIS})),
    (1, _few({"uri": _URIS, "method": _METHODS, "authority": _AUTHORITIES, "scheme": _SCHEMES})),
    (2, _OLD_HEADERS),
    (1, st.tuples(_few({"uri": _URIS, "method": _METHODS}), _OLD_HEADERS).map(lambda two: {**two[0], **two[1]})),
).map(lambda headers: {"request": {"headers": headers}})
_OLD_MATCH = _weighted(
    (4, _OLD_REQUEST),
    (1, _SOURCES.map(_as("source"))),
    (1, st.tuples(_SOURCES, _OLD_REQUEST).map(lambda two: {"source": two[0], **two[1]})),
)
_OLD_REDIRECTS = st.sampled_from([{"uri": "/new"}, {"uri": "/new", "authority": "elsewhere.example"}])


def _route_rule(name: str) -> Strategy:
    return st.builds(
        lambda optional, action: {"destination": {"name": name}, **optional, **action},
        _weighted(
            (6, st.fixed_dictionaries({"precedence": st.integers(-1, 4), "match": _OLD_MATCH})),
            (1, _some({"precedence": st.integers(-1, 4), "match": _OLD_MATCH})),
        ),
        _weighted((5, _ROUTES.map(_as("route"))), (1, _OLD_REDIRECTS.map(_as("redirect")))),
    )


# The second generation.

_TARGETS = st.sampled_from(
    [{"host": "reviews", "subset": subset} for subset in ("v1", "v2", "stable", "nobody", "undeclared")]
    + [{"host": "ratings.default.svc.cluster.local", "subset": "v1"}, {"host": "ratings.other"}, {"host": "details"}]
    + [{"host": "reviews"}, {"host": "absent"}]
)


def _virtual_service(name: str, ports: tuple[int, ...]) -> Strategy:
    numbers = st.sampled_from(ports).map(lambda number: {"number": number})
    target = st.builds(lambda host, port: {**host, **port}, _TARGETS, _some({"port": numbers}))
    routes = st.one_of(
        target.map(lambda one: [{"destination": one}]),
        st.tuples(target, target).map(
            lambda two: [{"destination": two[0], "weight": 100}, {"destination": two[1], "weight": 0}]
        ),
        st.tuples(target, target).map(lambda two: [{"destination": two[0]}, {"destination": two[1], "weight": 1}]),
    )
    headers = st.dictionaries(_HEADER_NAMES, st.one_of(_VALUES, st.just({})), min_size=1, max_size=2)
    match = _few(
        {
            "uri": _URIS,
            "method": _METHODS,
            "authority": _AUTHORITIES,
            "scheme": _SCHEMES,
            "headers": headers,
            "withoutHeaders": st.dictionaries(_HEADER_NAMES, st.one_of(_VALUES, st.just({})), min_size=1, max_size=1),
            "queryParams": st.dictionaries(
                st.sampled_from(["k", "K"]),
                st.sampled_from(
                    [{"exact": "1"}, {"exact": ""}, {"prefix": "1"}, {"regex": "[0-9]+"}, {"exact": "a b"}]
                ),
                min_size=1,
                max_size=2,
            ),
            "port": st.sampled_from(ports),
            "sourceLabels": _LABELS,
            "sourceNamespace": st.sampled_from(["default", "other"]),
            "gateways": st.sampled_from([["mesh"], ["a-gateway"], ["a-gateway", "mesh"]]),
        }
    )
    caseless = st.tuples(match, _URIS).map(lambda two: {**two[0], "uri": two[1], "ignoreUriCase": True})
    matches = st.lists(_weighted((3, match), (1, caseless)), min_size=1, max_size=2).map(_as("match"))
    redirects = [{"uri": "/new"}, {"uri": "/new", "redirectCode": 302}, {"authority": "elsewhere.example"}]
    action = _weighted(
        (8, routes.map(_as("route"))),
        (1, st.sampled_from(redirects).map(_as("redirect"))),
        (1, st.sampled_from([200, 418, 503]).map(lambda status: {"directResponse": {"status": status}})),
    )
    http = _from(
        st.builds(lambda when, does: {**when, **does}, _weighted((8, matches), (1, st.just({}))), action),
        1,
        7,
    )
    return http.map(lambda routes: {"hosts": [name], "gateways": ["mesh", "a-gateway"], "http": routes})


_SUBSETS = [{"name": version, "labels": {"version": version}} for version in ("v1", "v2")]
_SUBSETS += [{"name": "stable", "labels": {"track": "stable"}}, {"name": "nobody", "labels": {"version": "v9"}}]


def _object(version: str, kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": "default"}, "spec": spec}


@st.composite
def rule_sets(draw: st.DrawFn, ports: tuple[int, ...]) -> list[dict[str, Any]]:
    """Draw the objects of both generations about two services; a service may have both."""
    objects = [
        _object("networking.istio.io/v1", "DestinationRule", name, {"host": name, "subsets": subsets})
        for name, subsets in (("reviews", _SUBSETS), ("ratings", _SUBSETS[:2]))
    ]
    for name in _NAMES:
        kinds = draw(st.sampled_from([("old",), ("old",), ("old",), ("new",), ("new",), ("new",), ("old", "new"), ()]))
        if "old" in kinds:
            rules = draw(_from(_route_rule(name), 1, 7))
            letters = draw(st.permutations("abcdefg"))
            objects += [
                _object("config.istio.io/v1alpha2", "RouteRule", f"{name}-{letter}", rule)
                for letter, rule in zip(letters, rules, strict=False)
            ]
        if "new" in kinds:
            spec = draw(_virtual_service(name, ports))
            objects.append(_object("networking.istio.io/v1", "VirtualService", name, spec))
    return objects


CALLER_LABELS = st.sampled_from([{"app": "page", "version": "v1"}, {"version": "v2"}, {}])

_TARGETS_OF_REQUESTS = st.builds(
    str.__add__,
    st.sampled_from(["/", "/a", "/A", "/a/b", "/A/b", "/ab", "/a/", "/b", "/b/b", "/new"])
    | st.sampled_from(["/a%20b", "/a%2Fb", "/a%2fb", "/a//b", "/a/../b", "/a;v=1"]),
    st.sampled_from(["", "", "", "?", "?k=1", "?k", "?k=", "?k=1&k=2", "?k=2&k=1", "?K=1", "?k=a%20b", "?x=/a&k=12"]),
)
_COOKIES = ["user=jason", "a=b; user=jason", "a=b;user=jason;c=d", "user=jason2", "user=Jason", "a=b"]
_HEADERS = _from(
    st.one_of(
        st.tuples(
            st.sampled_from(["foo", "FOO", "x-user", "X-User", "x-other"]),
            st.sampled_from(["", "a", "A", "ab", "b", "a,b", "aé"]),
        ),
        st.tuples(st.sampled_from(["cookie", "Cookie"]), st.sampled_from(_COOKIES)),
    ),
    0,
    4,
).map(tuple)


def requests(ports: tuple[int, ...]) -> Strategy:
    """Draw lists of requests, of which some are for services or ports that there are not."""
    hosts = [*["reviews"] * 12, *["ratings"] * 4, "REVIEWS", "reviews.default", "reviews.default.svc.cluster.local"]
    hosts += [f"reviews:{ports[0]}", "ratings.other", "details", "nobody"]
    one = st.builds(
        Request,
        st.sampled_from([*ports[:1] * 3, *ports]),
        st.sampled_from(hosts),
        _TARGETS_OF_REQUESTS,
        st.sampled_from(["GET", "GET", "POST", "PUT", "DELETE"]),
        _HEADERS,
    )
    return _from(one, 1, 40)
