"""Kinds as the command line spells them (pure)."""

from __future__ import annotations

import re

from agent.api.kinds import KINDS, Kind, kind_named, supported_kinds
from agent.errors import UserError

ALL = "all"


def parse_kinds(word: str) -> tuple[Kind, ...]:
    """Return the kinds that words like `routerules`, `route-rule`, `vs,dr` or `all` mean; raises UserError."""
    if word.lower() == ALL:
        return KINDS
    return tuple(dict.fromkeys(_parse(part) for part in word.split(",") if part))


def parse_kind(word: str) -> Kind:
    """Return the one kind that a word means; raises UserError."""
    return _parse(word)


def dashed(kind: str) -> str:
    """Return a kind as istioctl's messages spell it: `RouteRule` → `route-rule`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", kind).lower()


def _parse(word: str) -> Kind:
    # Kinds that are not enforced yet can stand in Consul too (--allow-unsupported).
    kind = kind_named(word)
    if kind is None:
        known = " ".join(dashed(item.name) for item in supported_kinds())
        raise UserError(f"unknown type {word!r} (one of: {known})")
    return kind
