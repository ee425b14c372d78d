"""Between plain data and discovery messages: how answers are cut into responses, how Envoy's words are read. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2
from msgspec import Struct

from agent.adapters.xds.subscription import ABSENT, Answers
from agent.mesh.snapshot import Resource

REASON_LIMIT = 400
"""Characters of Envoy's reason that a fault carries."""


class Pack(Struct, frozen=True):
    """The content of one response."""

    resources: tuple[Resource, ...] = ()
    removed: tuple[str, ...] = ()

    @property
    def versions(self) -> dict[str, str]:
        """Return what Envoy is asked to take: name → version."""
        return {resource.name: resource.version for resource in self.resources} | dict.fromkeys(self.removed, ABSENT)


class Outstanding(Struct, frozen=True):
    """A response that Envoy has neither acked nor nacked."""

    pack: Pack
    sent_at: float


def packs(answers: Answers, max_bytes: int, max_resources: int) -> Iterator[Pack]:
    """Cut answers into responses within both bounds; a single resource larger than the bound goes alone."""
    resources: list[Resource] = []
    removed: list[str] = []
    size = 0
    for name, resource in answers:
        cost = len(name) + (len(resource.value) + len(resource.version) + len(resource.type_url) if resource else 0)
        count = len(resources) + len(removed)
        if count and (size + cost > max_bytes or count >= max_resources):
            yield Pack(tuple(resources), tuple(removed))
            resources, removed, size = [], [], 0
        size += cost
        if resource:
            resources.append(resource)
        else:
            removed.append(name)
    if resources or removed:
        yield Pack(tuple(resources), tuple(removed))


def to_message(type_url: str, nonce: str, revision: int, pack: Pack) -> discovery_pb2.DeltaDiscoveryResponse:
    """Return the response; `system_version_info` (the revision) is for people who read Envoy's config dump."""
    message = discovery_pb2.DeltaDiscoveryResponse(
        type_url=type_url, nonce=nonce, system_version_info=str(revision), removed_resources=pack.removed
    )
    for resource in pack.resources:
        entry = message.resources.add(name=resource.name, version=resource.version)
        entry.resource.type_url = resource.type_url
        entry.resource.value = resource.value
    return message


def proxy_version(node: base_pb2.Node) -> str:
    """Return Envoy's version as it says in its node message, or an empty string."""
    if node.HasField("user_agent_build_version"):
        version = node.user_agent_build_version.version
        return f"{version.major_number}.{version.minor_number}.{version.patch}"
    return str(node.user_agent_version)[:64]


def one_line(reason: str) -> str:
    """Return Envoy's reason as one bounded line without control characters and without PEM data it may quote."""
    # Here Envoy puts the whole message before the reason.
    reason = reason[max(reason.find("Proto constraint validation failed"), 0) :]
    reason = reason.split("-----BEGIN", 1)[0]
    line = " ".join("".join(char if char.isprintable() else " " for char in reason).split())
    return line if len(line) <= REASON_LIMIT else line[: REASON_LIMIT - 1] + "…"
