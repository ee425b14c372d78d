"""`hostmesh context`: remember how to reach a mesh, and choose among several."""

from __future__ import annotations

import os

import click
import msgspec

from agent.cli.command import Group, given_flags
from agent.cli.context_file import Context, Contexts, contexts_path, load_contexts, save_contexts
from agent.cli.output import output_option, print_records, table
from agent.errors import ConflictError, UserError


@click.group(
    cls=Group,
    help="Remember how to reach a mesh's Consul, and choose among several.\n\n"
    "The file is ~/.config/hostmesh/contexts.yaml, or what HOSTMESH_CONFIG names.",
    examples="""
hostmesh context create prod --consul-addr https://consul.example:8501 --token-file ~/.consul-token
hostmesh context use prod
hostmesh context list
""",
)
def context() -> None:
    """Hold the subcommands."""


@context.command(
    examples="""
hostmesh context create lab --consul-addr http://10.0.0.1:8500
hostmesh context create prod --consul-addr https://consul.example:8501 --ca-cert ca.pem --token-file token -n shop
"""
)
@click.argument("name")
@click.option("--ca-admin-socket", metavar="PATH", default="", help="hostmesh-ca's administration socket.")
@click.option("--force", is_flag=True, help="Replace a context of that name.")
@click.pass_context
def create(ctx: click.Context, name: str, ca_admin_socket: str, force: bool) -> None:
    """Make a context of the global options given here; the first one becomes the current one."""
    flags = given_flags(ctx)
    path = contexts_path()
    contexts = load_contexts(path)
    if name in contexts.contexts and not force:
        raise ConflictError(f"{path}: context {name!r} exists already; replace it with --force")
    if "consul_addr" not in flags:
        raise click.UsageError("a context needs --consul-addr", ctx)
    made = Context(
        consul_address=flags["consul_addr"],
        token_file=_absolute(flags.get("token_file")),
        ca_cert=_absolute(flags.get("ca_cert")),
        client_cert=_absolute(flags.get("client_cert")),
        client_key=_absolute(flags.get("client_key")),
        namespace=flags.get("namespace", ""),
        ca_admin_socket=_absolute(ca_admin_socket),
    )
    current = contexts.current or name
    save_contexts(path, Contexts(current, {**contexts.contexts, name: made}))
    click.echo(f"Created context {name}{' (current)' if current == name else ''}")


@context.command(examples="hostmesh context use prod")
@click.argument("name")
def use(name: str) -> None:
    """Make a context the current one."""
    path = contexts_path()
    contexts = load_contexts(path)
    _require(contexts, name)
    save_contexts(path, msgspec.structs.replace(contexts, current=name))
    click.echo(f"Current context: {name}")


@context.command("list", examples="hostmesh context list\nhostmesh context list -o json")
@output_option("table", "json", "yaml")
def list_contexts(output: str) -> None:
    """List the contexts; the current one is marked."""
    contexts = load_contexts(contexts_path())
    if output != "table":
        print_records(msgspec.to_builtins(contexts), output)
        return
    rows = [
        ("*" if name == contexts.current else "", name, item.consul_address, item.namespace or "default")
        for name, item in sorted(contexts.contexts.items())
    ]
    click.echo(table(("CURRENT", "NAME", "CONSUL", "NAMESPACE"), rows))


@context.command(examples="hostmesh context current")
def current() -> None:
    """Print the current context's name."""
    contexts = load_contexts(contexts_path())
    if not contexts.current:
        raise UserError(f"{contexts_path()}: no current context; choose one with `hostmesh context use NAME`")
    click.echo(contexts.current)


@context.command(examples="hostmesh context delete lab")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
def delete(names: tuple[str, ...]) -> None:
    """Forget contexts (the files they name stay)."""
    path = contexts_path()
    contexts = load_contexts(path)
    for name in names:
        _require(contexts, name)
    kept = {name: item for name, item in contexts.contexts.items() if name not in names}
    save_contexts(path, Contexts(contexts.current if contexts.current in kept else "", kept))
    for name in names:
        click.echo(f"Deleted context {name}")


def _require(contexts: Contexts, name: str) -> None:
    if name not in contexts.contexts:
        known = ", ".join(sorted(contexts.contexts)) or "none"
        raise UserError(f"{contexts_path()}: no context {name!r} (known: {known})")


def _absolute(path: str | None) -> str:
    """A context is used from any folder, so its paths are kept absolute."""
    return os.path.abspath(os.path.expanduser(path)) if path else ""
