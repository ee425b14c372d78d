"""The file that `hostmesh node bundle` makes and `hostmesh node init` reads: all that a new host needs. Pure."""

from __future__ import annotations

from typing import Any

import msgspec
import yaml
from msgspec import Struct

from agent.api.checks import words
from agent.errors import UserError

VERSION = 1
MAX_BYTES = 256 * 1024
AGENT_YAML, JOIN_TOKEN, CLUSTER_ENV = "agent.yaml", "join-token", "cluster.env"
CONSUL_TOKEN, CONSUL_CA = "consul-token", "consul-ca.pem"
SECRET_FILES = frozenset({JOIN_TOKEN, CONSUL_TOKEN})


class BundleConsul(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """How the host reaches Consul."""

    address: str = "http://127.0.0.1:8500"
    token: str = ""
    ca_pem: str = ""


class BundleCa(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """How the host reaches hostmesh-ca; that it is the right one, the join tokens say (they have its fingerprint)."""

    addresses: tuple[str, ...] = ()
    enrolment_port: int = 15012
    renewal_port: int = 15013


class NodeBundle(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """What one host needs to become a node of the mesh. It is a secret until the join tokens are used or over."""

    node: str = ""
    version: int = VERSION
    consul: BundleConsul = BundleConsul()
    ca: BundleCa = BundleCa()
    join_tokens: dict[str, str] = {}
    """By identity, as `ns/NAMESPACE/sa/ACCOUNT`; under the empty name one for whatever identity it is made for."""
    environment: str = ""
    """The text of cluster.env."""

    def files(self) -> dict[str, str]:
        """Return the configuration files that it stands for, by name, but agent.yaml."""
        lines = [f"{identity} {token}".strip() for identity, token in self.join_tokens.items()]
        found = {JOIN_TOKEN: "".join(f"{line}\n" for line in lines), CLUSTER_ENV: self.environment}
        found |= {CONSUL_TOKEN: f"{self.consul.token}\n" if self.consul.token else "", CONSUL_CA: self.consul.ca_pem}
        return {name: text for name, text in found.items() if text}

    def settings(self) -> dict[str, Any]:
        """Return what agent.yaml says of it; files stand beside it, so their names are relative."""
        consul: dict[str, Any] = {"address": self.consul.address}
        consul |= {"tokenFile": CONSUL_TOKEN} if self.consul.token else {}
        consul |= {"caFile": CONSUL_CA} if self.consul.ca_pem else {}
        settings: dict[str, Any] = {"node": self.node, "consul": consul} if self.node else {"consul": consul}
        if self.ca.addresses:
            one = len(self.ca.addresses) == 1
            ca: dict[str, Any] = {"address": self.ca.addresses[0]} if one else {"addresses": list(self.ca.addresses)}
            defaults = BundleCa()
            if self.ca.enrolment_port != defaults.enrolment_port:
                ca["enrolmentPort"] = self.ca.enrolment_port
            if self.ca.renewal_port != defaults.renewal_port:
                ca["renewalPort"] = self.ca.renewal_port
            settings["ca"] = ca
        return settings


def dump_bundle(bundle: NodeBundle) -> bytes:
    """Return the file."""
    head = f"# hostmesh: makes a host the node {bundle.node}. It holds secrets: delete it after use.\n"
    return head.encode() + yaml.safe_dump(msgspec.to_builtins(bundle), sort_keys=False).encode()


def read_bundle(data: bytes, source: str) -> NodeBundle:
    """Return the bundle in a file; raises UserError, whose text shows no secret."""
    if len(data) > MAX_BYTES:
        raise UserError(f"{source}: {len(data)} bytes are too many for a node bundle")
    try:
        bundle = msgspec.convert(yaml.safe_load(data), NodeBundle)
    except (yaml.YAMLError, UnicodeDecodeError, msgspec.ValidationError) as error:
        where = str(error) if isinstance(error, msgspec.ValidationError) else "it is not YAML"
        raise UserError(f"{source}: no node bundle: {where}; make it with `hostmesh node bundle NAME`") from error
    if bundle.version != VERSION:
        raise UserError(f"{source}: is of version {bundle.version}, not {VERSION}; make it anew with this hostmesh")
    if bundle.node and (wrong := words.host(bundle.node)):
        raise UserError(f"{source}: node: {wrong}")
    return bundle


def merged_settings(
    present: dict[str, Any], wanted: dict[str, Any], path: str = ""
) -> tuple[dict[str, Any], list[str]]:
    """Return the settings with the wanted ones over them, and a line for each that says something else now."""
    merged, differences = dict(present), []
    for name, value in wanted.items():
        old = present.get(name)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[name], below = merged_settings(old, value, f"{path}{name}.")
            differences += below
            continue
        if old is not None and old != value:
            differences.append(f"{path}{name}: {old} (now {value})")
        merged[name] = value
    return merged, differences
