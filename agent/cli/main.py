"""The `hostmesh` command: its list of subcommands, and how errors become lines on stderr and an exit code.

Exit codes: 0 done; 1 it could not be done (the reason is on stderr, one line for each fault); 2 wrong usage.
Subcommands are imported when they are called, so this module imports nothing that is slow.
"""

from __future__ import annotations

from typing import Any

import click

from agent.cli.command import Group, given_flags
from agent.errors import ConfigError, ConsulRefused, ConsulUnavailable, HostmeshError, ValidationError

_SUBCOMMANDS = {
    "create": ("agent.cli.rules:create", "Create policies and rules."),
    "replace": ("agent.cli.rules:replace", "Replace existing policies and rules."),
    "apply": ("agent.cli.rules:apply", "Create or replace policies and rules."),
    "diff": ("agent.cli.rules_diff:diff", "Show what applying files would change."),
    "get": ("agent.cli.rules_get:get", "List policies and rules, or print them whole."),
    "delete": ("agent.cli.rules_delete:delete", "Delete policies and rules."),
    "validate": ("agent.cli.rules:validate", "Check files of policies and rules without writing anything (offline)."),
    "analyze": ("agent.cli.analyze:analyze", "Find what is wrong across rules, services and settings."),
    "schema": ("agent.cli.schema:schema", "Print the JSON Schema of a kind, for editors."),
    "convert": ("agent.cli.convert:convert", "Rewrite rules of the first generation (v1alpha2) as networking v1."),
    "register": ("agent.cli.register:register", "Enter an instance on a host without an agent into the catalog."),
    "deregister": ("agent.cli.register:deregister", "Take an instance that `register` entered out of the catalog."),
    "proxy-status": (
        "agent.cli.proxy_status:proxy_status",
        "Show what each node's proxy has acknowledged (alias: ps).",
    ),
    "proxy-config": (
        "agent.cli.proxy_config:proxy_config",
        "Show what a host's Envoy is configured with (alias: pc).",
    ),
    "proxy-stats": ("agent.cli.proxy_stats:proxy_stats", "Print the statistics of a host's Envoy."),
    "describe": ("agent.cli.describe:describe", "Tell what the mesh knows of a service or an instance."),
    "mesh": ("agent.cli.mesh:mesh", "Show and change the mesh-wide settings."),
    "context": ("agent.cli.context:context", "Remember how to reach a mesh's Consul."),
    "completion": ("agent.cli.completion:completion", "Print the shell completion script."),
    "version": ("agent.cli.version:version", "Print the versions of this command and of the nodes."),
    "render": ("agent.cli.render:render", "Write a node's whole Envoy configuration, offline."),
    "interception": ("agent.cli.interception:interception", "Show, apply and remove this host's iptables rules."),
    "ca": ("agent.cli.ca:ca", "Work with the mesh's certificate authority."),
    "consul-policy": ("agent.cli.consul_policy:consul_policy", "Print the Consul ACL policy of a role."),
    "cert": ("agent.cli.cert:cert", "Show, renew and export the certificates of this host's workloads."),
    "dns": ("agent.cli.dns:dns", "Let another name server of this host answer the mesh's names."),
    "node": ("agent.cli.node:node", "Let a host join the mesh, and leave it."),
    "doctor": ("agent.cli.doctor:doctor", "Find what is wrong with this host, and how to mend it."),
    "support-bundle": ("agent.cli.support_bundle:support_bundle", "Collect what helpers ask for, without secrets."),
    "service": ("agent.cli.service:service", "Declare the services that run on this host."),
    "secret": ("agent.cli.secret:secret", "Install the certificates of a gateway on this host."),
    "servicegraph": ("agent.cli.servicegraph:servicegraph", "Serve the graph of who calls whom, out of Prometheus."),
    "dashboard": ("agent.cli.dashboard:dashboard", "Open Prometheus, Grafana, traces or the service graph."),
    "lab": ("agent.cli.lab:lab", "Run Bookinfo in the mesh on this one machine."),
}

_EXAMPLES = """
# Send everything to version 1 of each service
hostmesh create -f route-rule-all-v1.yaml

# Which rules are there, and which proxies follow them?
hostmesh get routerules
hostmesh proxy-status
"""


class _Root(Group):
    """Turns the project's errors into lines on stderr and exit code 1; the rest are bugs with tracebacks."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand."""
        try:
            return super().invoke(ctx)
        except HostmeshError as error:
            click.echo(explain(error, given_flags(ctx)), err=True)
            ctx.exit(1)


def explain(error: HostmeshError, flags: Any) -> str:
    """Return the lines that tell an operator what went wrong and how to mend it."""
    if isinstance(error, ConfigError | ValidationError):
        return "\n".join(error.problems)
    text = f"Error: {error}"
    if isinstance(error, ConsulUnavailable):
        from agent.cli.connection import describe_address

        return f"{text} ({describe_address(flags)})"
    if isinstance(error, ConsulRefused) and ("403" in text or "ermission denied" in text):
        return f"{text} (the token is set by --token-file, CONSUL_HTTP_TOKEN or the context)"
    return text


@click.group(
    name="hostmesh",
    cls=_Root,
    lazy=_SUBCOMMANDS,
    aliases={"ps": "proxy-status", "pc": "proxy-config"},
    examples=_EXAMPLES,
    help="Operate a service mesh of plain hosts: rules, instances, settings and the state of its proxies.",
)
def cli() -> None:
    """Take the global options; each subcommand does the work."""


def main() -> None:
    """Entry point of the `hostmesh` command."""
    cli(prog_name="hostmesh")
