"""Says whether a pattern is one that Envoy's RE2 compiles, and why not; Python's `re` accepts another language.

RE2 has no binding among our dependencies, so this follows its grammar (re2 doc/syntax.txt and parse.cc): no lookaround,
backreferences, possessive or atomic groups; repetition counts up to 1000, nested ones multiplied; a bounded program.
"""

from __future__ import annotations

import re

from agent.api.problem import one_line

MAX_LENGTH = 1024
"""Characters; as Istio's."""
MAX_NESTING = 100
MAX_PROGRAM = 80_000
"""Estimated size with repetitions written out; stays well below RE2's bound of 8 MiB (measured)."""

_COUNT = re.compile(r"\{(0|[1-9][0-9]{0,8})(,(0|[1-9][0-9]{0,8})?)?\}")
_GROUP_NAME = re.compile(r"P?<([A-Za-z0-9_]*)>")
_FLAGS = re.compile(r"([imsU]*)(-[imsU]+)?([:)])")
_HEX = re.compile(r"x([0-9A-Fa-f]{2}|\{[0-9A-Fa-f]{1,8}\})")
_OCTAL = re.compile(r"0[0-7]{0,2}|[1-7][0-7]{1,2}")
_UNICODE = re.compile(r"[pP](\{\^?([A-Za-z_]+)\}|([A-Z]))")
_POSIX = re.compile(r"\[:\^?(alnum|alpha|ascii|blank|cntrl|digit|graph|lower|print|punct|space|upper|word|xdigit):\]")
_CLASS_NAMES = """
Any C Cc Cf Co Cs L Ll Lm Lo Lt Lu M Mc Me Mn N Nd Nl No P Pc Pd Pe Pf Pi Po Ps S Sc Sk Sm So Z Zl Zp Zs
Arabic Armenian Bengali Cherokee Common Cyrillic Devanagari Ethiopic Georgian Greek Gujarati Han Hangul Hebrew
Hiragana Inherited Kannada Katakana Khmer Lao Latin Malayalam Mongolian Myanmar Tamil Telugu Thai Tibetan
"""
_CLASSES = frozenset(_CLASS_NAMES.split())
_LITERAL_COST, _ANY_COST, _CLASS_COST, _UNICODE_COST = 1, 2, 2, 220


def re2_problem(pattern: str) -> str | None:
    """Return why RE2 would refuse the pattern, or None."""
    if len(pattern) > MAX_LENGTH:
        return f"the expression has {len(pattern)} characters (at most {MAX_LENGTH})"
    try:
        _Parser(pattern).parse()
    except _Unfit as unfit:
        return f'"{one_line(pattern, 60)}" is not an RE2 expression: {unfit}'
    return None


def rewrite_problem(pattern: str, substitution: str) -> str | None:
    """Return what is wrong with a substitution for what a valid pattern finds (`\\1` is its first group), or None."""
    parser = _Parser(pattern)
    parser.parse()
    for found in re.finditer(r"\\(.?)", substitution, re.DOTALL):
        if found[1] != "\\" and not ("0" <= found[1] <= "9"):
            return f'"{one_line(found[0], 10)}" means nothing (a group is \\1 to \\9, the whole \\0, a backslash \\\\)'
        if found[1] != "\\" and int(found[1]) > parser.groups:
            return f"\\{found[1]} is a group that the expression has not (it has {parser.groups})"
    return None


class _Unfit(Exception):
    """The pattern is not in RE2's language."""


