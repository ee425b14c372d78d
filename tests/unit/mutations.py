"""Real rule files, and what they become when something in them is lost, doubled, renamed, of another type or huge."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FOLDERS = ("vagrant/samples", "tests/golden/cases", "../shared/cases/istio")
ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1, 100, 65536, 2**31, 2**63 - 1, -(2**63), 10**30, 0.5, 1e308, "", " ", "*", ".", "..", "-", "/",
    "a" * 300, "*.com", "a.b.c.d", "reviews", "mesh", "~", "./*", "1s", "0s", "-1s", "1h1m", "999999999h", "1e9s",
    "10.0.0.0/33", "10.0.0.0/8", "::1", "fe80::1%eth0", "unix:///x", "%", "%20", "%CEL(x)%", "${x}", "\x00", "\u202e",
    "\U0001f600", "ä", "a\nb", "(", "(a+)+$", "[a-z]{999}", "\\", ".*", "GET", "HTTP", "0x10", "1.0", "null", [], {},
    [None], {"": None}, [[]], {"a": {"b": {"c": 1}}}, ["a", "a"], "2026-11-20", b"\xff",
)  # fmt: skip
NOISE = (
    "\x00", "\t", "\u2028", "\ufeff", "&a ", "*a", "<<: *a", "!!python/object:os.system ", "!!binary ", "!!float .nan",
    "{", "}", "[", "]", ": ", "- ", "? ", "| \n", "> \n", "---\n", "...\n", "#", "'", '"', "%YAML 9.9\n", "\r",
    "&b [*b]", "x" * 5000, "[" * 500, "{a: " * 200, "9" * 400, "- " * 300,
)  # fmt: skip
"""What YAML itself may stumble over."""


@cache
def texts() -> tuple[str, ...]:
    """Return the text of every real file."""
    paths = (path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.yaml")))
    found = (path.read_text("utf-8", errors="replace") for path in paths if path.name != "catalog.yaml")
    return tuple(text for text in found if "apiVersion" in text)


@cache
def documents() -> tuple[Any, ...]:
    """Return every document of the real files as plain data."""
    return tuple(document for text in texts() for document in _plain(text))


def _plain(text: str) -> Iterator[Any]:
    try:
        yield from (document for document in yaml.safe_load_all(text) if isinstance(document, dict))
    except (yaml.YAMLError, ValueError):
        return


def mutated_text(random: Random) -> str:
    """Return a real file with some bytes of it damaged."""
    text = random.choice(texts())
    for _ in range(random.randint(1, 6)):
        start = random.randrange(len(text) + 1)
        end = min(len(text), start + random.choice((0, 0, 1, 3, 40, 400)))
        put = random.choice((*NOISE, text[start:end] * 2, text[start : start + 200], ""))
        text = text[:start] + put + text[end:]
    return text


def mutated_document(random: Random, most: int = 4) -> Any:
    """Return a real document with up to so many fields of it damaged; at least one."""
    document = copy.deepcopy(random.choice(documents()))
    for _ in range(random.randint(1, most)):
        if places := list(_places(document)):
            owner, key = random.choice(places)
            random.choice(_MUTATIONS)(random, owner, key)
    return document


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from _places(item)


def _drop(_random: Random, owner: Any, key: Any) -> None:
    del owner[key]


def _replace(random: Random, owner: Any, key: Any) -> None:
    owner[key] = copy.deepcopy(random.choice(ODD))


def _double(_random: Random, owner: Any, key: Any) -> None:
    if isinstance(owner, list):
        owner.insert(key, copy.deepcopy(owner[key]))
    else:
        owner[key] = [owner[key], copy.deepcopy(owner[key])]


def _rename(random: Random, owner: Any, key: Any) -> None:
    if isinstance(owner, dict):
        other = random.choice(("", "x", f"{key}"[::-1], f"{key}".upper(), f"{key}s", "exact", "prefix", "regex"))
        owner[other] = owner.pop(key)


def _bury(_random: Random, owner: Any, key: Any) -> None:
    for _ in range(80):
        owner[key] = [owner[key]]


def _borrow(random: Random, owner: Any, key: Any) -> None:
    """Put a part of another real document here: of the right shape, often."""
    others = [there for there in _places(random.choice(documents())) if there[1] == key] or [(owner, key)]
    other, there = random.choice(others)
    owner[key] = copy.deepcopy(other[there])


_MUTATIONS: tuple[Callable[[Random, Any, Any], None], ...] = (
    _drop, _replace, _replace, _replace, _double, _rename, _borrow, _borrow, _borrow, _bury,
)  # fmt: skip
