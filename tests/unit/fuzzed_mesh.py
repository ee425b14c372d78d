"""A mesh that documents are about, whatever they name: every host that they mean exists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import structs

from agent.api.analysis.world import World
from agent.api.document import Document
from agent.api.lowering.lower import lower
from agent.api.validate import find_problems, is_invalid
from agent.mesh.gateway import INGRESS_LABELS, Credential
from agent.mesh.service import Instance, Port, Protocol, Service, ServiceKey, Workload, labels_of
from agent.mesh.snapshot import MeshSnapshot
from agent.translate.netfilter import OutboundMode
from agent.translate.options import PlanOptions
from tests.unit.mesh_samples import CERTIFICATE, OPTIONS, mesh

PORTS = (
    Port(80, "http", Protocol.HTTP),
    Port(443, "tls", Protocol.TLS),
    Port(3306, "mysql", Protocol.MYSQL),
    Port(9080, "auto", Protocol.AUTO),
)
_CAPTURE = OPTIONS.interception
assert _CAPTURE is not None
HOSTS = {
    "mesh addresses": structs.replace(OPTIONS, dns_upstreams=("9.9.9.9",)),
    "everything": PlanOptions(structs.replace(_CAPTURE, outbound=OutboundMode.ALL), dns_upstreams=("9.9.9.9",)),
    "gateway": PlanOptions(intercepted=False, gateway=INGRESS_LABELS),
}


def services(documents: Iterable[Document]) -> Mapping[ServiceKey, Service]:
    """Return a service for each host that documents name which are valid."""
    valid = [document for document in documents if not is_invalid(find_problems(document))]
    return {key: _service(key) for key in World(valid, None).assumed() if key.name}


def _service(key: ServiceKey) -> Service:
    made = [
        Instance(f"{key}-{number}", key, "n", f"10.0.0.{number}", PORTS, labels_of({"version": f"v{number}"}))
        for number in (1, 2)
    ]
    return Service.from_instances(key, made)


def snapshot(documents: Iterable[Document], credentials: Mapping[str, Credential] | None = None) -> MeshSnapshot:
    """Return the mesh with these documents' rules in force, as a host knows it that bears a certificate."""
    documents = list(documents)
    known = services(documents)
    lowered = lower(documents, known)
    own = Workload(ServiceKey("default", "own"), "10.0.0.9", (Port(9080, "http", Protocol.HTTP),))
    plain = mesh([*known.values(), *lowered.outside.values()], lowered.policies, workloads=(own,))
    return structs.replace(
        plain,
        certificates={own.identity: CERTIFICATE},
        ingress=lowered.ingress,
        sidecars=lowered.sidecars,
        credentials=credentials or {},
    )
