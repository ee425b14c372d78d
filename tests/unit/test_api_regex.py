"""Patterns that RE2 compiles and patterns that it refuses (each line was tried with the real RE2)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api.checks.regex import MAX_LENGTH, re2_problem


@pytest.mark.parametrize(
    "pattern",
    [
        "^(.*?;)?(user=jason)(;.*)?$",
        "sco+do+",
        "(?i)a|b",
        "(?i-s:a)",
        "(?P<name>a)(?<other>b)",
        r"\d+\w\S[\d-x]",
        r"\pL\p{Greek}\p{^Lu}\PN",
        "[[:alpha:]_][]a][^]a][a-][-a]",
        r"\Q*[\E+",
        r"\x41\x{1F600}\012\07",
        r"\A\bfoo\B\z",
        "a{2}b{2,}c{2,5}d{1000}",
        "{,3}a{02}{x}",
        "((a{10}){10}){10}",
        "a**"[:2],
        "^*$+",
        "",
        "(|a)",
        "]}",
        r"\-\_\/",
    ],
)
def test_fit(pattern: str) -> None:
    assert re2_problem(pattern) is None


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("?", "nothing to repeat"),
        ("a|*", "nothing to repeat"),
        ("{2}", "nothing to repeat"),
        ("a**", "repeats a repetition"),
        ("a++", "possessive"),
        ("a{2}{3}", "repeats a repetition"),
        ("[", "missing ]"),
        ("[]", "missing ]"),
        ("[z-a]", "backwards"),
        ("[[:foo:]]", "unknown class"),
        (r"[a-\d]", "does not exist"),
        ("(", "missing )"),
        (")", "unexpected )"),
        ("(?=a)", "lookahead"),
        ("(?!a)", "lookahead"),
        ("(?<=a)b", "lookbehind"),
        ("(?<!a)b", "lookbehind"),
        ("(?>a)", "does not exist"),
        ("(?#x)", "does not exist"),
        ("(?x)a", "does not exist"),
        ("(?P=n)", "does not exist"),
        ("(?P<n>a)(?P<n>b)", "given twice"),
        (r"(a)\1", "backreferences"),
        (r"\8", "backreferences"),
        ("a\\", "trailing"),
        (r"\Z", "does not exist"),
        (r"\u0041", "does not exist"),
        (r"\p{Foo}", "unknown Unicode class"),
        (r"\x{110000}", "is no character"),
        ("a{1001}", "up to 1000"),
        ("a{5,2}", "up to 1000"),
        ("((a{100}){100}){10}", "more than 1000 in all"),
        (r"\pL{1000}", "too large"),
        ("a" * (MAX_LENGTH + 1), "at most 1024"),
        ("(" * 500, "nested deeper"),
    ],
)
def test_unfit(pattern: str, why: str) -> None:
    problem = re2_problem(pattern)
    assert problem is not None
    assert why in problem
    assert "\n" not in problem


@given(st.text(alphabet="ab()[]{}|*+?\\^$.,:-<>P=!i0129dQEpL", max_size=30))
def test_always_an_answer(pattern: str) -> None:
    assert re2_problem(pattern) is None or "\n" not in str(re2_problem(pattern))
