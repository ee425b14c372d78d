"""What is wrong with a document, as a value: validation yields these, only the edge turns them into text."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from enum import StrEnum

from msgspec import Struct


class Verdict(StrEnum):
    """Why a document cannot be used."""

    INVALID = "invalid"
    """Istio itself would refuse it, or it means nothing."""
    UNSUPPORTED = "unsupported"
    """Correct Istio configuration that hostmesh does not know how to honour yet."""


class Problem(Struct, frozen=True):
    """One fault of one document."""

    verdict: Verdict
    path: str
    """Where in the document: `spec.http[0].route[1].weight`; empty for the document as a whole."""
    reason: str
    """What is wrong and what is allowed, one line."""


def one_line(text: object, limit: int = 120) -> str:
    """Return untrusted text as one printable line of bounded length, for messages."""
    line = "".join(char if char.isprintable() else "?" for char in str(text)[: limit + 1])
    return line if len(line) <= limit else line[: limit - 1] + "…"


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ` (did you mean X?)`, or nothing if no known word is close."""
    folded = {name.lower().replace("_", ""): name for name in known}
    found = get_close_matches(word[:64].lower().replace("_", ""), list(folded), 1)
    return f" (did you mean {folded[found[0]]}?)" if found else ""
