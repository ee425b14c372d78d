"""`hostmesh delete`: take policies and rules out of Consul, by name or by the files they came from."""

from __future__ import annotations

import click

from agent.cli.command import Command, given_flags
from agent.cli.completion import complete_kind, complete_name
from agent.cli.documents import files_option, load_checked
from agent.errors import PartialWrite, UserError
from agent.mesh.routes import ObjectRef


@click.command(
    cls=Command,
    examples="""
# Delete what a file defines
hostmesh delete -f route-rule-all-v1.yaml

# Delete by name
hostmesh delete routerule reviews-test-v2 reviews-default
""",
)
@click.argument("kind", metavar="[TYPE]", required=False, shell_complete=complete_kind)
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=complete_name)
@files_option
@click.pass_context
def delete(ctx: click.Context, kind: str | None, names: tuple[str, ...], files: tuple[str, ...]) -> None:
    """Delete policies and rules; one that does not exist is an error, and then nothing is deleted."""
    from agent.cli.connection import resolve
    from agent.cli.objects import delete_objects, partial_lines

    if kind and files:
        raise click.UsageError("give TYPE and NAME or -f, not both", ctx)
    if kind and not names:
        raise click.UsageError("give the NAME of at least one object", ctx)
    connection = resolve(given_flags(ctx))
    refs = _named(kind, names, files, connection.namespace)
    try:
        lines = delete_objects(connection, refs)
    except PartialWrite as error:
        click.echo("\n".join(partial_lines(error)))
        raise
    click.echo("\n".join(lines))


def _named(kind: str | None, names: tuple[str, ...], files: tuple[str, ...], namespace: str) -> list[ObjectRef]:
    from agent.api.checks.words import subdomain
    from agent.cli.kinds import parse_kind

    if kind:
        for name in names:
            if problem := subdomain(name):
                raise UserError(problem)
        return [ObjectRef(parse_kind(kind).name, namespace, name) for name in dict.fromkeys(names)]
    return [document.ref for document in load_checked(files, namespace, check=False).documents]
