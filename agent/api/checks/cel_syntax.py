"""CEL in filters of access logs: what Envoy's own parser and its functions would take. Pure.

Envoy refuses a whole listener for one expression that it cannot read. So the grammar (cel-spec, doc/langdef.md) is
checked here, less what Envoy has switched off: macros over lists, messages, and conversions to text.
"""

from __future__ import annotations

import re

from agent.api.checks.regex import re2_problem
from agent.api.problem import one_line

MAX_LENGTH, MAX_DEPTH = 4096, 32
_TOKEN = re.compile(
    r"""\s+
    |(?P<text>(?P<prefix>[rRbB]{0,2})(?P<quoted>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'))
    |(?P<number>0x[0-9a-fA-F]+u?|[0-9]*\.[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+|[0-9]+u?)
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<sign>==|!=|<=|>=|&&|\|\||[-+*/%<>!?:.,()\[\]{}])""",
    re.VERBOSE,
)
_RESERVED_WORDS = """
as break const continue else for function if import let loop package namespace return var void while
"""
_RESERVED = frozenset(_RESERVED_WORDS.split())
_LITERALS = frozenset({"true", "false", "null"})
_FUNCTIONS = frozenset({"size", "int", "uint", "double", "timestamp", "duration", "type", "dyn"})
_METHODS = {
    **dict.fromkeys(("contains", "startsWith", "endsWith", "matches"), 1),
    **dict.fromkeys(("size", "getFullYear", "getMonth", "getDayOfMonth", "getDayOfWeek", "getDayOfYear"), 0),
    **dict.fromkeys(("getHours", "getMinutes", "getSeconds", "getMilliseconds", "getDate"), 0),
}
_BINARY = frozenset({"==", "!=", "<", "<=", ">", ">=", "in", "+", "-", "*", "/", "%", "&&", "||"})
_ESCAPE = re.compile(
    r"\\(?:[abfnrtv\\'\"`?]|x[0-9a-fA-F]{2}|u(?!d[89ab])[0-9a-fA-F]{4}|U0000[0-9a-fA-F]{4}|[0-3][0-7]{2})"
)


class _Wrong(Exception):
    """The text says what is wrong."""


def cel_problem(expression: str) -> str | None:
    """Return why an expression would be refused, None if Envoy takes it."""
    try:
        _Reader(expression).whole()
    except _Wrong as wrong:
        return f"is not a CEL expression that Envoy takes ({wrong})"
    return None


class _Reader:
    def __init__(self, expression: str) -> None:
        self._tokens = _tokens(expression)
        self._at = self._depth = 0

    def whole(self) -> None:
        self._ternary()
        if self._next:
            raise _Wrong(f"{one_line(self._next, 30)} is too much")

    @property
    def _next(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _take(self, wanted: str = "") -> str:
        token = self._next
        if not token or (wanted and token != wanted):
            raise _Wrong(
                f"{wanted or 'something'} is missing {f'before {one_line(token, 30)}' if token else 'at its end'}"
            )
        self._at += 1
        return token

    def _ternary(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _Wrong("it is nested too deeply")
        self._binary()
        if self._next == "?":
            self._take()
            self._binary()
            self._take(":")
            self._ternary()
        self._depth -= 1

    def _binary(self) -> None:
        self._unary()
        while self._next in _BINARY:
            self._take()
            self._unary()

    def _unary(self) -> None:
        sign = self._next
        while sign in ("!", "-") and self._next == sign:
            self._take()
        self._primary()
        while self._next in (".", "["):
            if self._take() == "[":
                self._ternary()
                self._take("]")
            else:
                self._member()

    def _member(self) -> None:
        name = _plain(self._take())
        if self._next == "(":
            given = self._arguments()
            if name not in _METHODS or len(given) != _METHODS[name]:
                raise _Wrong(f".{one_line(name, 30)}() with {len(given)} arguments is not known")
            is_written = name == "matches" and len(given[0]) == 1 and given[0][0][-1] in "\"'"
            if is_written and (wrong := re2_problem(_text(given[0][0]))):
                raise _Wrong(f"matches: {wrong}")

    def _primary(self) -> None:
        token = self._take()
        if token == "(":
            self._ternary()
            self._take(")")
        elif token == "[":
            self._list("]", self._ternary)
        elif token == "{":
            self._list("}", self._entry)
        elif token[-1] in "\"'" or (token[0] in ".0123456789" and token != "."):
            return
        else:
            self._named(token)

    def _named(self, token: str) -> None:
        name = token if token in _LITERALS else _plain(token)
        if self._next != "(":
            return
        given = self._arguments()
        if name == "has":
            if len(given) != 1 or len(given[0]) < 3 or given[0][-2] != ".":
                raise _Wrong("has() takes a field: has(a.b)")
        elif name not in _FUNCTIONS or len(given) != 1:
            raise _Wrong(f"{one_line(name, 30)}() with {len(given)} arguments is not known")

    def _arguments(self) -> list[list[str]]:
        """Read `(…)`; return the tokens of each."""
        found: list[list[str]] = []
        self._take("(")
        while self._next != ")":
            begins = self._at
            self._ternary()
            found.append(self._tokens[begins : self._at])
            if self._next != ")":
                self._take(",")
        self._take(")")
        return found

    def _list(self, end: str, item: object) -> None:
        assert callable(item)
        while self._next != end:
            item()
            if self._next != end:
                self._take(",")
        self._take(end)

    def _entry(self) -> None:
        self._ternary()
        self._take(":")
        self._ternary()


def _plain(token: str) -> str:
    if not (token[0].isalpha() or token[0] == "_") or token[-1] in "\"'" or token in _RESERVED | _LITERALS | {"in"}:
        raise _Wrong(f"a name is missing before {one_line(token, 30)}")
    return token


def _tokens(expression: str) -> list[str]:
    if len(expression) > MAX_LENGTH:
        raise _Wrong(f"it is longer than {MAX_LENGTH} characters")
    found, at = [], 0
    while at < len(expression):
        token = _TOKEN.match(expression, at)
        if token is None:
            raise _Wrong(f"{one_line(expression[at : at + 20], 30)} cannot be read")
        if token["text"] and "r" not in token["prefix"].lower() and "\\" in _ESCAPE.sub("", token["quoted"]):
            raise _Wrong(f"{one_line(token[0], 30)} has an escape that is not known")
        if token["number"] and len(token[0]) > 18:
            raise _Wrong(f"{one_line(token[0], 30)} is too large")
        if token.lastgroup:
            found.append(token[0])
        at = token.end()
    return found


def _text(token: str) -> str:
    """Return what a text literal says; of escapes what they stand for."""
    prefix, quoted = re.match(r"[rRbB]*", token)[0], token.lstrip("rRbB")[1:-1]  # type: ignore[index]
    return quoted if "r" in prefix.lower() else _ESCAPE.sub(lambda found: found[0][-1], quoted)
