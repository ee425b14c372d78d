"""`hostmesh get`: the stored policies and rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from agent.cli.command import Command, given_flags
from agent.cli.completion import complete_kind, complete_name
from agent.cli.output import output_option, table, to_json, to_yaml
from agent.errors import UserError

if TYPE_CHECKING:
    from agent.api.document import Document


@click.command(
    cls=Command,
    examples="""
# List all route rules; then everything in every namespace
hostmesh get routerules
hostmesh get all -A

# Print one rule whole
hostmesh get routerule reviews-default -o yaml
""",
)
@click.argument("kind", metavar="TYPE", shell_complete=complete_kind)
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=complete_name)
@output_option("table", "yaml", "json")
@click.option("-A", "--all-namespaces", is_flag=True, help="Of all namespaces.")
@click.pass_context
def get(ctx: click.Context, kind: str, names: tuple[str, ...], output: str, all_namespaces: bool) -> None:
    """List policies and rules of a type (`all`: of every type), or print them whole.

    TYPE in any case, singular or plural, with or without dashes; several with commas.
    """
    from agent.api.document import to_plain
    from agent.cli.connection import resolve
    from agent.cli.kinds import parse_kinds
    from agent.cli.objects import list_objects

    kinds = parse_kinds(kind)
    connection = resolve(given_flags(ctx))
    namespace = None if all_namespaces else connection.namespace
    documents, problems = list_objects(connection, kinds, namespace)
    for problem in problems:
        click.echo(f"Warning: {problem}", err=True)
    if names:
        documents = _named(documents, names, kind, namespace)
    if output == "table" and not documents:
        click.echo("No resources found.", err=True)
    elif output == "table":
        click.echo(_table(documents))
    elif output == "json":
        bodies = [to_plain(document) for document in documents]
        click.echo(to_json(bodies[0] if len(names) == 1 and len(bodies) == 1 else {"kind": "List", "items": bodies}))
    else:
        click.echo(to_yaml(*map(to_plain, documents)), nl=False)


def _named(documents: Sequence[Document], names: Sequence[str], kind: str, namespace: str | None) -> list[Document]:
    missing = [name for name in names if not any(document.name == name for document in documents)]
    if missing:
        where = f"namespace {namespace!r}" if namespace else "any namespace"
        raise UserError(f"no {kind} named {', '.join(missing)} in {where}; `hostmesh get {kind} -A` lists them all")
    return [document for document in documents if document.name in names]


def _table(documents: Sequence[Document]) -> str:
    rows = []
    for document in documents:
        group, _, version = document.api_version.partition("/")
        rows.append((document.name, f"{document.kind}.{version}.{group}", document.namespace))
    return table(("NAME", "KIND", "NAMESPACE"), rows)
