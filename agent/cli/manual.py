"""Manual pages and shell completion made from the commands themselves, for the packages.

`python -m agent.cli.manual FOLDER` writes FOLDER/man1/*.1, FOLDER/man8/*.8 and FOLDER/completion/{hostmesh,_hostmesh,
hostmesh.fish}. A generator of our own: click-man knows neither the examples nor commands that are loaded when called.
Reads nothing of the machine, so that the same sources give the same pages.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from agent import __version__
from agent.cli.command import Command, Group, is_global
from agent.cli.completion import SHELLS, completion_script

DAEMONS = (("hostmesh-agent", "agent.runtime.main:main"), ("hostmesh-ca", "node_ca.cli:main"))
"""By name: the agent's package may not import the CA's, whose pages are made by the same build."""
_COMPLETION_FILES = {"bash": "hostmesh", "zsh": "_hostmesh", "fish": "hostmesh.fish"}
_FILES = {
    "hostmesh": "~/.config/hostmesh/contexts.yaml\tHow to reach each mesh (hostmesh context).\n"
    "/etc/hostmesh/services.d/\tThe services of this host.",
    "hostmesh-agent": "/etc/hostmesh/agent.yaml\tThe settings.\n"
    "/etc/hostmesh/services.d/*.yaml\tThe services of this host; changes are taken up by themselves.\n"
    "/etc/hostmesh/cluster.env, sidecar.env\tSettings in the words of Istio's VM packages.\n"
    "/var/lib/hostmesh/\tKeys, certificates, the last known configuration.\n"
    "/run/hostmesh/\tSockets.",
    "hostmesh-ca": "/etc/hostmesh/ca.yaml\tThe settings.\n/var/lib/hostmesh-ca/\tThe CA's key and its records.",
}


def write_manual(folder: Path) -> None:
    """Write every page and completion script under the folder; raises OSError."""
    from agent.cli.main import cli

    pages = {f"man1/{name}.1": text for name, text in command_pages(cli)}
    for name, place in DAEMONS:
        module, _, attribute = place.partition(":")
        pages[f"man8/{name}.8"] = page(getattr(importlib.import_module(module), attribute), (name,), 8)
    pages |= {f"completion/{_COMPLETION_FILES[shell]}": completion_script(cli, shell) + "\n" for shell in SHELLS}
    for name, text in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def command_pages(root: click.Group) -> Iterator[tuple[str, str]]:
    """Return (page name, text): the root's own page, and one for each command directly under it."""
    context = click.Context(root)
    yield "hostmesh", page(root, ("hostmesh",), 1, nested=False)
    for name in root.list_commands(context):
        command = root.get_command(context, name)
        assert command is not None
        yield f"hostmesh-{name}", page(command, ("hostmesh", name), 1)


def page(command: click.Command, path: tuple[str, ...], section: int, nested: bool = True) -> str:
    """Return a manual page (roff, man macros); `nested`: with all commands below it, else with their summaries."""
    name = "-".join(path)
    context = _context(command, path)
    lines = [
        f'.TH "{_text(name.upper())}" {section} "" "hostmesh {_text(__version__)}" "hostmesh"',
        ".SH NAME",
        f"{_text(name)} \\- {_text(_summary(command))}",
        ".SH SYNOPSIS",
        *_synopsis(command, context),
        ".SH DESCRIPTION",
        *_paragraphs(command.help or ""),
        *_options(command, context, "OPTIONS", wanted_global=False),
    ]
    if isinstance(command, click.Group):
        lines += _nested(command, path) if nested else _summaries(command, path)
    lines += _examples(command, ".SH EXAMPLES")
    if isinstance(command, Command | Group):
        lines += _options(command, context, "GLOBAL OPTIONS", wanted_global=True)
    lines += _tagged("FILES", _FILES.get(name, ""))
    others = ["hostmesh(1)", "hostmesh-agent(8)", "hostmesh-ca(8)"]
    lines += [".SH SEE ALSO", ", ".join(_text(other) for other in others if other != f"{name}({section})")]
    return "\n".join(lines) + "\n"


def _context(command: click.Command, path: tuple[str, ...]) -> click.Context:
    return click.Context(command, info_name=" ".join(path))


def _summary(command: click.Command) -> str:
    return command.get_short_help_str(200).rstrip(".")


def _synopsis(command: click.Command, context: click.Context) -> list[str]:
    words = " ".join(command.collect_usage_pieces(context))
    return [f"\\fB{_text(str(context.info_name))}\\fR {_text(words)}"]


def _paragraphs(text: str) -> list[str]:
    lines: list[str] = []
    for paragraph in text.replace("\b\n", "").strip().split("\n\n"):
        lines += [".PP", _text(" ".join(paragraph.split()))] if paragraph.strip() else []
    return lines[1:]


def _options(command: click.Command, context: click.Context, title: str, *, wanted_global: bool) -> list[str]:
    records = [
        record
        for parameter in command.get_params(context)
        if is_global(parameter) == wanted_global and (record := parameter.get_help_record(context)) and record[1]
    ]
    lines = [f".SH {title}"] if records else []
    for flags, text in records:
        lines += [".TP", f"\\fB{_text(flags)}\\fR", _text(" ".join(text.split()))]
    return lines


def _nested(group: click.Group, path: tuple[str, ...]) -> list[str]:
    lines = [] if len(path) > 2 else [".SH COMMANDS"]
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        here = (*path, name)
        lines += [f'.SS "{_text(" ".join(here))}"', *_synopsis(command, _context(command, here)), ".PP"]
        lines += _paragraphs(command.help or "")
        lines += _options(command, _context(command, here), "", wanted_global=False)[1:]
        lines += _examples(command, ".PP")
        if isinstance(command, click.Group):
            lines += _nested(command, here)
    return lines


def _summaries(group: click.Group, path: tuple[str, ...]) -> list[str]:
    lines, context = [".SH COMMANDS"], click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        lines += [".TP", f"\\fB{_text('-'.join((*path, name)))}\\fR(1)", _text(_summary(command) + ".")]
    return lines


def _examples(command: click.Command, heading: str) -> list[str]:
    examples = getattr(command, "examples", "") or (command.epilog or "").removeprefix("Example: ")
    if not examples:
        return []
    return [heading, ".nf", ".RS 4", *(_text(line) for line in examples.splitlines()), ".RE", ".fi"]


def _tagged(title: str, text: str) -> list[str]:
    lines = [f".SH {title}"] if text else []
    for line in text.splitlines():
        tag, _, says = line.partition("\t")
        lines += [".TP", f"\\fI{_text(tag)}\\fR", _text(says)]
    return lines


def _text(text: str) -> str:
    """Escape what roff would take for its own; a leading zero-width character keeps `.x` from being a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    escaped = re.sub(r"[^\x00-\x7f]", lambda found: f"\\[u{ord(found[0]):04X}]", escaped)
    return f"\\&{escaped}" if escaped.startswith(".") else escaped


if __name__ == "__main__":
    write_manual(Path(sys.argv[1]))
