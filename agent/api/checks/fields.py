"""Parts of a spec that several kinds have in common: string matches, labels, header maps."""

from __future__ import annotations

from typing import Any

from agent.api.checks import words
from agent.api.checks.regex import re2_problem
from agent.api.checks.schema import Check, Report, either, mapping, message, text
from agent.api.problem import one_line
from agent.api.yaml_text import child
from agent.mesh.routes import CLAIMS

_FORMS = ("exact", "prefix", "regex")

LABELS: Check = mapping(text(words.label_value, empty=True), words.label_key)


def string_match(*, may_be_present: bool = False, empty_prefix: bool = False, empty_exact: bool = True) -> Check:
    """Check `{exact: …}`, `{prefix: …}` or `{regex: …}`; `{}` (it is there at all) only if `may_be_present`."""

    def one_form(report: Report, path: str, match: dict[str, Any]) -> None:
        if len(match) > 1:
            report.invalid(path, f"has {' and '.join(match)} (give one of {', '.join(_FORMS)})")
        elif not match and not may_be_present:
            report.invalid(path, f"matches nothing (give one of {', '.join(_FORMS)})")

    return message(
        {
            "exact": text(words.one_line_value, empty=empty_exact),
            "prefix": text(words.one_line_value, empty=empty_prefix),
            "regex": text(re2_problem, words.one_line_value),
        },
        also=one_form,
    )


def or_scalar(match: Check) -> Check:
    """Check a string match that may also be written as the plain text it must be equal to."""
    return either("text or a match (exact, prefix, regex)", text=text(words.one_line_value), mapping=match)


def header_map(match: Check, pseudo: dict[str, Check], pseudo_reason: str = "") -> Check:
    """Check header name → match; `pseudo` headers have own checks, or (VirtualService) are refused for a reason."""

    def check(report: Report, path: str, value: Any) -> None:
        if not isinstance(value, dict):
            mapping(match)(report, path, value)
            return
        for name, item in value.items():
            place = child(path, one_line(name, 70))
            wrong = None if name in HTTP_PSEUDO_HEADERS else words.header_name(name)
            if name in pseudo:
                pseudo[name](report, place, item)
            elif name in PSEUDO_HEADERS:
                report.unsupported(place, pseudo_reason)
            elif name.startswith(CLAIMS) and not pseudo_reason:
                report.unsupported(place, "claims are known at gateways only, which a VirtualService binds routes to")
            elif name.startswith(CLAIMS):
                match(report, place, item)
            elif wrong:
                report.invalid(place, wrong)
            else:
                match(report, place, item)

    return check


PSEUDO_HEADERS = ("uri", "method", "scheme", "authority")
"""Of the first generation: a RouteRule writes its conditions on them among its headers."""
HTTP_PSEUDO_HEADERS = (":method", ":scheme", ":authority", ":path", ":status")
