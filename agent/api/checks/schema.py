"""The one mechanism that says what a spec may hold: small checks, combined; every problem is reported, not the first.

A check takes a Report, the value's path and the value. Fields that Istio has and hostmesh does not honour yet are named
UNSUPPORTED: they are refused by name, an unknown field by its nearest known one. Each check can also say what it allows
(`shape_of`), as JSON Schema, and put the other spellings that protobuf's JSON has for a value into the one that it is
checked and used in (`normal_of`): a number in quotes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from agent.api.problem import Problem, Verdict, nearest, one_line
from agent.api.yaml_text import child

MAX_PROBLEMS = 100
"""Of each verdict and document."""


class Report:
    """Collects the problems of one document."""

    def __init__(self, namespace: str = "") -> None:
        self.problems: list[Problem] = []
        self.namespace = namespace
        """The document's own."""
        self.invalid_count = 0
        self._unsupported_count = 0

    def invalid(self, path: str, reason: str) -> None:
        """Note something that Istio would refuse too."""
        self.invalid_count += 1
        if self.invalid_count <= MAX_PROBLEMS:
            self.problems.append(Problem(Verdict.INVALID, path, reason))

    def unsupported(self, path: str, reason: str = "known, but not supported yet") -> None:
        """Note correct configuration that hostmesh does not honour yet."""
        self._unsupported_count += 1
        if self._unsupported_count <= MAX_PROBLEMS:
            self.problems.append(Problem(Verdict.UNSUPPORTED, path, reason))


Check = Callable[[Report, str, Any], None]
Rule = Callable[[str], str | None]
"""Returns what is wrong with a text, or None."""
Also = Callable[[Report, str, dict[str, Any]], None]
"""Looks at a message whose fields are of the right types; absent ones are left out."""
Shape = dict[str, Any]
"""A JSON Schema (2020-12)."""
Normal = Callable[[Any], Any]
"""Returns a value in its usual spelling; what is not seen to be another spelling stays as it is."""


def _as_it_is(value: Any) -> Any:
    return value


class _Shaped:
    """A check that can say what it allows."""

    __slots__ = ("_check", "normal", "shape")

    def __init__(self, check: Check, shape: Callable[[], Shape], normal: Normal = _as_it_is) -> None:
        self._check = check
        self.shape = shape
        self.normal = normal

    def __call__(self, report: Report, path: str, value: Any) -> None:
        self._check(report, path, value)


def shaped(shape: Callable[[], Shape], normal: Normal = _as_it_is) -> Callable[[Check], Check]:
    """Give a check its JSON Schema, what only code can say left out, and how its values are put into their spelling."""
    return lambda check: _Shaped(check, shape, normal)


def like(other: Check) -> Callable[[Check], Check]:
    """Give a check the JSON Schema and the spelling of another one."""
    return lambda check: _Shaped(check, lambda: shape_of(other), normal_of(other))


def normal_of(check: Check) -> Normal:
    """Return how a check's values are put into their usual spelling."""
    return check.normal if isinstance(check, _Shaped) else _as_it_is


def shape_of(check: Check) -> Shape:
    """Return what a check allows, as far as JSON Schema can say it."""
    if check is boolean:
        return {"type": "boolean"}
    return check.shape() if isinstance(check, _Shaped) else {}


def unsupported(report: Report, path: str, value: Any) -> None:
    """Refuse a field by name."""
    report.unsupported(path)


UNSUPPORTED: Check = _Shaped(unsupported, lambda: {"description": "Known to Istio, not enforceable here."})


def message(fields: Mapping[str, Check], required: tuple[str, ...] = (), also: Also | None = None) -> Check:
    """Check a mapping with known fields; null is as good as absent; `also` runs only if no field is invalid."""

    def shape() -> Shape:
        properties = {key: shape_of(field) for key, field in fields.items()}
        wanted = {"required": list(required)} if required else {}
        return {"type": "object", "properties": properties, "additionalProperties": False, **wanted}

    def normal(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: normal_of(fields[key])(item) if key in fields else item for key, item in value.items()}

    @shaped(shape, normal)
    def check(report: Report, path: str, value: Any) -> None:
        if not isinstance(value, dict):
            report.invalid(path, f"must be a mapping, not {_type(value)}")
            return
        before = report.invalid_count
        present = {key: item for key, item in value.items() if item is not None}
        for key in required:
            if key not in present:
                report.invalid(child(path, key), "is missing")
        for key, item in present.items():
            known = fields.get(key)
            if known is None:
                report.invalid(child(path, one_line(key)), _unknown(key, fields))
            else:
                known(report, child(path, key), item)
        if also is not None and report.invalid_count == before:
            also(report, path, present)

    return check


