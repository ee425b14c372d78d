"""The click classes every hostmesh command is made of: global options, an example in each help text, lazy loading.

Holds no command and talks to nothing outside.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, MutableMapping
from typing import Any

import click

_HELP_NAMES = {"help_option_names": ["-h", "--help"], "max_content_width": 110}

_GLOBAL_OPTIONS: tuple[tuple[tuple[str, ...], str, str, str], ...] = (
    (("-n", "--namespace"), "namespace", "NAME", "Config namespace (default: the context's, or `default`)."),
    (("--context",), "context", "NAME", "Context to use instead of the current one."),
    (("--consul-addr",), "consul_addr", "URL", "Consul's HTTP address, e.g. https://consul.example:8501."),
    (("--token-file",), "token_file", "FILE", "File that holds the Consul ACL token."),
    (("--ca-cert",), "ca_cert", "FILE", "CA certificate that Consul's own is checked against."),
    (("--client-cert",), "client_cert", "FILE", "Client certificate for Consul."),
    (("--client-key",), "client_key", "FILE", "Key of the client certificate."),
)


class _GlobalOption(click.Option):
    """An option of the root command that is understood after the subcommand as well (istioctl's users write both)."""


def global_options() -> list[click.Parameter]:
    """Return fresh global options; a given one is remembered in the root context's `obj`, the innermost wins."""
    return [
        _GlobalOption([*flags, key], metavar=metavar, help=text, expose_value=False, callback=_remember)
        for flags, key, metavar, text in _GLOBAL_OPTIONS
    ]


def is_global(parameter: click.Parameter) -> bool:
    """Tell whether it is one of the options that every command takes."""
    return isinstance(parameter, _GlobalOption)


def given_flags(ctx: click.Context) -> MutableMapping[str, str]:
    """Return the global options given on this command line, by name."""
    root = ctx.find_root()
    if root.obj is None:
        root.obj = {}
    flags: MutableMapping[str, str] = root.obj
    return flags


def _remember(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if parameter.name == "namespace" and value is not None:
        from agent.api.checks.words import dns_label

        # It becomes part of KV keys: a "/" in it would address other ones.
        if problem := dns_label(value):
            raise click.BadParameter(problem, ctx, parameter)
    if value is not None and parameter.name:
        given_flags(ctx)[parameter.name] = value


class _Helpful(click.Command):
    """Prints examples after the description, and the global options apart from the command's own."""

    examples: str = ""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples verbatim (click would reflow them)."""
        if self.examples:
            formatter.write_paragraph()
            formatter.write("Examples:\n")
            formatter.write("".join(f"  {line}\n" if line else "\n" for line in self.examples.splitlines()))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write two lists of options: the command's own, and the global ones."""
        own: list[tuple[str, str]] = []
        inherited: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and record[1]:  # an argument without help says nothing the usage line does not
                (inherited if isinstance(parameter, _GlobalOption) else own).append(record)
        for title, records in (("Options", own), ("Global options", inherited)):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class Command(_Helpful):
    """A subcommand: `examples` is shown in its help, the global options are accepted."""

    def __init__(self, *args: Any, examples: str = "", **kwargs: Any) -> None:
        kwargs.setdefault("context_settings", _HELP_NAMES)
        super().__init__(*args, **kwargs)
        self.examples = examples.strip("\n")
        taken = {flag for parameter in self.params for flag in parameter.opts}
        self.params.extend(option for option in global_options() if not taken.intersection(option.opts))


class Group(_Helpful, click.Group):
    """A command with subcommands, some of them imported only when they are called (a fast start)."""

    command_class = Command

    def __init__(
        self,
        *args: Any,
        examples: str = "",
        lazy: Mapping[str, tuple[str, str]] | None = None,
        aliases: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        """`lazy`: subcommand → (`module:attribute`, its one-line help); `aliases`: other spelling → subcommand."""
        kwargs.setdefault("context_settings", _HELP_NAMES)
        super().__init__(*args, **kwargs)
        self.examples = examples.strip("\n")
        self._lazy = dict(lazy or {})
        self._aliases = dict(aliases or {})
        self.params.extend(global_options())

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all subcommands, loaded or not; aliases are left out."""
        return sorted({*super().list_commands(ctx), *self._lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a subcommand by name or alias, importing it if need be."""
        name = self._aliases.get(cmd_name, cmd_name)
        if name in self._lazy:
            module, _, attribute = self._lazy[name][0].partition(":")
            command: click.Command = getattr(importlib.import_module(module), attribute)
            return command
        return super().get_command(ctx, name)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, then the subcommands."""
        _Helpful.format_options(self, ctx, formatter)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the subcommands and their one-line help without importing those not loaded yet."""
        summaries = [(name, self.summary(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(summaries)

    def summary(self, ctx: click.Context, name: str) -> str:
        """Return the one-line help of a subcommand."""
        if name in self._lazy:
            return self._lazy[name][1]
        command = self.get_command(ctx, name)
        return command.get_short_help_str(90) if command else ""