class _Parser:
    """Recursive descent over one pattern; a node is (estimated cost, product of nested repetition counts)."""

    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0
        self._names: set[str] = set()
        self.groups = 0
        """How many groups can be referred to."""

    def parse(self) -> None:
        """Raise _Unfit unless the whole pattern is fit."""
        cost, _ = self._alternation(0)
        if self._at < len(self._text):
            raise _Unfit("unexpected )")
        if cost > MAX_PROGRAM:
            raise _Unfit("too large once its repetitions are written out")

    def _alternation(self, depth: int) -> tuple[int, int]:
        if depth > MAX_NESTING:
            raise _Unfit(f"groups nested deeper than {MAX_NESTING}")
        cost, product = self._sequence(depth)
        while self._take("|"):
            more, other = self._sequence(depth)
            cost, product = cost + more + 1, max(product, other)
        return cost, product

    def _sequence(self, depth: int) -> tuple[int, int]:
        total, product = 0, 1
        last: tuple[int, int] | None = None
        repeated = False
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            count = self._repetition()
            if count is None:
                atom = self._atom(depth)
                repeated = False
                if atom is None:  # flags, empty quotes: they leave the operand before them in place
                    continue
            else:
                if last is None:
                    raise _Unfit(f"{self._operator} has nothing to repeat")
                if repeated:
                    raise _Unfit(f"{self._operator} repeats a repetition" + self._possessive())
                total -= last[0]
                atom = (last[0] * max(count, 1) + 2, last[1] * max(count, 1))
                repeated = True
                if atom[1] > 1000:
                    raise _Unfit("repetition counts of more than 1000 in all")
            last = atom
            total, product = total + atom[0], max(product, atom[1])
        return total, product

    def _possessive(self) -> str:
        return " (possessive quantifiers do not exist in RE2)" if self._operator == "+" else ""

    def _repetition(self) -> int | None:
        """Take a repetition operator and return its count (1 for * + ?), or None if there is none here."""
        char = self._text[self._at]
        self._operator = char
        if char in "*+?":
            self._at += 1
            self._take("?")
            return 1
        found = _COUNT.match(self._text, self._at) if char == "{" else None
        if found is None:
            return None
        low = int(found[1])
        high = int(found[3]) if found[3] else low
        if max(low, high) > 1000 or high < low:
            raise _Unfit(f"{found[0]}: counts go from low to high, up to 1000")
        self._at = found.end()
        self._take("?")
        self._operator = found[0]
        return high

    def _atom(self, depth: int) -> tuple[int, int] | None:
        char = self._next()
        if char == "(":
            return self._group(depth)
        if char == "[":
            return self._char_class(), 1
        if char == "\\":
            cost = self._escape_outside()
            return (cost, 1) if cost else None
        return (_ANY_COST if char == "." else _literal_cost(char)), 1

    def _group(self, depth: int) -> tuple[int, int] | None:
        if self._take("?"):
            self._check_lookaround()
            name = _GROUP_NAME.match(self._text, self._at)
            if name:
                if not name[1] or name[1] in self._names:
                    raise _Unfit(f"the group name <{name[1]}> is empty or given twice")
                self._names.add(name[1])
                self._at = name.end()
                self.groups += 1
            else:
                flags = _FLAGS.match(self._text, self._at)
                if not flags:
                    raise _Unfit(f"(?{self._text[self._at : self._at + 3]}… does not exist in RE2")
                self._at = flags.end()
                if flags[3] == ")":
                    return None
        else:
            self.groups += 1
        cost, product = self._alternation(depth + 1)
        if not self._take(")"):
            raise _Unfit("missing )")
        return cost + 2, product

    def _check_lookaround(self) -> None:
        rest = self._text[self._at : self._at + 2]
        if rest[:1] in ("=", "!") or rest in ("<=", "<!"):
            raise _Unfit("lookahead and lookbehind do not exist in RE2")

    def _escape_outside(self) -> int:
        char = self._peek()
        if char and char in "AbBzC":
            self._at += 1
            return 1
        if self._take("Q"):
            end = self._text.find("\\E", self._at)
            quoted = self._text[self._at :] if end < 0 else self._text[self._at : end]
            self._at = len(self._text) if end < 0 else end + 2
            return sum(map(_literal_cost, quoted))
        shorthand = self._shorthand()
        if shorthand is not None:
            return shorthand
        self._escape()
        return _LITERAL_COST

    def _shorthand(self) -> int | None:
        """Take what follows a backslash if it names a class (\\d, \\pL), and return its cost."""
        char = self._peek()
        if char and char in "dDsSwW":
            self._at += 1
            return _CLASS_COST
        if not char or char not in "pP":
            return None
        found = _UNICODE.match(self._text, self._at)
        if not found or (found[2] or found[3]) not in _CLASSES:
            raise _Unfit("unknown Unicode class after \\p")
        self._at = found.end()
        return _UNICODE_COST

    def _escape(self) -> int:
        """Take what follows a backslash and return the character it stands for."""
        for form, base in ((_HEX, 16), (_OCTAL, 8)):
            found = form.match(self._text, self._at)
            if found:
                self._at = found.end()
                code = int(found[0].strip("x{}"), base)
                if code > 0x10FFFF:
                    raise _Unfit(f"\\{found[0]} is no character")
                return code
        char = self._next("a trailing \\")
        if char.isdigit():
            raise _Unfit(f"\\{char}: backreferences do not exist in RE2")
        if char in "afnrtv":
            return ord({"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}[char])
        if ord(char) >= 128 or char.isalnum():
            raise _Unfit(f"\\{char} does not exist in RE2")
        return ord(char)

    def _char_class(self) -> int:
        """Take a bracket expression after its [ and return its cost."""
        cost = _CLASS_COST
        self._take("^")
        first = True
        while first or self._peek() != "]":
            first = False
            cost += self._class_item()
        self._at += 1
        return cost

    def _class_item(self) -> int:
        if self._text.startswith("[:", self._at) and self._text.find(":]", self._at + 2) >= 0:
            found = _POSIX.match(self._text, self._at)
            if not found:
                raise _Unfit("unknown class in [[:…:]]")
            self._at = found.end()
            return 1
        if self._peek() == "\\":
            self._at += 1
            shorthand = self._shorthand()
            if shorthand is not None:
                return shorthand
            self._at -= 1
        low = self._class_char()
        if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", ""):
            self._at += 1
            if self._class_char() < low:
                raise _Unfit("a range in [ ] that goes backwards")
        return 1

    def _class_char(self) -> int:
        char = self._next("missing ]")
        return self._escape() if char == "\\" else ord(char)

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self, char: str) -> bool:
        if self._peek() != char:
            return False
        self._at += 1
        return True

    def _next(self, missing: str = "it ends too early") -> str:
        char = self._peek()
        if not char:
            raise _Unfit(missing)
        self._at += 1
        return char


def _literal_cost(char: str) -> int:
    return _LITERAL_COST if ord(char) < 128 else 2 * _LITERAL_COST
