"""What iptables-save prints and iptables-restore is fed, as text: own part of the live rules, replacement, removal.

Pure; knows own chains by their prefix only, so that it also removes what another version has left.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from difflib import ndiff
from itertools import pairwise

from msgspec import Struct

CHAIN_PREFIX = "HOSTMESH_"


class OwnTable(Struct, frozen=True):
    """The own part of one table."""

    chains: tuple[str, ...]
    rules: tuple[str, ...]
    """`-A HOSTMESH_…` lines in order: the content of own chains."""
    jumps: tuple[str, ...]
    """`-A OUTPUT … -j HOSTMESH_…` lines: rules of other chains that lead to own ones, each as often as it is there."""
    late: tuple[str, ...] = ()
    """The jumps that stand behind a foreign rule of their chain, which may accept what they are there to stop."""

    @property
    def is_empty(self) -> bool:
        """Tell whether nothing of hostmesh is there."""
        return not (self.chains or self.rules or self.jumps)


def own_tables(saved: str) -> dict[str, OwnTable]:
    """Return the own part of each table that has one; the text is iptables-save's, or one meant for restore."""
    tables = {name: _own_table(list(lines)) for name, lines in _tables(saved)}
    return {name: table for name, table in tables.items() if not table.is_empty}


def replacement(saved: str, desired: str) -> str:
    """Return the restore input that turns any earlier own rules into the desired ones, one transaction a table."""
    live = own_tables(saved)
    wanted = own_tables(desired)
    tables = [_replace_table(name, live.get(name), table) for name, table in wanted.items()]
    return "".join(tables) + removal(saved, keep=wanted)


def own_text(saved: str) -> str:
    """Return the own part of the live rules, as `replacement` takes what is desired."""
    return "".join(
        _table(name, [*(f":{chain} - [0:0]" for chain in table.chains), *table.rules, *table.jumps])
        for name, table in own_tables(saved).items()
    )


def one_table(text: str, name: str) -> str:
    """Return one table of a restore input."""
    return "".join(f"*{block}" for block in ("\n" + text).split("\n*")[1:] if block.startswith(f"{name}\n"))


def removal(saved: str, keep: Iterable[str] = ()) -> str:
    """Return the restore input that removes every own chain and every jump to one, or "" if there is none.

    Tables in `keep` are left alone. nat comes first: while its rules stand, the filter's guard must too.
    """
    live = own_tables(saved)
    names = sorted(live.keys() - set(keep), key=lambda name: (name != "nat", name))
    return "".join(_remove_table(name, live[name]) for name in names)


def difference(saved: str, desired: str) -> tuple[str, ...]:
    """Return one line for each own rule that is missing (`- table: rule`) or in excess (`+ table: rule`); () if alike.

    Rules in the wrong order are reported as both. Counters, comments and foreign rules don't matter.
    """
    live, wanted = own_tables(saved), own_tables(desired)
    lines: list[str] = []
    for name in sorted(live.keys() | wanted.keys()):
        lines += _compare(name, _lines(live.get(name)), _lines(wanted.get(name)))
    return tuple(lines)


def own_lines(saved: str) -> tuple[str, ...]:
    """Return the own part in a form that is equal for equal rules."""
    return tuple(f"{name}: {line}" for name, table in sorted(own_tables(saved).items()) for line in _lines(table))


def _compare(name: str, live: list[str], wanted: list[str]) -> list[str]:
    if live == wanted:
        return []
    return [f"{line[0]} {name}: {line[2:]}" for line in ndiff(wanted, live) if line[0] in "+-"]


def _lines(table: OwnTable | None) -> list[str]:
    """Return the table's content with chains and jumps sorted; the order of rules within a chain stays."""
    if table is None:
        return []
    rules = sorted(table.rules, key=lambda rule: rule.split()[1])
    late = [f"{jump} (behind other rules)" for jump in sorted(table.late)]
    return [*(f":{chain}" for chain in sorted(table.chains)), *rules, *sorted(table.jumps), *late]


def _replace_table(name: str, live: OwnTable | None, wanted: OwnTable) -> str:
    old = live or OwnTable((), (), ())
    gone = [chain for chain in old.chains if chain not in wanted.chains]
    return _table(
        name,
        [
            *(f":{chain} - [0:0]" for chain in (*wanted.chains, *gone)),  # declared: made, or emptied
            *_deleted(old.jumps),
            *(f"-X {chain}" for chain in gone),
            *wanted.rules,
            *(f"-I {jump.removeprefix('-A ')}" for jump in wanted.jumps),
        ],
    )


def _remove_table(name: str, live: OwnTable) -> str:
    chains = [f":{chain} - [0:0]" for chain in live.chains]
    return _table(name, [*chains, *_deleted(live.jumps), *(f"-X {chain}" for chain in live.chains)])


def _deleted(jumps: Iterable[str]) -> list[str]:
    return [f"-D {jump.removeprefix('-A ')}" for jump in jumps]


def _table(name: str, lines: Iterable[str]) -> str:
    return "\n".join([f"*{name}", *lines, "COMMIT\n"])


def _tables(saved: str) -> Iterator[tuple[str, Iterator[str]]]:
    for block in ("\n" + saved).split("\n*")[1:]:
        lines = block.splitlines()
        yield lines[0].strip(), (line.strip() for line in lines[1:])


def _own_table(lines: Iterable[str]) -> OwnTable:
    chains, rules, jumps, late = [], [], [], []
    crowded = set[str]()
    for line in lines:
        line = _appended(line)
        if line.startswith(f":{CHAIN_PREFIX}"):
            chains.append(line[1:].split()[0])
        elif line.startswith(f"-A {CHAIN_PREFIX}"):
            rules.append(line)
        elif line.startswith("-A ") and _target(line).startswith(CHAIN_PREFIX):
            jumps.append(line)
            late += [line] if line.split()[1] in crowded else []
        elif line.startswith("-A "):
            crowded.add(line.split()[1])
    return OwnTable(tuple(chains), tuple(rules), tuple(jumps), tuple(late))


def _appended(line: str) -> str:
    """Return the line without counters, and `-I CHAIN 1 rule`, as restore input has it, like `-A CHAIN rule`."""
    if line.startswith("["):  # iptables-save -c
        line = line.partition("] ")[2]
    words = line.split(maxsplit=3)
    if len(words) == 4 and words[0] == "-I" and words[2].isdigit():
        return f"-A {words[1]} {words[3]}"
    return line


def _target(rule: str) -> str:
    """Return the chain or target a rule leads to; a quoted comment may hold anything."""
    try:
        words = shlex.split(rule)
    except ValueError:
        return ""
    return next((after for word, after in pairwise(words) if word in ("-j", "-g")), "")
