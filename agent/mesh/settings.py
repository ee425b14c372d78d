"""The mesh-wide settings (`hostmesh mesh get|set`, KV key hostmesh/mesh)."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class MtlsMode(StrEnum):
    """What proxied instances accept: permissive takes both, strict only mutual TLS; disabled uses no TLS at all."""

    DISABLED = "disabled"
    PERMISSIVE = "permissive"
    STRICT = "strict"


class OutboundTrafficPolicy(StrEnum):
    """What happens to captured traffic for a destination the mesh doesn't know."""

    ALLOW_ANY = "ALLOW_ANY"
    REGISTRY_ONLY = "REGISTRY_ONLY"


class MeshSettings(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Mesh-wide settings; every field has a default, an absent document means all of them."""

    trust_domain: str = "cluster.local"
    mtls: MtlsMode = MtlsMode.PERMISSIVE
    outbound_traffic_policy: OutboundTrafficPolicy = OutboundTrafficPolicy.ALLOW_ANY
    excluded_services: tuple[str, ...] = ("consul",)
    """Catalog names that are not mesh services."""
