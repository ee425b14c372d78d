"""Rules about who may talk to whom in a real mesh: they come and go while requests are under way, and none fails."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from subprocess import CalledProcessError

import msgspec
import pytest

from agent.lab.lab import Lab
from agent.lab.plan import CONSUL_HOST, App, HostPlan, bookinfo_app, python_app
from tests.integration.meshlab import APP_UID, bookinfo, hostmesh, load, node_status, wait_settled
from tests.integration.token_issuer import TokenIssuer
from tests.waiting import wait_for

HERE = Path(__file__).parent
KEYS = "keys.example"
ISSUER, OF_MESH = TokenIssuer("https://issuer.test"), TokenIssuer("https://mesh.test")
MESH_KEYS = "http://keys.default.svc.cluster.local:9090/keys"
DETAILS = "http://details:9080/details/0"
SAMPLES = HERE.parents[1] / "vagrant" / "samples" / "telemetry"
FORWARD_SERVER = App(
    "fluentd-es",
    python_app(SAMPLES / "forward-server.py", 24224),
    24224,
    "tcp",
    namespace="logging",
    health_path="",
)
HEAD = "apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A caller, another one, a server, and a host that no mesh knows."""
    details = bookinfo_app("details", "v1", {})
    hosts = (
        CONSUL_HOST,
        HostPlan("client", (bookinfo_app("productpage", "v1", {}),)),
        HostPlan("other", (bookinfo_app("ratings", "v1", {}), _key_server("keys", 9090, OF_MESH), FORWARD_SERVER)),
        HostPlan("server", (details,)),
        HostPlan("outside", (details, _key_server(KEYS, 443, ISSUER, KEYS)), agent=False, consul=False, names=(KEYS,)),
    )
    with Lab(msgspec.structs.replace(bookinfo("10.78.9.0/24"), hosts=hosts, page_host="")) as lab:
        for host in ("client", "other"):
            wait_for(partial(answers, lab, host, DETAILS, "200"), "details answers")
        yield lab


def _key_server(name: str, port: int, issuer: TokenIssuer, *certificate: str) -> App:
    argv = (*python_app(HERE / "key_server.py", port), *certificate)
    return App(name, argv, port, environment={"KEY_SET": issuer.key_set}, health_path="")


def answers(lab: Lab, host: str, url: str, status: str, *options: str) -> bool:
    """Tell whether an application on the host gets that status; 000: no answer."""
    argv = ["curl", "-s", "-m", "3", "-o", "/dev/null", "-w", "%{http_code}", *options, url]
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


def test_rules_log_into_the_agents_log_and_to_a_service_of_the_mesh(lab: Lab) -> None:
    """The documents' own rules; the server's Envoy reaches fluentd-es by mutual TLS."""
    for file in ("new-log.yaml", "fluentd.yaml"):
        hostmesh(lab, "apply", "-f", str(SAMPLES / file))

    def logged(host: str, part: str) -> bool:
        answers(lab, "client", DETAILS, "200")
        text = lab[host].log(part, lines=100)
        return '"destination":"details"' in text and '"source":"productpage"' in text

    wait_for(partial(logged, "server", "agent"), "a line in the agent's log")
    wait_for(partial(logged, "other", "fluentd-es"), "a record at the server")


LISTED = """
apiVersion: config.istio.io/v1alpha2
kind: listchecker
metadata: {name: rude}
spec: {providerUrl: "http://keys:9090/list", refreshInterval: 1s, blacklist: true}
---
apiVersion: config.istio.io/v1alpha2
kind: listentry
metadata: {name: who}
spec: {value: 'request.headers["x-who"]'}
---
apiVersion: config.istio.io/v1alpha2
kind: rule
metadata: {name: rude}
spec:
  match: destination.name == "details"
  actions: [{handler: rude.listchecker, instances: [who.listentry]}]
"""


