"""`hostmesh schema`: the JSON Schema of a kind, from the same declarations that validation uses."""

from __future__ import annotations

from typing import Any

import click

from agent.cli.command import Command
from agent.cli.completion import complete_kind
from agent.cli.output import to_json


@click.command(
    cls=Command,
    examples="""
hostmesh schema VirtualService > virtualservice.schema.json
hostmesh schema routerule

# In a YAML file, for editors with yaml-language-server
# yaml-language-server: $schema=virtualservice.schema.json
""",
)
@click.argument("kind", metavar="KIND", shell_complete=complete_kind)
def schema(kind: str) -> None:
    """Print the JSON Schema (2020-12) of a kind, with which editors complete and check the YAML.

    What only code can check (weights that add up, names that exist) is for `hostmesh validate` and `analyze`.
    """
    from agent.api.json_schema import document_schema
    from agent.cli.kinds import parse_kind

    found: dict[str, Any] = document_schema(parse_kind(kind))
    click.echo(to_json(found))
