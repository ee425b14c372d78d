"""`hostmesh ca root activate`: which hosts are waited for."""

from __future__ import annotations

import pytest

from agent.cli.ca_root import lagging
from agent.mesh.status import CertificateStatus, NodeStatus

CERTIFICATES = (CertificateStatus("spiffe://cluster.local/ns/default/sa/a", "1", 0.0),)


@pytest.mark.parametrize(
    ("status", "waited_for"),
    [
        (NodeStatus("n", agent_version="1", certificates=CERTIFICATES, trust_bundle="v2"), False),
        (NodeStatus("n", agent_version="1", certificates=CERTIFICATES, trust_bundle="v1"), True),
        (NodeStatus("n", agent_version="1", certificates=CERTIFICATES), True),
        (NodeStatus("n", agent_version="1", trust_bundle="v1"), True),
        (NodeStatus("n", agent_version="1"), False),
        (NodeStatus("n"), True),
    ],
    ids=["has it", "has the last one", "says nothing of it", "a caller only", "without any identity", "without agent"],
)
def test_hosts_that_may_not_trust_the_new_root_yet(status: NodeStatus, waited_for: bool) -> None:
    assert lagging([status], "v2") == (["n"] if waited_for else [])
