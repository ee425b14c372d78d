"""Which Unix user of this host may have which identity. Asks the user database alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.adapters.identity import StoredCertificate
from agent.adapters.workload_api import LocalIdentities, Svid
from agent.mesh.routes import Fault
from agent.mesh.service import Identity, Workload
from agent.mesh.trust import TrustBundle
from agent.runtime.unix_users import uid_of


def local_identities(
    workloads: Iterable[Workload], held: Mapping[Identity, StoredCertificate], bundle: TrustBundle | None
) -> tuple[LocalIdentities, tuple[Fault, ...]]:
    """Return what local programs can have now, the first workload's identity first, and which users don't exist."""
    by_uid: dict[int, dict[Identity, Svid]] = {}
    faults = []
    for workload in workloads:
        if not workload.user:
            continue
        uid = uid_of(workload.user)
        if uid is None:
            where = f"services.d: service {workload.service}"
            faults.append(Fault(where, f"user {workload.user}: there is no such Unix user on this host"))
        elif stored := held.get(workload.identity):
            pair = stored.certificate
            svid = Svid(stored.leaf.uris[0], pair.chain_pem, pair.key_pem)
            by_uid.setdefault(uid, {})[workload.identity] = svid
    newest = max(held.values(), key=lambda stored: stored.obtained_at, default=None)
    roots = bundle.roots_pem if bundle else newest.trust_bundle_pem if newest else b""
    identities = {uid: tuple(svids.values()) for uid, svids in by_uid.items()}
    said = bundle or TrustBundle(b"")
    domain = "/".join(newest.leaf.uris[0].split("/")[:3]) if newest else ""
    return LocalIdentities(identities, roots, said.crls_pem, said.jwks, domain), tuple(faults)
