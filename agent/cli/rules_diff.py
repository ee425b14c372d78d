"""`hostmesh diff`: what applying files would change, line by line. Reads only."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from agent.cli.command import Command, given_flags
from agent.cli.documents import files_option, load_checked
from agent.cli.output import to_yaml

if TYPE_CHECKING:
    from agent.api.document import Document


@click.command(
    cls=Command,
    examples="""
hostmesh diff -f rules/
hostmesh diff -f reviews.yaml && echo nothing would change
""",
)
@files_option
@click.pass_context
def diff(ctx: click.Context, files: tuple[str, ...]) -> None:
    """Compare files with what is stored: `-` lines stand in Consul, `+` lines in the files.

    Ends with exit code 1 if anything differs, as diff does.
    """
    from agent.adapters.consul.store import RuleStore
    from agent.api.document import from_json
    from agent.cli.connection import resolve
    from agent.errors import ValidationError

    connection = resolve(given_flags(ctx))
    loaded = load_checked(files, connection.namespace)
    for line in loaded.unenforceable:
        click.echo(f"Warning: {line}", err=True)
    store = RuleStore(connection.consul())
    differs = False
    for document in loaded.documents:
        stored = store.get(document.key)
        try:
            before = from_json(stored.key, stored.value) if stored else None
        except ValidationError as error:
            click.echo(f"Warning: {error.problems[0]}", err=True)
            before = None
        for line in _lines(before, document):
            differs = True
            click.echo(line)
    if differs:
        ctx.exit(1)


def _lines(before: Document | None, after: Document) -> Iterator[str]:
    old = _text(before) if before else []
    name = f"{after.kind}/{after.name}.{after.namespace}"
    return difflib.unified_diff(old, _text(after), f"{name} (stored)", f"{name} ({after.source})", lineterm="")


def _text(document: Document) -> list[str]:
    from agent.api.document import to_plain

    return to_yaml(to_plain(document)).splitlines()
