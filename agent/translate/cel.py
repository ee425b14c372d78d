"""Trees of CEL, put together with what is always true or false folded, and as the messages that Envoy takes. Pure.

Envoy's matchers take no text of CEL, so the trees are built here; the functions' names are those of CEL's own parser
(cel-spec, syntax.proto).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

from cel.expr import syntax_pb2
from msgspec import Struct


class Constant(Struct, frozen=True):
    """A value that is written down."""

    value: str | bool | int | float


class Select(Struct, frozen=True):
    """A name (`of` is None), or a field of something; `asks`: whether it is there at all."""

    of: Cel | None
    name: str
    asks: bool = False


class Called(Struct, frozen=True):
    """A function or operator; a method's receiver is apart."""

    function: str
    operands: tuple[Cel, ...]
    receiver: Cel | None = None


class Among(Struct, frozen=True):
    """A list."""

    items: tuple[Cel, ...]


class Table(Struct, frozen=True):
    """A map of texts."""

    entries: tuple[tuple[str, str], ...]


Cel = Constant | Select | Called | Among | Table

TRUE, FALSE = Constant(True), Constant(False)


def name(dotted: str) -> Cel:
    """Return a name with its fields: `request.path`."""
    found: Cel | None = None
    for part in dotted.split("."):
        found = Select(found, part)
    assert found is not None
    return found


def is_there(field: Cel) -> Cel:
    """Return whether a field is there: `has(a.b)`."""
    assert isinstance(field, Select)
    return Select(field.of, field.name, asks=True)


def call(function: str, *operands: Cel) -> Cel:
    """Return a function or operator applied."""
    return Called(function, operands)


def method(receiver: Cel, function: str, *operands: Cel) -> Cel:
    """Return `receiver.function(operands)`."""
    return Called(function, operands, receiver)


def at(of: Cel, key: Cel) -> Cel:
    """Return `of[key]`."""
    return Called("_[_]", (of, key))


def within(item: Cel, items: Cel) -> Cel:
    """Return `item in items`."""
    return Called("@in", (item, items))


def among(item: Cel, texts: Iterable[str]) -> Cel:
    """Return whether it is one of these texts."""
    return within(item, Among(tuple(Constant(text) for text in texts)))


def inverse(cel: Cel) -> Cel:
    """Return `!cel`."""
    if isinstance(cel, Constant):
        return FALSE if cel.value else TRUE
    return Called("!_", (cel,))


def both(left: Cel, right: Cel) -> Cel:
    """Return `left && right`."""
    if FALSE in (left, right):
        return FALSE
    return right if left == TRUE else left if right == TRUE else Called("_&&_", (left, right))


def either(left: Cel, right: Cel) -> Cel:
    """Return `left || right`."""
    if TRUE in (left, right):
        return TRUE
    return right if left == FALSE else left if right == FALSE else Called("_||_", (left, right))


def choice(condition: Cel, first: Cel, second: Cel) -> Cel:
    """Return `condition ? first : second`."""
    if isinstance(condition, Constant):
        return first if condition.value else second
    return first if first == second else Called("_?_:_", (condition, first, second))


def equal(left: Cel, right: Cel) -> Cel:
    """Return `left == right`."""
    if isinstance(left, Constant) and isinstance(right, Constant):
        return TRUE if left == right else FALSE
    return Called("_==_", (left, right))


def mentions(cel: Cel, part: Cel) -> bool:
    """Tell whether something is asked for in an expression."""
    if cel == part:
        return True
    match cel:
        case Select(of=of):
            return of is not None and mentions(of, part)
        case Called(operands=operands, receiver=receiver):
            return any(mentions(one, part) for one in (*operands, *((receiver,) if receiver else ())))
        case Among(items=items):
            return any(mentions(one, part) for one in items)
    return False


def expression(cel: Cel) -> Any:
    """Return the message (cel.expr.Expr)."""
    return _message(cel, count(1))


def _message(cel: Cel, numbers: Iterator[int]) -> Any:
    message = syntax_pb2.Expr(id=next(numbers))
    match cel:
        case Constant(value=bool(value)):
            message.const_expr.bool_value = value
        case Constant(value=str(value)):
            message.const_expr.string_value = value
        case Constant(value=int(value)):
            message.const_expr.int64_value = value
        case Constant(value=float(value)):
            message.const_expr.double_value = value
        case Select(of=None, name=text):
            message.ident_expr.name = text
        case Select(of=of, name=text, asks=asks):
            assert of is not None
            message.select_expr.operand.CopyFrom(_message(of, numbers))
            message.select_expr.field = text
            message.select_expr.test_only = asks
        case Called(function=function, operands=operands, receiver=receiver):
            message.call_expr.function = function
            if receiver is not None:
                message.call_expr.target.CopyFrom(_message(receiver, numbers))
            message.call_expr.args.extend(_message(operand, numbers) for operand in operands)
        case Among(items=items):
            message.list_expr.SetInParent()  # an empty one is an expression, too
            message.list_expr.elements.extend(_message(item, numbers) for item in items)
        case Table(entries=entries):
            message.struct_expr.SetInParent()
            for key, value in entries:
                entry = message.struct_expr.entries.add(id=next(numbers))
                entry.map_key.CopyFrom(_message(Constant(key), numbers))
                entry.value.CopyFrom(_message(Constant(value), numbers))
    return message


def text(cel: Cel) -> str:
    """Return it in CEL's own syntax, in brackets wherever it might matter; constants in ASCII."""
    match cel:
        case Constant(value=bool(value)):
            return "true" if value else "false"
        case Constant(value=str(value)):
            return _quoted(value)
        case Constant(value=value):
            return f"({value!r})"
        case Select(of=None, name=written):
            return written
        case Select(of=of, name=written, asks=asks):
            assert of is not None
            return f"has({text(of)}.{written})" if asks else f"{text(of)}.{written}"
        case Among(items=items):
            return f"[{', '.join(map(text, items))}]"
        case Table(entries=entries):
            return f"{{{', '.join(f'{_quoted(key)}: {_quoted(value)}' for key, value in entries)}}}"
        case Called(function=function, operands=operands, receiver=receiver):
            return _applied_text(function, [text(operand) for operand in operands], receiver)


def _applied_text(function: str, operands: list[str], receiver: Cel | None) -> str:
    if receiver is not None:
        return f"{text(receiver)}.{function}({', '.join(operands)})"
    if function == "@in":
        return f"({operands[0]} in {operands[1]})"
    if "_" not in function:
        return f"{function}({', '.join(operands)})"
    pieces, written = function.split("_"), ""
    for piece, operand in zip(pieces, [*operands, ""], strict=True):
        spaced = f" {piece} " if piece and written and piece not in "[]" else piece
        written += spaced + operand
    return written if function == "_[_]" else f"({written})"


def _quoted(value: str) -> str:
    """Return a text literal; what is neither letter nor digit is escaped, so that it means nothing to anybody."""
    plain = "".join(char if char.isascii() and char.isalnum() else f"\\U{ord(char):08x}" for char in value)
    return f"'{plain}'"
