"""Which Unix user of this host may have which identity. Asks the user database, nothing else."""

from __future__ import annotations

import pwd
from collections.abc import Iterable, Mapping

from agent.adapters.identity import StoredCertificate
from agent.adapters.workload_api import LocalIdentities, Svid
from agent.mesh.routes import Fault
from agent.mesh.service import Identity, Workload
from agent.mesh.trust import TrustBundle


def local_identities(
    workloads: Iterable[Workload], held: Mapping[Identity, StoredCertificate], bundle: TrustBundle | None
) -> tuple[LocalIdentities, tuple[Fault, ...]]:
    """Return what local programs can have now, the first workload's identity first, and which users don't exist."""
    by_uid: dict[int, dict[Identity, Svid]] = {}
    faults = []
    for workload in workloads:
        if not workload.user:
            continue
        uid = _uid(workload.user)
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
    return LocalIdentities(identities, roots, bundle.crls_pem if bundle else b""), tuple(faults)


def _uid(user: str) -> int | None:
    """Return a user's number; a number needs no entry."""
    if user.isdigit():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None
