"""`hostmesh convert`: rules of the first generation as networking v1, with a report of what changes meaning."""

from __future__ import annotations

import click

from agent.cli.command import Command, given_flags
from agent.cli.documents import files_option, load_checked
from agent.cli.output import to_yaml


@click.command(
    cls=Command,
    examples="""
hostmesh convert -f old/ > new.yaml
hostmesh convert -f route-rule.yaml | hostmesh diff
""",
)
@files_option
@click.pass_context
def convert(ctx: click.Context, files: tuple[str, ...]) -> None:
    """Rewrite the kinds of v1alpha2 and Ingress as VirtualService, DestinationRule, ServiceEntry and Gateway.

    The new documents go to standard output, what means something else in them to standard error, with the place it
    comes from. Documents of other kinds are printed as they are. Convert all rules of a service together.
    """
    from agent.api.conversion.convert import convert as rewrite
    from agent.api.conversion.convert import is_first_generation
    from agent.api.document import to_plain

    loaded = load_checked(files, given_flags(ctx).get("namespace", "default"))
    old = [document for document in loaded.documents if is_first_generation(document)]
    others = [to_plain(document) for document in loaded.documents if not is_first_generation(document)]
    converted = rewrite(old)
    for line in [*loaded.unenforceable, *converted.notes]:
        click.echo(f"Warning: {line}", err=True)
    plain = [*converted.documents, *others]
    if plain:
        click.echo(to_yaml(*plain), nl=False)
