"""The mesh-wide settings (`hostmesh mesh get|set`, KV key hostmesh/mesh)."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct, field

from agent.mesh.access_log import Encoding
from agent.mesh.authorizer import ExtensionProvider
from agent.mesh.collector import MeshTracing
from agent.mesh.service import Health, MtlsMode

__all__ = ["MeshSettings", "MtlsMode", "OutboundTrafficPolicy", "WarningInstances"]

ROOT_NAMESPACE = "istio-system"


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
    """The first part of every identity; hostmesh-ca's must be the same."""
    mtls: MtlsMode = field(default=MtlsMode.PERMISSIVE, name="authPolicy")
    """What instances accept where neither a PeerAuthentication nor the service itself says it."""
    outbound_traffic_policy: OutboundTrafficPolicy = OutboundTrafficPolicy.ALLOW_ANY
    excluded_services: tuple[str, ...] = ("consul",)
    """Catalog names that are not mesh services."""
    warning_instances: WarningInstances = WarningInstances.SERVE
    mtls_excluded_services: tuple[str, ...] = ()
    """Services that callers send plain text to, whatever serves them: by the names that callers use."""
    root_namespace: str = ROOT_NAMESPACE
    """Where objects for all namespaces are."""
    extension_providers: tuple[ExtensionProvider, ...] = ()
    """Servers that rules name: authorizers (AuthorizationPolicy, CUSTOM) and collectors of traces (Telemetry)."""
    access_log_file: str = ""
    """`/dev/stdout`: what passes an Envoy is written into its host's journal; empty: what Telemetry objects ask for."""
    access_log_encoding: Encoding = Encoding.TEXT
    access_log_format: str = ""
    """Envoy's format of a line, for JSON an object of such; empty: Istio's own."""
    trust_domain_aliases: tuple[str, ...] = ()
    """Other trust domains whose identities count as this one's."""
    proxied: bool = True
    """Whether services of services.d that don't say it themselves have Envoy in front."""
    default_metrics: bool = True
    """Whether istio_requests_total and the other metrics that no rule asks for are there."""
    tracing: MeshTracing = MeshTracing()
    """Where traces are sent to; off by default."""
