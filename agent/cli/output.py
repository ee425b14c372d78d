"""Output formats: plain aligned tables as istioctl prints them, YAML and JSON.

Plain text without colours or borders: it is read by people and cut by awk alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click


class _Format(click.Choice[str]):
    """A choice of output formats; `short`, as istioctl said it, is the table."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return super().convert("table" if value == "short" and "table" in self.choices else value, param, ctx)


def output_option(*formats: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option -o with these formats, the first being the default."""
    return click.option(
        "-o", "--output", type=_Format(formats), default=formats[0], show_default=True, help="Output format."
    )


def print_records(value: Any, output: str) -> None:
    """Print the value as json or yaml."""
    click.echo(to_json(value) if output == "json" else to_yaml(value).rstrip())


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return the rows under their header, columns padded to the widest cell and two blanks apart."""
    lines = [tuple(header), *(tuple(str(cell) for cell in row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def to_json(value: Any) -> str:
    """Return the value as indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def to_yaml(*documents: Any) -> str:
    """Return the values as YAML documents; several are separated by `---`, so that `-f -` reads them back."""
    import yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # ten times faster where libyaml is there
    return "---\n".join(
        yaml.dump(document, Dumper=dumper, sort_keys=False, allow_unicode=True, width=1000, default_flow_style=False)
        for document in documents
    )
