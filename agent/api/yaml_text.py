"""YAML text (untrusted) to plain data with line numbers: bounded in size, depth and values; knows nothing of kinds.

YAML's own libraries construct without bounds, forget lines and take the last of two equal keys; hence this reader. It
works on PyYAML's node graph and resolves scalars as SafeLoader does, except dates, which stay text (as in Kubernetes).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import yaml
from msgspec import Struct, field
from yaml.constructor import SafeConstructor

from agent.api.problem import one_line

MAX_TEXT = 16 * 1024 * 1024
"""Characters of one text (a file, standard input)."""
MAX_DEPTH = 48
MAX_VALUES = 500_000
"""Values of one document, aliases counted each time they are used (so no alias bomb)."""

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DECIMAL = re.compile(r"0|[1-9][0-9]*")
_TAG = "tag:yaml.org,2002:"
_HINTS = (
    ("alias", 'an unquoted "*" or "&" has a meaning in YAML: put the value in quotes'),
    ("simple key", 'neither "key: value" nor "- item"; "..." stands for lines left out of an example: remove it'),
    ("cannot start any token", "a value that starts with @, %, ` or a tab: quote it, and indent with spaces"),
    ("mapping values are not allowed", 'a value that contains ": " needs quotes, or the indentation is wrong'),
    ("unexpected end of stream", "a quote is not closed"),
    ("block", "check the indentation of this line and the one before"),
    ("flow", "a bracket or brace is not closed"),
)

Node = yaml.nodes.Node


class YamlValue(Struct, frozen=True):
    """One document: plain data, and the line of each path in it (`spec.http[0].route`; the root is "")."""

    value: object
    lines: dict[str, int] = field(default_factory=dict)

    @property
    def line(self) -> int:
        """Return the first line of the document, counted from 1."""
        return self.lines.get("", 1)


class _Refused(Exception):
    """A document breaks a bound or uses what plain data cannot hold."""

    def __init__(self, line: int, reason: str) -> None:
        self.line = line
        self.reason = reason
        super().__init__(reason)


def child(path: str, key: str) -> str:
    """Return the path of a mapping's value."""
    return f"{path}.{key}" if path else key


def read_yaml(
    text: str, source: str, unwrap: Callable[[Node], Iterable[Node]] = lambda node: (node,)
) -> tuple[list[YamlValue], list[str]]:
    """Return the documents of a text and one `FILE:LINE: reason` for each that cannot be read; empty ones are left out.

    `unwrap` may put several nodes in the place of one (a list of objects).
    """
    values: list[YamlValue] = []
    problems: list[str] = []
    try:
        for node in _compose(text):
            for part in unwrap(node):
                try:
                    value = _Reader().read(part)
                except _Refused as refused:
                    problems.append(f"{source}:{refused.line}: {refused.reason}")
                else:
                    if value.value is not None:
                        values.append(value)
    except _Refused as refused:
        problems.append(f"{source}:{refused.line}: {refused.reason}")
    except yaml.YAMLError as error:
        problems.append(f"{source}:{_describe(error, text)}")
    return values, problems


def _compose(text: str) -> Iterator[Node]:
    if len(text) > MAX_TEXT:
        raise _Refused(1, f"text of {len(text)} characters is too long (at most {MAX_TEXT})")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        raise _Refused(line, "not YAML: half a surrogate pair, which is no character") from None
    _check_depth(text)
    yield from yaml.compose_all(text, Loader=_LOADER)


def _check_depth(text: str) -> None:
    """Composing recurses (in C, with libyaml): refuse what would exhaust the stack before it does."""
    depth = 0
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > MAX_DEPTH:
                    line = event.start_mark.line + 1 if event.start_mark is not None else 1
                    raise _Refused(line, f"nested deeper than {MAX_DEPTH} levels")
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
    except yaml.YAMLError:
        return  # composing meets the same fault, after the documents before it


def _describe(error: yaml.YAMLError, text: str) -> str:
    """Return `LINE: reason` for what YAML itself refuses, with a hint how to mend it."""
    if isinstance(error, yaml.reader.ReaderError):
        line = text[: error.position].count("\n") + 1 if isinstance(error.position, int) else 1
        return f"{line}: not YAML: a character that is not allowed (control characters are not)"
    if not isinstance(error, yaml.MarkedYAMLError):
        return f"1: not YAML: {one_line(error)}"
    mark = error.problem_mark or error.context_mark
    if "simple key" in (error.context or ""):  # YAML notices a line later
        mark = error.context_mark
    line = mark.line + 1 if mark is not None else 1
    said = " ".join(part for part in (error.context, error.problem) if part)
    hint = next((hint for sign, hint in _HINTS if sign in said), "")
    return f"{line}: not YAML: {one_line(error.problem or said)}" + (f" ({hint})" if hint else "")


