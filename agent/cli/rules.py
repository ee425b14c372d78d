"""`hostmesh create | replace | apply | validate`: policies and rules from files into Consul.

Everything is read and checked before anything is written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from agent.cli.command import Command, given_flags
from agent.cli.documents import files_option, load_checked, load_each
from agent.errors import PartialWrite, ValidationError

_OPTIONS = (
    click.option(
        "--allow-unsupported",
        is_flag=True,
        help="Write objects with fields that cannot be enforced here too; agents enforce the rest and report these.",
    ),
    click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing."),
    click.option("--wait", is_flag=True, help="Return when every connected proxy has acknowledged what was written."),
    click.option(
        "--timeout",
        type=click.FloatRange(0.1, 3600),
        default=30.0,
        show_default=True,
        metavar="SECONDS",
        help="How long --wait waits.",
    ),
)


def _writing(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed((files_option, *_OPTIONS)):
        command = option(command)
    return click.pass_context(command)


@click.command(
    cls=Command,
    examples="""
hostmesh create -f route-rule-all-v1.yaml
hostmesh create -n shop -f rules/
cat rule.yaml | hostmesh create
""",
)
@_writing
def create(ctx: click.Context, files: tuple[str, ...], **options: Any) -> None:
    """Create policies and rules; an object that exists already is an error, and then nothing is created."""
    _write(ctx, files, "create", **options)


@click.command(
    cls=Command,
    examples="""
hostmesh replace -f route-rule-reviews-v3.yaml
hostmesh get routerules -o yaml | sed s/v1/v2/ | hostmesh replace
""",
)
@_writing
def replace(ctx: click.Context, files: tuple[str, ...], **options: Any) -> None:
    """Replace existing policies and rules; an object that does not exist is an error, and then nothing is replaced."""
    _write(ctx, files, "replace", **options)


@click.command(
    cls=Command,
    examples="""
hostmesh apply -f rules/
hostmesh apply -f reviews.yaml -f ratings.yaml

# What would change; then change it, and return when every proxy follows
hostmesh apply -f rules/ --dry-run
hostmesh apply -f rules/ --wait --timeout 20
""",
)
@_writing
def apply(ctx: click.Context, files: tuple[str, ...], **options: Any) -> None:
    """Create the policies and rules that do not exist, replace those that do, leave equal ones alone."""
    _write(ctx, files, "apply", **options)


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
    """Check files of policies and rules; writes nothing and needs no Consul.

    An invalid object is an error (exit code 1). One that is valid, but has fields that cannot be enforced here, is a
    warning that names them (exit code 0); create, replace and apply refuse it unless --allow-unsupported is given. One
    object in two files is a warning too: they may be alternatives, but cannot be written together.
    """
    loaded, alternatives = load_each(files, given_flags(ctx).get("namespace", "default"))
    for line in (*loaded.unenforceable, *alternatives):
        click.echo(f"Warning: {line}", err=True)
    count = len(loaded.documents)
    partly = ", not all of it enforceable here (see the warnings)" if loaded.unenforceable else ""
    click.echo(f"{count} object{'s' if count != 1 else ''} valid{partly}")


def _write(
    ctx: click.Context,
    files: tuple[str, ...],
    verb: str,
    *,
    allow_unsupported: bool,
    dry_run: bool,
    wait: bool,
    timeout: float,
) -> None:
    from agent.cli.connection import resolve
    from agent.cli.objects import dangling_lines, partial_lines, plan_objects, write_objects
    from agent.cli.rollout import RolloutWatch

    connection = resolve(given_flags(ctx))
    loaded = load_checked(files, connection.namespace)
    if loaded.unenforceable and not allow_unsupported:
        hint = "Nothing is written; with --allow-unsupported the rest is enforced and these are reported as faults."
        raise ValidationError([*loaded.unenforceable, hint])
    for line in loaded.unenforceable:
        click.echo(f"Warning: {line}", err=True)
    for line in dangling_lines(connection, loaded.documents):
        click.echo(f"Warning: {line}", err=True)
    if dry_run:
        click.echo("\n".join(plan_objects(connection, verb, loaded.documents)))
        return
    watch = RolloutWatch(connection) if wait else None
    try:
        lines, revision = write_objects(connection, verb, loaded.documents)
    except PartialWrite as error:
        click.echo("\n".join(partial_lines(error)))
        raise
    click.echo("\n".join(lines))
    if watch:
        click.echo("\n".join(watch.wait(revision, timeout)))
