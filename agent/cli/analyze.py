"""`hostmesh analyze`: findings across rules, services and settings, in files, in the mesh, or of both together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.command import Command, given_flags
from agent.cli.documents import files_option_else, read_files
from agent.cli.output import output_option, print_records
from agent.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agent.api.analysis.finding import Finding
    from agent.api.analysis.gateways import Reported
    from agent.api.document import Document
    from agent.mesh.service import Service, ServiceKey
    from agent.mesh.settings import MeshSettings

FOUND_ISSUES = 79
"""istioctl's exit code for findings at or above the threshold."""
_LEVELS = ("Info", "Warning", "Error")


@click.command(
    cls=Command,
    examples="""
# What is in the mesh
hostmesh analyze

# Files alone (no Consul needed), against a catalog written down, and as if they were applied to the mesh
hostmesh analyze -f rules/
hostmesh analyze -f rules/ --catalog catalog.yaml
hostmesh analyze -f rules/ --live -o json
""",
)
@files_option_else("the mesh itself is looked at")
@click.option("--live", is_flag=True, help="With -f: as if the files were applied to the mesh.")
@click.option(
    "--catalog", "catalog_file", metavar="FILE", help="With -f: the services, as `hostmesh render` reads them."
)
@output_option("log", "json", "yaml")
@click.option(
    "--failure-threshold",
    type=click.Choice(_LEVELS, case_sensitive=False),
    default="Error",
    show_default=True,
    help=f"Level from which on findings end with exit code {FOUND_ISSUES}.",
)
@click.option(
    "--output-threshold",
    type=click.Choice(_LEVELS, case_sensitive=False),
    default="Info",
    show_default=True,
    help="Level from which on findings are printed.",
)
@click.pass_context
def analyze(
    ctx: click.Context,
    files: tuple[str, ...],
    live: bool,
    catalog_file: str | None,
    output: str,
    failure_threshold: str,
    output_threshold: str,
) -> None:
    """Find what is wrong across rules, services and settings: unknown hosts, unreachable rules, conflicts and more.

    Each finding says the object, where it stands, why it matters and how to mend it.
    """
    from agent.api.analysis.finding import Level

    if catalog_file and (live or not files):
        raise click.UsageError("--catalog goes with -f and without --live", ctx)
    found = _find(ctx, files, live, catalog_file)
    shown = [one for one in found if one.kind.level.rank >= Level(output_threshold.title()).rank]
    if output == "log":
        for one in shown:
            click.echo(one.line)
        if not shown:
            click.echo("No issues found.", err=True)
    else:
        records = [_record(one) for one in shown]
        print_records(records, output)
    if any(one.kind.level.rank >= Level(failure_threshold.title()).rank for one in found):
        ctx.exit(FOUND_ISSUES)


def _find(ctx: click.Context, files: tuple[str, ...], live: bool, catalog_file: str | None) -> list[Finding]:
    from agent.api.analysis.analyze import analyze as find
    from agent.api.analysis.finding import SCHEMA, Finding

    documents: dict[str, Document] = {}
    problems: list[str] = []
    services: Mapping[ServiceKey, Service] | None = None
    settings: MeshSettings | None = None
    reported: list[Reported] = []
    if live or not files:
        documents, problems, services, settings = _mesh(ctx)
        reported = _reported(ctx)
    elif catalog_file:
        services, settings = _catalog(catalog_file)
    if files:
        from agent.cli.connection import resolve

        namespace = resolve(given_flags(ctx)).namespace if live else given_flags(ctx).get("namespace", "default")
        given, faults = read_files(files, namespace)
        documents |= {document.key: document for document in given}
        problems += faults
    unreadable = [
        Finding(SCHEMA, "?", problem.partition(": ")[0], "", problem.partition(": ")[2]) for problem in problems
    ]
    return unreadable + find(documents.values(), services, settings, reported)


def _mesh(ctx: click.Context) -> tuple[dict[str, Document], list[str], dict[ServiceKey, Service], MeshSettings]:
    from agent.api.kinds import KINDS
    from agent.api.settings import parse_settings
    from agent.cli.connection import resolve
    from agent.cli.fleet import read_services
    from agent.cli.objects import list_objects
    from agent.cli.settings import read_stored_settings
    from agent.mesh.names import KV_MESH

    connection = resolve(given_flags(ctx))
    documents, problems = list_objects(connection, KINDS, None)
    settings = parse_settings(read_stored_settings(connection), KV_MESH)
    services = read_services(connection, settings.excluded_services)
    return {document.key: document for document in documents}, problems, services, settings


def _reported(ctx: click.Context) -> list[Reported]:
    """Return what the agents tell of objects."""
    from agent.api.analysis.gateways import Reported
    from agent.cli.connection import resolve
    from agent.cli.fleet import read_statuses

    statuses = read_statuses(resolve(given_flags(ctx)))
    return [Reported(status.node, fault) for status in statuses for fault in status.faults]


def _catalog(name: str) -> tuple[dict[ServiceKey, Service], MeshSettings]:
    from agent.cli.catalog_file import read_catalog

    try:
        text = Path(name).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{name}: cannot be read: {error}") from error
    catalog = read_catalog(text, name)
    return {service.key: service for service in catalog.services}, catalog.settings


def _record(one: Finding) -> dict[str, Any]:
    return {
        "code": one.kind.code,
        "name": one.kind.name,
        "level": str(one.kind.level),
        "object": one.object,
        "place": one.place,
        "path": one.path,
        "message": one.message,
        "mend": one.kind.mend,
    }