class _Reader:
    """Turns one node graph into plain data; used once."""

    def __init__(self) -> None:
        self._left = MAX_VALUES
        self._lines: dict[str, int] = {}
        self._scalars = SafeConstructor()

    def read(self, node: Node) -> YamlValue:
        """Return the document, or raise _Refused."""
        self._lines[""] = node.start_mark.line + 1
        return YamlValue(self._value(node, "", 0), self._lines)

    def _value(self, node: Node, path: str, depth: int) -> object:
        line = node.start_mark.line + 1
        self._left -= 1
        if self._left < 0:
            raise _Refused(line, f"more than {MAX_VALUES} values in one document (aliases count each time)")
        if depth > MAX_DEPTH:
            raise _Refused(line, f"nested deeper than {MAX_DEPTH} levels (an alias inside its own anchor?)")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            return self._sequence(node, path, depth)
        assert isinstance(node, yaml.ScalarNode)
        return self._scalar(node, line)

    def _sequence(self, node: yaml.SequenceNode, path: str, depth: int) -> list[object]:
        if node.tag != _TAG + "seq":
            raise _Refused(node.start_mark.line + 1, f"the tag {one_line(node.tag)} is not allowed")
        values = []
        for index, item in enumerate(node.value):
            place = f"{path}[{index}]"
            self._lines[place] = item.start_mark.line + 1
            values.append(self._value(item, place, depth + 1))
        return values

    def _mapping(self, node: yaml.MappingNode, path: str, depth: int) -> dict[str, object]:
        if node.tag != _TAG + "map":
            raise _Refused(node.start_mark.line + 1, f"the tag {one_line(node.tag)} is not allowed")
        values: dict[str, object] = {}
        merged: dict[str, object] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                merged = {**self._merged(value_node, path, depth), **merged}
                continue
            key = self._key(key_node)
            line = key_node.start_mark.line + 1
            if key in values:
                raise _Refused(
                    line, f'the key "{one_line(key)}" is given twice (first on line {self._lines[child(path, key)]})'
                )
            self._lines[child(path, key)] = line
            values[key] = self._value(value_node, child(path, key), depth + 1)
        return {**merged, **values} if merged else values

    def _merged(self, node: Node, path: str, depth: int) -> dict[str, object]:
        """Return what `<<` brings in; of several mappings the first wins (YAML merge type)."""
        values: dict[str, object] = {}
        for part in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(part, yaml.MappingNode):
                raise _Refused(node.start_mark.line + 1, "<< takes a mapping or a list of mappings")
            read = self._value(part, path, depth + 1)
            assert isinstance(read, dict)
            values = {**read, **values}
        return values

    def _key(self, node: Node) -> str:
        line = node.start_mark.line + 1
        if not isinstance(node, yaml.ScalarNode):
            raise _Refused(line, "a key must be text")
        if node.tag == _TAG + "int" and _DECIMAL.fullmatch(node.value):
            return str(node.value)  # `portLevelMtls: {8080: …}`: JSON makes such a key text too
        if node.tag not in (_TAG + "str", _TAG + "value"):
            raise _Refused(
                line, f'the key {one_line(node.value)} is not text for YAML: write it as "{one_line(node.value)}"'
            )
        return self._text(node.value, line)

    def _scalar(self, node: yaml.ScalarNode, line: int) -> object:
        tag = node.tag.removeprefix(_TAG)
        if tag in ("str", "timestamp", "value"):
            return self._text(node.value, line)
        if tag == "null":
            return None
        if tag not in ("bool", "int", "float"):
            raise _Refused(line, f"the tag {one_line(node.tag)} is not allowed")
        try:
            return self._number(node, tag, line)
        except (ValueError, KeyError, OverflowError, IndexError):
            raise _Refused(line, f"{one_line(node.value, 40)} is not a {tag}") from None

    def _number(self, node: yaml.ScalarNode, tag: str, line: int) -> object:
        if len(node.value) > 64:
            raise _Refused(line, "a number of more than 64 characters")
        if tag == "bool":
            return bool(self._scalars.construct_yaml_bool(node))
        if tag == "int":
            number = int(self._scalars.construct_yaml_int(node))
            if abs(number) >= 2**63:
                raise _Refused(line, f"the number {one_line(node.value, 40)} does not fit in 64 bits")
            return number
        real = float(self._scalars.construct_yaml_float(node))
        if not math.isfinite(real):
            raise _Refused(line, f"{node.value} is not a finite number")
        return real

    @staticmethod
    def _text(value: str, line: int) -> str:
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _Refused(line, "text with half a surrogate pair, which is no character") from None
        return value
