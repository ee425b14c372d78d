"""Mixer's expressions drawn at random over the whole grammar and vocabulary, of the type that is wanted.

What Envoy can be asked for is drawn more often than the rest, because most of the rest is refused by name.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from random import Random

from agent.mesh.expressions.functions import FUNCTIONS, SAME
from agent.mesh.expressions.tree import CONVERSIONS, Attribute, Call, Expression, Literal, Type, text
from agent.mesh.expressions.vocabulary import VOCABULARY

LIVE = (
    *("request.path", "request.url_path", "request.host", "request.method", "request.scheme", "request.size"),
    *("request.time", "request.headers", "request.useragent", "request.referer", "request.api_key", "request.id"),
    *("context.time", "connection.mtls", "source.user", "source.principal", "source.ip", "request.total_size"),
)
CATALOG = (
    *("source.labels", "source.name", "source.namespace", "source.service", "source.serviceAccount"),
    *("destination.labels", "destination.name", "destination.namespace", "destination.service", "context.protocol"),
)
WORDS = (
    *("", "a", "b", "x-user", "jason", "/a", "/a/b.html", "GET", "POST", "http", "https", "ratings", "reviews", "v3"),
    *("v2", "*", "a*", "*n", "/*", "cluster.local/ns/default/sa/reviews", "spiffe://mesh.test/ns/default/sa/reviews"),
    *("mesh.test/ns/default/sa/reviews", "mesh.test*", "*sa/reviews", "default", "tcp", "curl/8", "1s", "spiffe://"),
    *("ä", "\n", "\x00", '"', "\\", "%REQ(a)%", "{", "'", "svc.cluster.local"),
)
PATTERNS = ("^/a", "n$", "", "[a-z]+", "(?i)JASON", "a|b", ".*", r"\.html$", "^mesh", "ns/[^/]+/sa", "x{0,3}", "ä")
HEADERS = ("x-user", "X-User", "a", "user-agent", "host", ":path", ":authority", "cookie", "", "ä", "a b")
NUMBERS = (0, 1, -1, 5, 64, 2**31, 2**53, 2**63 - 1, -(2**63))


class Drawer:
    """Draws one expression after the other; the same seed draws the same ones."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def draw(self, wanted: Type = Type.BOOL, depth: int = 4) -> str:
        """Return the text of an expression of that type."""
        return text(self.tree(wanted, depth))

    def tree(self, wanted: Type, depth: int) -> Expression:
        """Return an expression of that type with at most so many operands within each other."""
        if depth <= 0 or self._random.random() < 0.2:
            return self._leaf(wanted)
        makers = [name for name, one in FUNCTIONS.items() if one.gives in (wanted, SAME)]
        makers = [name for name in makers if FUNCTIONS[name].gives is not SAME or wanted in FUNCTIONS[name].only]
        name = self._random.choice(makers)
        function = FUNCTIONS[name]
        same = wanted if function.gives is SAME else self._random.choice(sorted(function.only))
        operands = [self.tree(same if takes is SAME else takes, depth - 1) for takes in function.takes]
        if name == "matches" and self._random.random() < 0.9:
            operands[0] = Literal(self._random.choice(PATTERNS), Type.STRING)
        if name == "match" and self._random.random() < 0.8:
            operands[1] = self._word()
        if name == "[]" and self._random.random() < 0.9:
            operands[1] = Literal(self._random.choice(HEADERS), Type.STRING)
        if name in CONVERSIONS.values() and self._random.random() < 0.8:
            return self._leaf(wanted)
        return Call(name, tuple(operands), wanted)

    def _leaf(self, wanted: Type) -> Expression:
        if self._random.random() < 0.65:
            usual = [name for name in (*LIVE, *LIVE, *CATALOG) if VOCABULARY[name] is wanted]
            every = [name for name, type_ in VOCABULARY.items() if type_ is wanted]
            names = usual if usual and self._random.random() < 0.97 else every
            if names:
                return Attribute(self._random.choice(names), wanted)
        return self._literal(wanted)

    def _word(self) -> Literal:
        return Literal(self._random.choice(WORDS), Type.STRING)

    def _literal(self, wanted: Type) -> Expression:
        choose = self._random.choice
        match wanted:
            case Type.STRING:
                return self._word()
            case Type.INT64:
                return Literal(choose(NUMBERS), wanted)
            case Type.DOUBLE:
                return Literal(choose((0.0, -1.5, 1e300, 5e-324)), wanted)
            case Type.BOOL:
                return Literal(choose((True, False)), wanted)
            case Type.TIMESTAMP:
                years = (1, 1970, 2020, 2100, 9999)
                return Literal(datetime(choose(years), 1, 2, 3, 4, 5, choose((0, 1, 999_999)), UTC), wanted)
            case Type.DURATION:
                return Literal(timedelta(seconds=choose((0, 0.001, 1.5, 86_400.0 * 400))), wanted)
            case Type.IP_ADDRESS:
                return Literal(choose((IPv4Address("127.0.0.1"), IPv6Address("::1"), IPv4Address("10.0.0.1"))), wanted)
            case Type.STRING_MAP:
                return Call("emptyStringMap", (), wanted)
            case Type.EMAIL_ADDRESS:
                return Literal("a@b.c", wanted)
        return Literal("reviews.default", wanted)
