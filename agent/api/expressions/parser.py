"""Parses an expression and checks its types. The syntax is the part of Go's that Mixer took."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import NoReturn

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedEOF, UnexpectedInput, UnexpectedToken
from msgspec import Struct

from agent.api.checks.regex import re2_problem
from agent.api.problem import nearest, one_line
from agent.mesh.expressions.evaluate import fold
from agent.mesh.expressions.functions import ALIASES, FUNCTIONS, SAME, Function, duration
from agent.mesh.expressions.tree import METHODS, Attribute, Call, Expression, Literal, Type
from agent.mesh.expressions.vocabulary import VOCABULARY

MAX_LENGTH = 8192
MAX_DEPTH = 150
"""Operands within operands."""

_GRAMMAR = r"""
?start: either
?either: (either OR)? both
?both: (both AND)? comparison
?comparison: (comparison COMPARES)? sum
?sum: (sum ADDS)? value
?value: STRING -> string
    | RAW -> raw
    | FLOAT -> float
    | INTEGER -> integer
    | "-" INTEGER -> negative_integer
    | "-" FLOAT -> negative_float
    | NAME -> name
    | NAME "(" [either ("," either)* ","?] ")" -> call
    | value "." NAME "(" [either ("," either)* ","?] ")" -> method
    | value "[" either "]" -> index
    | "(" either ")"
