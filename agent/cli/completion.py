"""`hostmesh completion`: shell completion of commands, flags, kinds, nodes and the names of stored objects."""

from __future__ import annotations

import os

import click
from click.shell_completion import CompletionItem, get_completion_class

from agent.cli.command import Command, given_flags
from agent.errors import HostmeshError, UserError

SHELLS = ("bash", "zsh", "fish")


@click.command(
    cls=Command,
    examples="""
# Now, and in each new shell
source <(hostmesh completion)
echo 'source <(hostmesh completion)' >> ~/.bash_profile

hostmesh completion zsh > ~/.zfunc/_hostmesh
hostmesh completion fish > ~/.config/fish/completions/hostmesh.fish
""",
)
@click.argument("shell", type=click.Choice(SHELLS), required=False)
def completion(shell: str | None) -> None:
    """Print the completion script of a shell (default: of the one that SHELL names, else bash)."""
    click.echo(completion_script(click.get_current_context().find_root().command, shell or _login_shell()))


def completion_script(root: click.Command, shell: str) -> str:
    """Return what a shell reads to complete `hostmesh …`; raises UserError for an unknown shell."""
    completer = get_completion_class(shell)
    if completer is None:
        raise UserError(f"no completion for {shell} (one of {', '.join(SHELLS)})")
    # The class's source() would first run bash to check its version; every Debian has had a new enough one since 2019.
    script = completer(root, {}, "hostmesh", "_HOSTMESH_COMPLETE")
    return script.source_template % script.source_vars()


def complete_kind(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the kinds of objects."""
    from agent.api.kinds import supported_kinds
    from agent.cli.kinds import ALL

    names = [kind.key for kind in supported_kinds()] + [ALL]
    return [CompletionItem(name) for name in names if name.startswith(incomplete.lower())]


def complete_name(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the names of the stored objects of the kind given before; none if Consul does not answer."""
    from agent.cli.connection import resolve
    from agent.cli.kinds import ALL, parse_kinds
    from agent.cli.objects import list_objects

    try:
        connection = resolve(given_flags(ctx))
        documents, _ = list_objects(connection, parse_kinds(ctx.params.get("kind") or ALL), connection.namespace)
        names = {document.name for document in documents}
    except HostmeshError:  # a completion has nowhere to show an error
        return []
    given = ctx.params.get("names") or ()
    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete) and name not in given]


def complete_node(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the nodes whose agents report; none if Consul does not answer."""
    from agent.cli.connection import resolve
    from agent.cli.fleet import read_statuses

    try:
        names = [status.node for status in read_statuses(resolve(given_flags(ctx)))]
    except HostmeshError:  # a completion has nowhere to show an error
        return []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _login_shell() -> str:
    name = os.path.basename(os.environ.get("SHELL", ""))
    return name if name in SHELLS else "bash"
