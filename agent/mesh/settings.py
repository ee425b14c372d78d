"""The mesh-wide settings (`hostmesh mesh get|set`, KV key hostmesh/mesh)."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from agent.mesh.service import Health


class MtlsMode(StrEnum):
    """What proxied instances accept: permissive takes both, strict only mutual TLS; disabled uses no TLS at all."""

    DISABLED = "disabled"
    PERMISSIVE = "permissive"
    STRICT = "strict"


class OutboundTrafficPolicy(StrEnum):
    """What happens to captured traffic for a destination the mesh doesn't know."""

    ALLOW_ANY = "ALLOW_ANY"
    REGISTRY_ONLY = "REGISTRY_ONLY"


class WarningInstances(StrEnum):
    """What becomes of an instance whose worst Consul check is `warning`."""

    SERVE = "serve"
    """It gets traffic as if it were passing."""
    DRAIN = "drain"
    """It gets no new requests and connections, as if it were critical; those under way end by themselves."""

    def serves(self, health: Health) -> bool:
        """Tell whether an instance in that state gets traffic."""
        return health is Health.PASSING or (health is Health.WARNING and self is WarningInstances.SERVE)


class MeshSettings(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Mesh-wide settings; every field has a default, an absent document means all of them."""

    trust_domain: str = "cluster.local"
    mtls: MtlsMode = MtlsMode.PERMISSIVE
    outbound_traffic_policy: OutboundTrafficPolicy = OutboundTrafficPolicy.ALLOW_ANY
    excluded_services: tuple[str, ...] = ("consul",)
    """Catalog names that are not mesh services."""
    warning_instances: WarningInstances = WarningInstances.SERVE