OR: "||"
AND: "&&"
COMPARES: "==" | "!=" | "<=" | ">=" | "<" | ">"
ADDS: "|" | "+" | "-"
STRING: /"(\\.|[^"\\\n])*"/
RAW: /`[^`]*`/
FLOAT: /[0-9]+\.[0-9]*([eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+|\.[0-9]+/
INTEGER: /0[xX][0-9a-fA-F]+|0|[1-9][0-9]*/
NAME: /[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*/
%ignore /[ \t\r\n]+/
"""


class Fault(Exception):
    """Why a text is no expression, and where in it."""

    def __init__(self, reason: str, line: int = 1, column: int = 1) -> None:
        super().__init__(f"line {line}, column {column}: {reason}" if line > 1 else f"column {column}: {reason}")
        self.reason, self.line, self.column = reason, line, column


class _Place(Struct, frozen=True):
    """An expression, where it begins, and how deep it is."""

    tree: Expression
    line: int
    column: int
    depth: int = 1


def parse(text: str, wanted: Type | None = None, vocabulary: Mapping[str, Type] = VOCABULARY) -> Expression:
    """Return the typed tree of an expression, its constant parts folded.

    `wanted` is the type it must have (None: any). Raises Fault: not an expression, an unknown attribute or function, or
    a type that does not fit.
    """
    if len(text) > MAX_LENGTH:
        raise Fault(f"is longer than {MAX_LENGTH} characters")
    try:
        found = _Builder(vocabulary).build(_lark().parse(text))
    except UnexpectedInput as error:
        raise _syntax_fault(error) from None
    if wanted is not None:
        found = _fitted(found, wanted)
        if found.tree.type is not wanted:
            raise Fault(f"is {found.tree.type} and must be {wanted}", found.line, found.column)
    return fold(found.tree, lambda attribute: attribute)


@cache
def _lark() -> Lark:
    return Lark(_GRAMMAR, parser="lalr", propagate_positions=True, maybe_placeholders=False)


def _syntax_fault(error: UnexpectedInput) -> Fault:
    if isinstance(error, UnexpectedEOF) or (isinstance(error, UnexpectedToken) and error.token.type == "$END"):
        return Fault(
            "ends too early: an operand or a closing bracket is missing", max(error.line, 1), max(error.column, 1)
        )
    if isinstance(error, UnexpectedCharacters):
        return Fault(f"{one_line(error.char)} is not expected here{_hint(error.char)}", error.line, error.column)
    token = str(error.token) if isinstance(error, UnexpectedToken) else ""
    return Fault(f'"{one_line(token, 40)}" is not expected here', error.line, error.column)


def _hint(char: str) -> str:
    hints = {
        "=": " (equal is ==)",
        "&": " (and is &&)",
        "'": ' (strings stand in double quotes: "…")',
        "!": " (not equal is !=; there is no other negation)",
        '"': " (the string has no end)",
    }
    return hints.get(char, "")


class _Builder:
    """Turns lark's tree into ours."""

    def __init__(self, vocabulary: Mapping[str, Type]) -> None:
        self._vocabulary = vocabulary

    def build(self, node: Tree[Token]) -> _Place:
        line, column = node.meta.line, node.meta.column
        make: Callable[[Tree[Token]], _Place] | None = getattr(self, f"_{node.data}", None)
        assert make is not None, node.data
        place = make(node)
        if place.depth > MAX_DEPTH:
            raise Fault(f"has more than {MAX_DEPTH} operands within each other", line, column)
        return _Place(place.tree, line, column, place.depth)

    def _string(self, node: Tree[Token]) -> _Place:
        token = _token(node, 0)
        return _literal(_unescape(str(token)[1:-1], token), Type.STRING)

    def _raw(self, node: Tree[Token]) -> _Place:
        return _literal(str(_token(node, 0))[1:-1], Type.STRING)

    def _integer(self, node: Tree[Token], sign: int = 1) -> _Place:
        token = _token(node, -1)
        value = sign * int(str(token), 0)
        if not -(2**63) <= value < 2**63:
            raise Fault(f"{token} is not a number of 64 bits", token.line or 1, token.column or 1)
        return _literal(value, Type.INT64)

    def _negative_integer(self, node: Tree[Token]) -> _Place:
        return self._integer(node, -1)

    def _float(self, node: Tree[Token], sign: int = 1) -> _Place:
        token = _token(node, -1)
        value = sign * float(token)
        if value in (float("inf"), float("-inf")):
            raise Fault(f"{token} is too large a number", token.line or 1, token.column or 1)
        return _literal(value, Type.DOUBLE)

    def _negative_float(self, node: Tree[Token]) -> _Place:
        return self._float(node, -1)

    def _name(self, node: Tree[Token]) -> _Place:
        return self._attribute(_token(node, 0))

    def _attribute(self, token: Token) -> _Place:
        name, line, column = str(token), token.line or 1, token.column or 1
        if name in ("true", "false"):
            return _literal(name == "true", Type.BOOL)
        type_ = self._vocabulary.get(name)
        if type_ is None:
            raise Fault(f"unknown attribute {one_line(name, 80)}{nearest(name, self._vocabulary)}", line, column)
        return _Place(Attribute(name, type_), line, column)

    def _call(self, node: Tree[Token]) -> _Place:
        token = _token(node, 0)
        receiver, _, last = str(token).rpartition(".")
        operands = [self.build(child) for child in node.children[1:] if isinstance(child, Tree)]
        if receiver and str(token) not in ALIASES:
            of = self._attribute(Token("NAME", receiver, line=token.line, column=token.column))
            return _method(of, last, operands, token)
        return _called(ALIASES.get(str(token), str(token)), operands, token)

    def _method(self, node: Tree[Token]) -> _Place:
        receiver, token, *rest = node.children
        assert isinstance(receiver, Tree)
        assert isinstance(token, Token)
        operands = [self.build(child) for child in rest if isinstance(child, Tree)]
        return _method(self.build(receiver), str(token), operands, token)

    def _index(self, node: Tree[Token]) -> _Place:
        of, key = (self.build(child) for child in node.children if isinstance(child, Tree))
        if of.tree.type is not Type.STRING_MAP:
            raise Fault(f"[…] is for a STRING_MAP, and this is {of.tree.type}", of.line, of.column)
        return _applied("[]", [of, key])

    def _binary(self, node: Tree[Token]) -> _Place:
        left, operator, right = node.children
        assert isinstance(left, Tree)
        assert isinstance(right, Tree)
        return _applied(str(operator), [self.build(left), self.build(right)])

    _either = _both = _comparison = _sum = _binary


def _token(node: Tree[Token], index: int) -> Token:
    token = node.children[index]
    assert isinstance(token, Token)
    return token


def _literal(value: str | int | float | bool, type_: Type) -> _Place:
    return _Place(Literal(value, type_), 1, 1)


_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", '"': '"'}
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{3}|.)", re.DOTALL)


def _unescape(text: str, token: Token) -> str:
    def one(found: re.Match[str]) -> str:
        escape = found[1]
        if escape in _ESCAPES:
            return _ESCAPES[escape]
        code = (
            int(escape[1:], 16)
            if escape[0] in "xuU" and len(escape) > 1
            else int(escape, 8)
            if len(escape) == 3
            else -1
        )
        if not 0 <= code <= 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            place = (token.column or 1) + 1 + found.start()
            raise Fault(f"\\{one_line(escape)} is no escape (a backslash itself is \\\\)", token.line or 1, place)
        return chr(code)

    return _ESCAPE.sub(one, text)


def _method(receiver: _Place, name: str, operands: Sequence[_Place], token: Token) -> _Place:
    if name not in METHODS:
        raise Fault(
            f"no such function .{one_line(name, 40)}(){nearest(name, METHODS)}", token.line or 1, token.column or 1
        )
    return _called(name, [receiver, *operands], token, methods=True)


def _called(name: str, operands: Sequence[_Place], token: Token, methods: bool = False) -> _Place:
    function = FUNCTIONS.get(name)
    line, column = token.line or 1, token.column or 1
    if function is None or not name.isidentifier() or (name in METHODS) is not methods:
        known = [known for known in FUNCTIONS if known.isidentifier() and known not in METHODS]
        raise Fault(f"no such function {one_line(name, 40)}(){nearest(name, known)}", line, column)
    if len(operands) != len(function.takes):
        given, wanted = len(operands) - methods, len(function.takes) - methods
        raise Fault(f"{name}() takes {wanted} operand{'s' * (wanted != 1)}, {given} given", line, column)
    return _applied(name, operands)


def _applied(name: str, operands: Sequence[_Place]) -> _Place:
    """Return the call; raises Fault if the operands' types do not fit."""
    function = FUNCTIONS[name]
    same = _same_type(name, function, operands)
    fitted = []
    for operand, takes in zip(operands, function.takes, strict=True):
        wanted = same if takes is SAME else takes
        assert wanted is not None
        place = _fitted(operand, wanted)
        if place.tree.type is not wanted:
            _mismatch(name, function, operand, wanted)
        fitted.append(place.tree)
    type_ = same if function.gives is SAME else function.gives
    assert type_ is not None
    call = Call(name, tuple(fitted), type_)
    _check_constants(call, operands)
    return _Place(call, operands[0].line if operands else 1, operands[0].column if operands else 1, _depth(operands))


def _depth(operands: Sequence[_Place]) -> int:
    return 1 + max((operand.depth for operand in operands), default=0)


def _same_type(name: str, function: Function, operands: Sequence[_Place]) -> Type | None:
    """Return the type that the operands share where the signature says so; a text may be a duration beside another."""
    alike = [place for place, takes in zip(operands, function.takes, strict=True) if takes is SAME]
    if not alike:
        return None
    types = [place.tree.type for place in alike]
    compares = function.gives is Type.BOOL
    durations = [place for place in alike if place.tree.type is Type.DURATION or _as_duration(place.tree) is not None]
    is_time = Type.DURATION in types or (compares and len(durations) == len(alike))
    found = Type.DURATION if is_time else types[0]
    if found not in function.only:
        allowed = ", ".join(sorted(function.only))
        raise Fault(f"{name} is for {allowed}, and this is {found}", alike[0].line, alike[0].column)
    return found


def _fitted(place: _Place, wanted: Type) -> _Place:
    """Take a text for a duration where one is wanted: Mixer has no other way to write one."""
    found = _as_duration(place.tree) if wanted is Type.DURATION else None
    return place if found is None else _Place(found, place.line, place.column, place.depth)


def _as_duration(tree: Expression) -> Expression | None:
    """Return a text, or a choice of texts, as a duration; None if it is none."""
    match tree:
        case Literal(type=Type.STRING, value=str(text)):
            value = duration(text)
            return None if value is None else Literal(value, Type.DURATION)
        case Call(function="|", type=Type.STRING, operands=(left, right)):
            parts = (_as_duration(left), _as_duration(right))
            whole: tuple[Expression, ...] = ()
        case Call(function="conditional", type=Type.STRING, operands=(condition, left, right)):
            parts, whole = (_as_duration(left), _as_duration(right)), (condition,)
        case _:
            return None
    if parts[0] is None or parts[1] is None:
        return None
    return Call(tree.function, (*whole, parts[0], parts[1]), Type.DURATION)


def _mismatch(name: str, function: Function, operand: _Place, wanted: Type) -> NoReturn:
    found = operand.tree.type
    if SAME in function.takes:
        reason = f"the operands of {name} must be of one type, and are {wanted} and {found}"
    else:
        reason = f"{name} wants {wanted} here, and this is {found}"
    raise Fault(reason, operand.line, operand.column)


def _check_constants(call: Call, operands: Sequence[_Place]) -> None:
    """Refuse now what can never have a value: ip("x"), a pattern that is none."""
    first = call.operands[0] if call.operands else None
    if not isinstance(first, Literal) or not (len(operands) == 1 or call.function == "matches"):
        return
    wrong = re2_problem(str(first.value)) if call.function == "matches" else None
    try:
        FUNCTIONS[call.function].worth(first.value, *[""] * (len(operands) - 1))
    except ValueError as error:
        wrong = wrong or str(error)
    if wrong:
        raise Fault(one_line(wrong), operands[0].line, operands[0].column)
