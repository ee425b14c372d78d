"""One host's life in the mesh: settings that change under load, services that come and go, two agents at once.

And starts while Consul, the CA, the disk or Envoy's binary are away.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from agent.lab.host import Host
from agent.lab.hostfiles import AGENT_UID
from agent.lab.lab import Lab
from agent.lab.plan import CONSUL_HOST, HostPlan, bookinfo_app
from agent.lab.readiness import agent_ready, ca_ready
from agent.translate.netfilter import CallerSource
from tests.integration.meshlab import (
    APP_UID,
    agents,
    bookinfo,
    envoy_admin,
    hostmesh,
    load,
    metric_lines,
    node_status,
    sent_resources,
    wait_settled,
)
from tests.waiting import wait_for

AGENT = Path(sys.executable).with_name("hostmesh-agent")
GREETER = str(Path(__file__).with_name("greeter.py"))
DETAILS = "http://details:9080/details/0"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A client whose every connection is captured, a server, and a host that no mesh knows."""
    details = bookinfo_app("details", "v1", {})
    hosts = (
        CONSUL_HOST,
        HostPlan("client", (bookinfo_app("productpage", "v1", {}),), settings={"interception": {"outbound": "all"}}),
        HostPlan("server", (details,)),
        HostPlan("outside", (details,), agent=False, consul=False),
    )
    with Lab(msgspec.structs.replace(bookinfo("10.78.6.0/24"), hosts=hosts, page_host="")) as lab:
        wait_for(lambda: call(lab, DETAILS) == "200", "details answers")
        yield lab


def call(lab: Lab, url: str, host: str = "client") -> str:
    """Return the status of a request that an application on a host makes; 000 if there is no answer."""
    argv = ["curl", "-s", "-m", "3", "-o", "/dev/null", "-w", "%{http_code}", url]
    return lab[host].exec(*argv, uid=APP_UID, check=False).stdout


def answers(lab: Lab, url: str, status: str) -> bool:
    """Tell whether the foreign host gets that status."""
    return call(lab, url, "outside") == status


def registered(lab: Lab, service: str) -> list[dict[str, Any]]:
    """Return the catalog's entries of a service."""
    with urllib.request.urlopen(f"{lab.state.consul}/v1/health/service/{service}?passing") as answer:
        return [entry["Service"] for entry in json.load(answer)]


def is_proxied(lab: Lab, service: str) -> bool:
    return [entry["Meta"].get("hostmesh-tls") for entry in registered(lab, service)] == ["true"]


def run_agent(lab: Lab, host: str, state: Path, run: Path, config: Path | None = None) -> list[str]:
    """Run a further agent that must end by itself; return the lines it says."""
    folders = ("--config-dir", str(config or lab[host].path("etc")), "--state-dir", str(state), "--run-dir", str(run))
    done = lab[host].exec(str(AGENT), *folders, uid=AGENT_UID, check=False, timeout=15)
    assert done.returncode == 1
    return done.stderr.splitlines()


def test_mtls_modes_change_under_load(lab: Lab) -> None:
    """Each step is taken through `permissive`, as the documentation says; what a foreign host gets follows."""
    expected = {"strict": "000", "permissive": "200", "disabled": "200"}
    address = f"http://{lab['server'].address}:9080/details/0"
    with load(lab["client"], DETAILS, rate=100) as running:
        for mode in ("strict", "permissive", "disabled", "permissive"):
            hostmesh(lab, "mesh", "set", f"mtls={mode}")
            wait_for(partial(answers, lab, address, expected[mode]), f"{mode} holds")
            wait_settled(lab)
    assert running.failures == []


def test_the_outbound_traffic_policy_changes_live(lab: Lab) -> None:
    unknown = f"http://{lab['outside'].address}:9080/details/0"
    assert call(lab, unknown) == "200"
    hostmesh(lab, "mesh", "set", "outboundTrafficPolicy=REGISTRY_ONLY")
    wait_for(lambda: call(lab, unknown) != "200", "an unknown destination is refused")
    assert call(lab, DETAILS) == "200"
    hostmesh(lab, "mesh", "set", "outboundTrafficPolicy=ALLOW_ANY")
    wait_for(lambda: call(lab, unknown) == "200", "it is allowed again")