def mapping(value_check: Check, key_rule: Rule = lambda key: None, at_least: int = 0) -> Check:
    """Check a mapping whose keys are the operator's own words (labels, headers)."""

    def normal(value: Any) -> Any:
        own = normal_of(value_check)
        return {key: own(item) for key, item in value.items()} if isinstance(value, dict) else value

    @shaped(lambda: {"type": "object", "additionalProperties": shape_of(value_check)}, normal)
    def check(report: Report, path: str, value: Any) -> None:
        if not isinstance(value, dict):
            report.invalid(path, f"must be a mapping, not {_type(value)}")
            return
        if len(value) < at_least:
            report.invalid(path, "is empty")
        for key, item in value.items():
            wrong = key_rule(key)
            if wrong:
                report.invalid(child(path, one_line(key)), wrong)
            value_check(report, child(path, one_line(key)), item)

    return check


def listing(item_check: Check, at_least: int = 0, at_most: int = 1000) -> Check:
    """Check a list."""

    def shape() -> Shape:
        return {"type": "array", "items": shape_of(item_check), **({"minItems": at_least} if at_least else {})}

    def normal(value: Any) -> Any:
        return [normal_of(item_check)(item) for item in value] if isinstance(value, list) else value

    @shaped(shape, normal)
    def check(report: Report, path: str, value: Any) -> None:
        if not isinstance(value, list):
            report.invalid(path, f"must be a list, not {_type(value)}")
            return
        if not at_least <= len(value) <= at_most:
            report.invalid(
                path, f"is empty (at least {at_least})" if not value else f"has {len(value)} items (at most {at_most})"
            )
        for index, item in enumerate(value[:at_most]):
            item_check(report, f"{path}[{index}]", item)

    return check


def text(*rules: Rule, empty: bool = False) -> Check:
    """Check a text that obeys the rules; an empty one only if `empty`, and then it obeys."""

    @shaped(lambda: {"type": "string"} if empty else {"type": "string", "minLength": 1})
    def check(report: Report, path: str, value: Any) -> None:
        if not isinstance(value, str):
            quotes = (
                f' (put it in quotes: "{value}")'
                if isinstance(value, int | float) and not isinstance(value, bool)
                else ""
            )
            report.invalid(path, f"must be text, not {_type(value)}{quotes}")
            return
        if not value:
            if not empty:
                report.invalid(path, "is empty")
            return
        wrong = next((wrong for rule in rules if (wrong := rule(value))), None)
        if wrong:
            report.invalid(path, wrong)

    return check


def one_of(*allowed: str) -> Check:
    """Check a text that is one of a few words."""
    words = ", ".join(allowed)
    check = text(lambda value: None if value in allowed else f'"{one_line(value, 40)}" is not allowed (one of {words})')
    return shaped(lambda: {"enum": list(allowed)})(check)


def integer(low: int, high: int) -> Check:
    """Check a whole number within bounds, both included."""

    @shaped(lambda: {"type": "integer", "minimum": low, "maximum": high}, _whole_number)
    def check(report: Report, path: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            report.invalid(path, f"must be a whole number from {low} to {high}, not {_type(value)}")
        elif not low <= value <= high:
            report.invalid(path, f"{value} is out of range ({low} to {high})")

    return check


def number(low: float, high: float) -> Check:
    """Check a number within bounds, both included."""

    @shaped(lambda: {"type": "number", "minimum": low, "maximum": high}, _any_number)
    def check(report: Report, path: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            report.invalid(path, f"must be a number from {low:g} to {high:g}, not {_type(value)}")
        elif not low <= value <= high:
            report.invalid(path, f"{value} is out of range ({low:g} to {high:g})")

    return check


_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,18})", re.ASCII)
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]{0,18})(\.[0-9]{1,18})?([eE][-+]?[0-9]{1,2})?", re.ASCII)


def _whole_number(value: Any) -> Any:
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def _any_number(value: Any) -> Any:
    return float(value) if isinstance(value, str) and _DECIMAL.fullmatch(value) else value


def boolean(report: Report, path: str, value: Any) -> None:
    """Check true or false."""
    if not isinstance(value, bool):
        report.invalid(path, f"must be true or false, not {_type(value)}")


def either(described: str, **by_type: Check) -> Check:
    """Check by the value's type: `text=`, `mapping=`, `list=`, `number=`."""

    def normal(value: Any) -> Any:
        chosen = by_type.get(_SHAPES.get(type(value), ""))
        return value if chosen is None else normal_of(chosen)(value)

    @shaped(lambda: {"anyOf": [shape_of(each) for each in by_type.values()]}, normal)
    def check(report: Report, path: str, value: Any) -> None:
        chosen = by_type.get(_SHAPES.get(type(value), ""))
        if chosen is None:
            report.invalid(path, f"must be {described}, not {_type(value)}")
        else:
            chosen(report, path, value)

    return check


_SHAPES = {str: "text", dict: "mapping", list: "list", int: "number", float: "number"}
_TYPES = {str: "text", dict: "a mapping", list: "a list", bool: "true or false", int: "a number", float: "a number"}


def _type(value: object) -> str:
    return _TYPES.get(type(value), "null")


def _unknown(key: str, fields: Mapping[str, Check]) -> str:
    near = nearest(key, fields)
    return f"unknown field{near}" if near else f"unknown field (known: {', '.join(sorted(fields))})"
