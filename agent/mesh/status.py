"""What a node tells the mesh about itself (KV hostmesh/status/<node>): agents write it, `proxy-status` reads it."""

from __future__ import annotations

from msgspec import Struct

from agent.mesh.routes import Fault


class CertificateStatus(Struct, frozen=True, rename="camel"):
    """A workload certificate that Envoy holds."""

    identity: str
    """SPIFFE ID."""
    serial: str
    not_after: float
    """Unix time, seconds."""
    issuer: str = ""
    """The distinguished name (RFC 4514) of who signed it."""
    renew_at: float = 0.0
    """When it is renewed, Unix time; 0: not known."""


class ProxyStatus(Struct, frozen=True, rename="camel"):
    """The local Envoy as the xDS server and the supervisor see it."""

    connected: bool = False
    version: str = ""
    """Envoy's own version, as it says in its node message."""
    config_revision: int = 0
    """Consul index of the newest rules sent to Envoy."""
    acked_revision: int = 0
    """Consul index of the newest rules that Envoy has acknowledged whole."""
    nacks: tuple[Fault, ...] = ()
    """xDS resources that Envoy refused, with its reason; it keeps their last good form."""
    restarts: int = 0
    last_exit: str = ""


class OperatorAccess(Struct, frozen=True, rename="camel"):
    """Where a node's agent answers operators on other hosts, and by which certificate they know it."""

    address: str
    port: int
    fingerprint: str
    """SHA-256 of the certificate (DER), hexadecimal."""


class ScopeStatus(Struct, frozen=True, rename="camel"):
    """What of the mesh a host's applications can call."""

    sidecar: str = ""
    """The Sidecar that says so; empty: none does, and everything can be called."""
    services: int = 0
    known: int = 0
    """All services of the mesh; those out of the scope are not followed in Consul."""


class NodeStatus(Struct, frozen=True, rename="camel"):
    """One node's status document."""

    node: str
    address: str = ""
    agent_version: str = ""
    proxy: ProxyStatus = ProxyStatus()
    certificates: tuple[CertificateStatus, ...] = ()
    faults: tuple[Fault, ...] = ()
    """Objects, keys and files this agent can't use, or outside systems that are away."""
    operator: OperatorAccess | None = None
    """None: not from other hosts."""
    scope: ScopeStatus = ScopeStatus()
    trust_bundle: str = ""
    """Version (hash) of the newest trust bundle that Envoy has acknowledged; empty: none yet."""
    updated_at: float = 0.0
    """Unix time, seconds."""

    @property
    def state(self) -> str:
        """Return one word for a table: SYNCED, SENT (not acknowledged yet), NACK or NOT CONNECTED."""
        if not self.proxy.connected:
            return "NOT CONNECTED"
        if self.proxy.nacks:
            return "NACK"
        return "SYNCED" if self.proxy.acked_revision >= self.proxy.config_revision else "SENT"
