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


def test_audits_and_dry_runs_are_in_the_agents_log(lab: Lab, tmp_path: Path) -> None:
    watch = "{action: AUDIT, rules: [{to: [{operation: {paths: ['/details/*']}}]}]}"
    trial = HEAD.format(kind="AuthorizationPolicy", name="trial", spec="{action: DENY, rules: [{}]}").replace(
        "{name: trial}", "{name: trial, annotations: {istio.io/dry-run: 'true'}}"
    )
    rules = HEAD.format(kind="AuthorizationPolicy", name="watch", spec=watch) + trial
    hostmesh(lab, "apply", "-f", "-", stdin=rules)
    wait_settled(lab)
    who = "of spiffe://cluster.local/ns/default/sa/bookinfo-productpage at"
    for told in (
        f"audit: AuthorizationPolicy/watch.default rule 0 holds for GET details:9080/details/0 (200) {who}",
        f"dry run deny: AuthorizationPolicy/trial.default rule 0 would refuse GET details:9080/details/0 (200) {who}",
    ):
        wait_for(partial(is_told, lab, told), told)
    hostmesh(lab, "delete", "AuthorizationPolicy", "watch", "trial")


def is_told(lab: Lab, text: str) -> bool:
    """Tell whether the server's agent has logged it of a request."""
    assert answers(lab, "client", DETAILS, "200")
    return text in lab["server"].log("agent", lines=10_000)