def test_names_and_rules_that_another_program_took_away_come_back(lab: Lab) -> None:
    """Within 5 s; a fault tells it for a while, the metric for ever."""
    client = lab["client"]
    wait_for(lambda: call(lab, DETAILS) == "200", "details answers")
    before = repairs(client)
    flushed = time.monotonic()
    for flush in ("iptables", "ip6tables"):
        client.exec(flush, "-w", "-t", "nat", "-F")
    client.path("var/dns/hostmesh").write_text("")
    wait_for(lambda: repairs(client) > before, "all is repaired", 30)
    assert time.monotonic() - flushed < 5
    wait_for(lambda: call(lab, DETAILS) == "200", "details answers again")
    assert any("another program had changed it" in fault.reason for fault in node_status(client).faults)
    for save in ("iptables-save", "ip6tables-save"):
        assert "REDIRECT" in client.exec(save).stdout
    wait_for(lambda: not node_status(client).faults, "no fault is left", 40)


def repairs(host: Host) -> float:
    """Return how often a host's agent has put back what others had changed."""
    (line,) = metric_lines(host, "hostmesh_interception_repairs_total")
    return float(line.split()[1])


def test_a_restarted_agent_adopts_and_one_that_runs_envoy_otherwise_replaces_it(lab: Lab) -> None:
    """As the unit restarts it (SIGUSR1): nothing is taken away, nothing is sent again, and no request fails."""
    hosts = [lab[name] for name in ("client", "server")]
    envoys = [host.pid("envoy") for host in hosts]
    with load(lab["client"], DETAILS) as running:
        restart(lab, hosts)
        assert [host.pid("envoy") for host in hosts] == envoys
        assert [sum(sent_resources(host).values()) for host in hosts] == [0, 0]
        for host in hosts:
            agent_yaml = host.path("etc/agent.yaml")
            settings = yaml.safe_load(agent_yaml.read_text())
            settings["proxy"]["concurrency"] += 1
            agent_yaml.write_text(yaml.safe_dump(settings))
        restart(lab, hosts)
        for host in hosts:
            wait_for(partial(serves_since_hot_restart, host), "the next Envoy serves")
        wait_settled(lab)
    assert running.failures == []
    assert running.total > 20


def restart(lab: Lab, hosts: list[Host]) -> None:
    """Restart agents as systemd does, and wait until they serve; meanwhile rules and names stay."""
    for host in hosts:
        host.exec("kill", "-USR1", str(host.pid("agent")))
        wait_for(partial(has_no_agent, host), "the agent ends")
        assert "HOSTMESH" in host.exec("iptables-save").stdout
        assert host.exec("getent", "hosts", "details").stdout.strip()
        lab.start_agent(host.name)
    lab.wait({(host.name, "agent"): agent_ready(host) for host in hosts})


def has_no_agent(host: Host) -> bool:
    return host.pid("agent") is None


def serves_since_hot_restart(host: Host) -> bool:
    try:
        info = json.loads(envoy_admin(host, "/server_info"))
    except subprocess.CalledProcessError:  # the old one has left its socket, the new one is not there yet
        return False
    return bool(info["state"] == "LIVE" and info["command_line_options"]["restart_epoch"] == 1)


def test_another_trust_domain_than_the_cas_is_a_fault(lab: Lab) -> None:
    hostmesh(lab, "mesh", "set", "trustDomain=other.example")
    wait_for(lambda: "trustDomain is other.example" in hostmesh(lab, "ps"), "the fault is told")
    hostmesh(lab, "mesh", "set", "trustDomain=cluster.local")
    wait_for(lambda: not any(node_status(host).faults for host in agents(lab)), "no fault is left")
    wait_for(lambda: call(lab, DETAILS) == "200", "details answers")


def test_a_service_with_an_account_of_its_own_comes_and_goes_with_its_file(lab: Lab) -> None:
    server = lab["server"]
    file, token = server.path("etc/services.d/greeter.yaml"), server.path("etc/join-token")
    process = server.start("greeter", (sys.executable, GREETER, "3307", "greeter"), APP_UID)
    made = hostmesh(lab, "ca", "token", "create", "--identity", "ns/shop/sa/greeter", "--socket", lab.state.ca_socket)
    token.write_text(f"{token.read_text()}ns/shop/sa/greeter {made.strip()}\n")
    file.write_text("name: greeter\nnamespace: shop\nserviceAccount: greeter\nport: 3307\nprotocol: mysql\n")
    with load(lab["client"], DETAILS) as running:
        wait_for(lambda: is_proxied(lab, "greeter"), "the greeter is in the catalog")
        held = [certificate.identity for certificate in node_status(server).certificates]
        assert "spiffe://cluster.local/ns/shop/sa/greeter" in held
        greeting = ("timeout", "3", "bash", "-c", "head -n 1 </dev/tcp/greeter.shop/3307")
        wait_for(lambda: "greeter" in lab["client"].exec(*greeting, uid=APP_UID, check=False).stdout, "it greets")
        file.unlink()
        wait_for(lambda: not registered(lab, "greeter"), "the greeter is out of the catalog")
        wait_for(lambda: len(node_status(server).certificates) == 1, "its certificate is let go")
    assert running.failures == []
    server.exec("kill", str(process.pid))
    server.forget("greeter")


