"""The security kinds to the mesh's own. Pure; only for specs that validation found nothing wrong with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.api.envelope import Document
from agent.mesh.authentication import PeerAuthentication
from agent.mesh.service import Labels, MtlsMode, labels_of

_MODES = {"DISABLE": MtlsMode.DISABLED, "PERMISSIVE": MtlsMode.PERMISSIVE, "STRICT": MtlsMode.STRICT}


def lower_peers(document: Document) -> PeerAuthentication:
    """Return what a PeerAuthentication says."""
    spec = document.spec
    ports = {int(number): _mode(mtls) for number, mtls in (spec.get("portLevelMtls") or {}).items()}
    return PeerAuthentication(document.ref, _selector(spec), _mode(spec.get("mtls")), tuple(sorted(ports.items())))


def _mode(mtls: Mapping[str, Any] | None) -> MtlsMode | None:
    return _MODES.get((mtls or {}).get("mode", ""))


def _selector(spec: Mapping[str, Any]) -> Labels:
    return labels_of((spec.get("selector") or {}).get("matchLabels") or {})
