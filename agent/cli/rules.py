"""`hostmesh create | replace | apply | validate`: policies and rules from files into Consul.

Everything is read and checked before anything is written.
"""

from __future__ import annotations

import click

from agent.cli.command import Command, given_flags
from agent.cli.documents import files_option, load_documents
from agent.errors import PartialWrite


@click.command(
    cls=Command,
    examples="""
hostmesh create -f route-rule-all-v1.yaml
hostmesh create -n shop -f rules/
cat rule.yaml | hostmesh create
""",
)
@files_option
@click.pass_context
def create(ctx: click.Context, files: tuple[str, ...]) -> None:
    """Create policies and rules; an object that exists already is an error, and then nothing is created."""
    _write(ctx, files, "create")


@click.command(
    cls=Command,
    examples="""
hostmesh replace -f route-rule-reviews-v3.yaml
hostmesh get routerules -o yaml | sed s/v1/v2/ | hostmesh replace
""",
)
@files_option
@click.pass_context
def replace(ctx: click.Context, files: tuple[str, ...]) -> None:
    """Replace existing policies and rules; an object that does not exist is an error, and then nothing is replaced."""
    _write(ctx, files, "replace")


@click.command(
    cls=Command,
    examples="""
hostmesh apply -f rules/
hostmesh apply -f reviews.yaml -f ratings.yaml
""",
)
@files_option
@click.pass_context
def apply(ctx: click.Context, files: tuple[str, ...]) -> None:
    """Create the policies and rules that do not exist, replace those that do, leave equal ones alone."""
    _write(ctx, files, "apply")


@click.command(
    cls=Command,
    examples="""
hostmesh validate -f rules/
hostmesh validate -f - < rule.yaml
""",
)
@files_option
@click.pass_context
def validate(ctx: click.Context, files: tuple[str, ...]) -> None:
    """Check files of policies and rules; writes nothing and needs no Consul."""
    documents = load_documents(files, given_flags(ctx).get("namespace", "default"))
    click.echo(f"{len(documents)} object{'s' if len(documents) != 1 else ''} valid")


def _write(ctx: click.Context, files: tuple[str, ...], verb: str) -> None:
    from agent.cli.connection import resolve
    from agent.cli.objects import partial_lines, write_objects

    connection = resolve(given_flags(ctx))
    documents = load_documents(files, connection.namespace)
    try:
        lines = write_objects(connection, verb, documents)
    except PartialWrite as error:
        click.echo("\n".join(partial_lines(error)))
        raise
    click.echo("\n".join(lines))