def test_the_meshs_default_says_whether_services_are_proxied(lab: Lab) -> None:
    file = lab["server"].path("etc/services.d/details-9080.yaml")
    said = file.read_text()
    file.write_text(said.replace("proxied: true\n", ""))
    assert file.read_text() != said
    hostmesh(lab, "mesh", "set", "proxied=false")
    wait_for(lambda: not is_proxied(lab, "details"), "details has no Envoy in front", 60)
    wait_for(lambda: call(lab, DETAILS) == "200", "details answers in plain text", 60)
    hostmesh(lab, "mesh", "set", "proxied=true")
    wait_for(lambda: is_proxied(lab, "details"), "details has its Envoy again", 60)
    file.write_text(said)
    wait_for(lambda: call(lab, DETAILS) == "200", "details answers", 60)


def test_the_doctor_finds_nothing_wrong_with_a_host_that_serves(lab: Lab) -> None:
    server = lab["server"]
    places = [
        f"--{name}-dir={server.path(folder)}" for name, folder in (("config", "etc"), ("run", "run"), ("state", "var"))
    ]
    words = (str(AGENT.with_name("hostmesh")), "doctor", "-o", "json", *places)

    def is_well() -> bool:
        found = json.loads(server.exec(*words, check=False, timeout=60).stdout)
        wrong = [f"{one['check']}: {one['found']}" for one in found if one["level"] == "error"]
        assert wrong == []
        return True

    wait_for(is_well, timeout=60, interval=1.0)


ALICE_UID = 2101
ALICE = f"""name: alice
serviceAccount: alice
port: 9099
protocol: http
labels: {{team: a}}
user: "{ALICE_UID}"
"""
ONLY_ALICE = """apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-alice}
spec: {rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/alice]}}]}]}
"""
ALICES_FAULT = """apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: details}
spec:
  hosts: [details]
  http:
  - match: [{sourceLabels: {team: a}}]
    fault: {abort: {httpStatus: 418, percentage: {value: 100}}}
    route: [{destination: {host: details}}]
  - route: [{destination: {host: details}}]
"""


def test_two_users_of_one_host_call_under_their_own_identities(lab: Lab) -> None:
    """Certificate, policies and routes are those of the user's service; nobody gets another's by its address."""
    client = lab["client"]
    file, token = client.path("etc/services.d/alice.yaml"), client.path("etc/join-token")
    made = hostmesh(lab, "ca", "token", "create", "--identity", "ns/default/sa/alice", "--socket", lab.state.ca_socket)
    token.write_text(f"{token.read_text()}ns/default/sa/alice {made.strip()}\n")
    with load(client, DETAILS) as running:
        file.write_text(ALICE)
        wait_for(lambda: len(node_status(client).certificates) == 2, "alice has a certificate")
        wait_settled(lab)
        for save in ("iptables-save", "ip6tables-save"):  # before that she is served as everybody
            wait_for(lambda save=save: "HOSTMESH_SOURCE" in client.exec(save).stdout, "her rules")  # type: ignore[misc]
        wait_for(lambda: as_user(client, ALICE_UID) == "200", "alice is served")
    assert running.failures == []
    hostmesh(lab, "apply", "-f", "-", stdin=ONLY_ALICE)
    for version in ("-4", "-6"):
        wait_for(lambda version=version: as_user(client, APP_UID, version) == "403", "refused")  # type: ignore[misc]
        wait_for(lambda version=version: as_user(client, ALICE_UID, version) == "200", "served")  # type: ignore[misc]
    wait_for(lambda: call(lab, DETAILS, "server") == "403", "Envoy to its own host's instance passes the policy, too")
    source = str(CallerSource(ALICE_UID).v4)
    assert as_user(client, APP_UID, "--interface", source) == "000", "whoever takes alice's address is refused"
    hostmesh(lab, "delete", "authorizationpolicy", "only-alice")
    hostmesh(lab, "apply", "-f", "-", stdin=ALICES_FAULT)
    wait_for(lambda: as_user(client, ALICE_UID) == "418", "alice's own route")
    wait_for(lambda: as_user(client, APP_UID) == "200", "everybody else's")
    hostmesh(lab, "delete", "virtualservice", "details")
    file.unlink()
    wait_for(lambda: len(node_status(client).certificates) == 1, "alice's certificate is let go")
    wait_for(lambda: "HOSTMESH_SOURCE" not in client.exec("iptables-save").stdout, "her rules are gone")
    wait_for(lambda: as_user(client, ALICE_UID) == "200", "she is served as everybody")


