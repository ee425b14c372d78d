"""What the sources tell the reconciler, beside the Consul adapter's own events."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from agent.mesh.gateway import Credential
from agent.mesh.routes import Fault
from agent.mesh.service import Identity, Workload
from agent.mesh.snapshot import Certificate
from agent.mesh.trust import TrustBundle


class WorkloadsChanged(Struct, frozen=True):
    """services.d was read (at start, on SIGHUP)."""

    workloads: tuple[Workload, ...]
    faults: tuple[Fault, ...] = ()


class CertificatesChanged(Struct, frozen=True):
    """Certificates or the trust bundle are new."""

    certificates: Mapping[Identity, Certificate]
    trust_bundle_pem: bytes


class TrustChanged(Struct, frozen=True):
    """The CA has a new trust bundle."""

    bundle: TrustBundle


class CredentialsChanged(Struct, frozen=True):
    """A gateway host's secrets were read."""

    credentials: Mapping[str, Credential]
    faults: tuple[Fault, ...] = ()


class ListsChanged(Struct, frozen=True):
    """What Mixer's rules look values up on: text by address."""

    texts: Mapping[str, str]


class FaultsChanged(Struct, frozen=True):
    """A source's present faults; an empty tuple clears them."""

    source: str
    faults: tuple[Fault, ...]
