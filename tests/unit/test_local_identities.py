"""Which Unix user may have which identity."""

from __future__ import annotations

from agent.adapters.identity import StoredCertificate
from agent.adapters.identity.keys import Leaf
from agent.mesh.service import Identity, ServiceKey, Workload
from agent.mesh.snapshot import Certificate
from agent.mesh.trust import TrustBundle
from agent.runtime.local_identities import local_identities


def workload(name: str, account: str, user: str) -> Workload:
    return Workload(ServiceKey("default", name), "10.0.0.1", (), service_account=account, user=user)


def stored(account: str, obtained: float = 1.0) -> StoredCertificate:
    leaf = Leaf(0, 10, "01", (f"spiffe://mesh/ns/default/sa/{account}",))
    return StoredCertificate(Certificate(b"key", account.encode()), leaf, f"roots {obtained}".encode(), obtained, 5)


def test_users_get_the_identities_of_their_workloads_in_order() -> None:
    workloads = (
        workload("a", "a", "1001"),
        workload("b", "b", "1001"),
        workload("again", "a", "1001"),
        workload("c", "c", "root"),
        workload("nobody's", "a", ""),
        workload("no certificate yet", "d", "1002"),
    )
    held = {Identity("default", name): stored(name) for name in "abc"}
    offered, faults = local_identities(workloads, held, TrustBundle(b"roots", b"lists"))
    assert {uid: [svid.chain_pem for svid in svids] for uid, svids in offered.by_uid.items()} == {
        1001: [b"a", b"b"],
        0: [b"c"],
    }
    assert (offered.roots_pem, offered.crls_pem) == (b"roots", b"lists")
    assert faults == ()


def test_without_a_bundle_the_newest_certificate_s_roots_are_given() -> None:
    held = {Identity("default", "a"): stored("a", 1), Identity("default", "b"): stored("b", 2)}
    assert local_identities((), held, None)[0].roots_pem == b"roots 2"


def test_a_user_that_does_not_exist_is_a_fault() -> None:
    _, faults = local_identities((workload("a", "a", "no-such-user"),), {}, None)
    assert "no-such-user: there is no such Unix user" in faults[0].reason