def as_user(host: Host, uid: int, *options: str) -> str:
    """Return the status of a request to details by a user's program, 000 if there is none."""
    curl = ("curl", "-so", "/dev/null", "-w", "%{http_code}", "--max-time", "5", *options, DETAILS)
    return host.exec(*curl, uid=uid, check=False).stdout


def test_a_first_start_without_the_ca_serves_without_mutual_tls_until_it_is_there(lab: Lab) -> None:
    server = lab["server"]
    lab.kill("consul", "ca")
    lab.stop("server", "agent")
    shutil.rmtree(server.path("var/certificates"))
    lab.start_agent("server")
    wait_for(lambda: registered(lab, "details"), "details is registered", 30)
    assert not is_proxied(lab, "details")
    assert any("certificate" in fault.subject for fault in node_status(server).faults)
    wait_for(lambda: call(lab, DETAILS) == "200", "details answers in plain text")
    with load(lab["client"], DETAILS, rate=100) as running:
        lab.start("consul", "ca")
        identity = "ns/default/sa/bookinfo-details"
        lab.wait({("consul", "ca"): ca_ready(lab["consul"])})
        made = hostmesh(lab, "ca", "token", "create", "--identity", identity, "--socket", lab.state.ca_socket)
        server.path("etc/join-token").write_text(f"{identity} {made.strip()}\n")
        wait_for(lambda: is_proxied(lab, "details"), "details is marked again", 40)
        wait_settled(lab)
        wait_for(lambda: not node_status(server).faults, "no fault is left")
        running.go_on(100)  # with mutual TLS
    assert running.failures == []


def test_a_host_that_boots_while_consul_is_away_serves_what_it_last_knew(lab: Lab) -> None:
    client = lab["client"]
    lab.stop("client", "agent")
    lab.kill("client", "consul")
    lab.start_agent("client")
    lab.wait({("client", "agent"): agent_ready(client)})
    wait_for(lambda: call(lab, DETAILS) == "200", "details is reached")
    assert any(fault.subject == "Consul" for fault in node_status(client).faults)
    lab.start("client", "consul")
    wait_for(lambda: not node_status(client).faults, "no fault is left", 40)
    wait_for(lambda: registered(lab, "productpage"), "it is registered again", 30)


def test_a_second_agent_ends_and_the_first_notices_nothing(lab: Lab) -> None:
    server = lab["server"]
    envoy = server.pid("envoy")
    for run in (server.path("run"), server.path("var/other-run")):
        said = run_agent(lab, "server", server.path("var/other-state"), run)
        assert "another" in said[-1]
        assert "Traceback" not in "".join(said)
    assert node_status(server).proxy.connected
    assert server.pid("envoy") == envoy


def test_what_the_host_cannot_carry_is_one_line(lab: Lab) -> None:
    server = lab["server"]
    config = server.path("var/etc")
    config.mkdir()
    lab.stop("server", "agent")
    agent_yaml = server.path("etc/agent.yaml").read_text()
    (config / "agent.yaml").write_text(agent_yaml.replace(_binary(agent_yaml), "/absent/envoy"))
    try:
        said = run_agent(lab, "server", server.path("var"), server.path("run"), config)
        assert "/absent/envoy" in said[-1]
        assert "install hostmesh-proxy" in said[-1]
        said = run_agent(lab, "server", Path("/proc/state"), server.path("run"))
        assert said == ["hostmesh-agent: /proc/state: cannot be made: No such file or directory"]
    finally:
        lab.start_agent("server")
        lab.wait({("server", "agent"): agent_ready(server)})
    wait_for(lambda: call(lab, DETAILS) == "200", "details answers")


def _binary(agent_yaml: str) -> str:
    return next(line.split(": ")[1] for line in agent_yaml.splitlines() if line.strip().startswith("binary: "))
