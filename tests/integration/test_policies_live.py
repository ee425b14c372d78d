"""Rules about who may talk to whom in a real mesh: they come and go while requests are under way, and none fails."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest

from agent.lab.lab import Lab
from agent.lab.plan import CONSUL_HOST, HostPlan, bookinfo_app
from tests.integration.meshlab import APP_UID, bookinfo, hostmesh, load, wait_settled
from tests.waiting import wait_for

DETAILS = "http://details:9080/details/0"
HEAD = "apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A caller, another one, a server, and a host that no mesh knows."""
    details = bookinfo_app("details", "v1", {})
    hosts = (
        CONSUL_HOST,
        HostPlan("client", (bookinfo_app("productpage", "v1", {}),)),
        HostPlan("other", (bookinfo_app("ratings", "v1", {}),)),
        HostPlan("server", (details,)),
        HostPlan("outside", (details,), agent=False, consul=False),
    )
    with Lab(msgspec.structs.replace(bookinfo("10.78.9.0/24"), hosts=hosts, page_host="")) as lab:
        for host in ("client", "other"):
            wait_for(partial(answers, lab, host, DETAILS, "200"), "details answers")
        yield lab


def answers(lab: Lab, host: str, url: str, status: str) -> bool:
    """Tell whether an application on the host gets that status; 000: no answer."""
    argv = ["curl", "-s", "-m", "3", "-o", "/dev/null", "-w", "%{http_code}", url]
    return lab[host].exec(*argv, uid=APP_UID, check=False).stdout == status


def test_policies_come_and_go_under_load(lab: Lab, tmp_path: Path) -> None:
    direct = f"http://{lab['server'].address}:9080/details/0"
    allowed = "{rules: [{from: [{source: {principals: ['*/sa/bookinfo-productpage']}}]}]}"
    denied = "{action: DENY, rules: [{to: [{operation: {paths: [/health]}}]}]}"
    steps = (
        (("PeerAuthentication", "strict", "{mtls: {mode: STRICT}}"), {"outside": "000", "other": "200"}),
        (("AuthorizationPolicy", "pages", allowed), {"outside": "000", "other": "403"}),
        (("AuthorizationPolicy", "closed", denied), {"other": "403"}),
        (("PeerAuthentication", "strict", "{mtls: {mode: PERMISSIVE}}"), {"outside": "403", "other": "403"}),
        (("AuthorizationPolicy", "pages", None), {"outside": "200", "other": "200"}),
        (("PeerAuthentication", "strict", "{mtls: {mode: DISABLE}}"), {"outside": "200", "other": "200"}),
        (("PeerAuthentication", "strict", None), {"outside": "200", "other": "200"}),
    )
    with load(lab["client"], DETAILS, rate=100) as running:
        for (kind, name, spec), expected in steps:
            if spec is None:
                hostmesh(lab, "delete", kind, name)
            else:
                (tmp_path / "rule.yaml").write_text(HEAD.format(kind=kind, name=name, spec=spec))
                hostmesh(lab, "apply", "-f", str(tmp_path / "rule.yaml"))
            for host, status in expected.items():
                url = direct if host == "outside" else DETAILS
                wait_for(partial(answers, lab, host, url, status), f"{kind} {name}: {host} gets {status}")
            wait_settled(lab)
        assert answers(lab, "client", "http://details:9080/health", "403")
    assert running.failures == []