def test_a_list_is_fetched_and_outlives_a_source_that_turns_hostile(lab: Lab) -> None:
    """From a service of the mesh; after a few answers it never ends one."""
    hostmesh(lab, "apply", "-f", "-", stdin=LISTED)
    wait_for(partial(answers, lab, "client", DETAILS, "403", "-H", "x-who: mallory"), "mallory is on the list")
    assert answers(lab, "client", DETAILS, "200", "-H", "x-who: alice")
    hostile = "list http://keys:9090/list: is larger than"
    wait_for(lambda: any(hostile in fault for fault in faults(lab)), "the source is hostile")
    assert any("the last good one serves on" in fault for fault in faults(lab))
    assert answers(lab, "client", DETAILS, "403", "-H", "x-who: mallory")
    assert answers(lab, "client", DETAILS, "200", "-H", "x-who: alice")
    hostmesh(lab, "delete", "-f", "-", stdin=LISTED)
    wait_for(partial(answers, lab, "client", DETAILS, "200", "-H", "x-who: mallory"), "nobody looks at lists")
    wait_for(lambda: not any("list http" in fault for fault in faults(lab)), "nobody wants the list")


def faults(lab: Lab) -> list[str]:
    """Return what the server's agent tells."""
    return [f"{fault.subject}: {fault.reason}" for fault in node_status(lab["server"]).faults]


def test_key_sets_outlive_their_source_a_change_of_rules_envoy_and_the_agent(lab: Lab) -> None:
    """By HTTPS, from a host outside whose name and authority are checked."""
    server, outside = lab["server"], lab["outside"]
    good, bad = ISSUER.token(), TokenIssuer(ISSUER.name).token()

    def believes(*, who: tuple[str, str] = (good, "200")) -> bool:
        token, status = who
        return answers(lab, "client", DETAILS, status, "-H", f"Authorization: Bearer {token}")

    hostmesh(lab, "apply", "-f", "-", stdin=_tokens(f"https://{outside.address}/keys"))
    wait_for(lambda: key_set_faults(lab), "a certificate of another name is not believed")
    assert "CERTIFICATE_VERIFY_FAILED" in key_set_faults(lab)
    assert "tokens are refused" in key_set_faults(lab)
    wait_for(lambda: believes(who=(good, "401")), "nobody has keys")
    hostmesh(lab, "apply", "-f", "-", stdin=_tokens(f"https://{KEYS}/keys?of=us"))
    wait_for(believes, "the token is believed")
    assert not key_set_faults(lab)
    assert believes(who=(bad, "401"))
    hostmesh(lab, "apply", "-f", "-", stdin=_tokens(f"https://{KEYS}/keys?of=us", "presence: OPTIONAL"))
    wait_for(lambda: believes(who=(OF_MESH.token(), "200")), "a service of the mesh has keys, too")
    pid = outside.pid(KEYS)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    outside.forget(KEYS)
    hostmesh(lab, "apply", "-f", "-", stdin=_tokens(f"https://{KEYS}/keys?of=us", "forwardOriginalToken: true"))
    wait_settled(lab)
    assert believes(), "the rules have changed"
    assert believes(who=(bad, "401"))
    envoy = server.pid("envoy")
    server.exec("kill", "-KILL", str(envoy))
    wait_for(lambda: server.pid("envoy") not in (None, envoy) and believes(), "another Envoy believes it, too")
    server.exec("kill", "-USR1", str(server.pid("agent")))
    wait_for(lambda: server.pid("agent") is None, "the agent has ended")
    lab.start_agent("server")
    wait_for(lambda: "the last good one serves on" in key_set_faults(lab), "the next agent misses the source")
    envoy = server.pid("envoy")
    server.exec("kill", "-KILL", str(envoy))
    wait_for(lambda: server.pid("envoy") not in (None, envoy) and believes(), "an Envoy of the next agent's, too")
    assert believes(who=(bad, "401"))
    hostmesh(lab, "delete", "RequestAuthentication", "tokens")
    wait_for(lambda: believes(who=("nonsense", "200")) and not key_set_faults(lab), "nobody looks at tokens")


def _tokens(uri: str, more: str = "presence: REQUIRED") -> str:
    rule = f"{{issuer: {ISSUER.name}, jwksUri: '{uri}', {more}}}, {{issuer: {OF_MESH.name}, jwksUri: {MESH_KEYS}}}"
    selector = "selector: {matchLabels: {app: details}}"
    return HEAD.format(kind="RequestAuthentication", name="tokens", spec=f"{{{selector}, jwtRules: [{rule}]}}")


def key_set_faults(lab: Lab) -> str:
    """Return what the server's agent says of key sets."""
    try:
        faults = node_status(lab["server"]).faults
    except CalledProcessError:
        return ""  # the agent is not there
    return " ".join(fault.reason for fault in faults if fault.subject.startswith("key set"))
