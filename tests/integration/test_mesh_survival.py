"""Under load: certificates that last ten seconds, a Consul and a CA that go away, agents and Envoys that are killed.

The load asks `reviews` directly from productpage's host, past the page's own second try, so that no failure is hidden.
"""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from agent.lab.host import Host
from agent.lab.lab import Lab
from agent.lab.readiness import agent_ready
from tests.integration.ca_outage import unreachable_ca
from tests.integration.meshlab import (
    agents,
    bookinfo,
    hostmesh,
    load,
    metric_lines,
    node_status,
    wait_settled,
)
from tests.waiting import wait_for

SAMPLES = Path(__file__).parents[2] / "vagrant/samples/bookinfo"
STARS = '"stars"'
RULE_WITH_WRONG_TYPES = (
    b'{"apiVersion":"config.istio.io/v1alpha2","kind":"RouteRule",'
    b'"metadata":{"name":"wrong-types"},"spec":{"destination":7}}'
)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Bookinfo with certificates of ten seconds; reviews v2 and v3 (with stars) alone get traffic."""
    with Lab(bookinfo("10.78.2.0/24", {"lifetime": "10s"})) as lab:
        hostmesh(lab, "apply", "-f", str(SAMPLES / "route-rule-reviews-v2-v3.yaml"))
        wait_settled(lab)
        caller = lab["productpage"]
        vip = caller.exec("getent", "ahostsv4", "reviews").stdout.split()[0]
        wait_for(lambda: all(STARS in caller.get("/reviews/0", address=vip)[1] for _ in range(12)), "all have stars")
        yield lab


def serials(lab: Lab) -> dict[str, str]:
    """Return the serial of each host's certificate."""
    return {host.name: node_status(host).certificates[0].serial for host in agents(lab)}


def misses_the_ca(host: Host) -> bool:
    """Tell whether a host says that its certificate could not be renewed."""
    return any("certificate" in fault.subject for fault in node_status(host).faults)


def check_that_it_is_told(hosts: Iterable[Host]) -> None:
    """Assert that these hosts' metrics have a fault of their certificates."""
    for host in hosts:
        assert any("certificate" in line for line in metric_lines(host, "hostmesh_fault"))


def have_renewed(lab: Lab, before: dict[str, str]) -> bool:
    """Tell whether every host has another certificate; raises AssertionError that says why one has not."""
    same = [name for name, serial in serials(lab).items() if serial == before[name]]
    why = {name: node_status(lab[name]).faults for name in same}
    assert not same, f"{why}; the CA: {lab['consul'].log('ca', 2000)}"
    return True


def test_a_minute_over_rotating_certificates_without_consul(lab: Lab) -> None:
    """Consul gone for a minute and back, the certificates renewed a dozen times meanwhile: no request fails."""
    seen = {name: {serial} for name, serial in serials(lab).items()}
    host = lab["productpage"]
    with load(host, contains=STARS) as direct:
        with load(host, "http://127.0.0.1:9080/productpage", rate=5, contains="Reviewer1") as page:
            lab.stop("consul", "consul", seconds=30)
            wait_for(lambda: any(f.subject == "Consul" for f in node_status(host).faults), "the fault is told", 30)
            assert any('subject="Consul"' in line for line in metric_lines(host, "hostmesh_fault"))
            minute = direct.answered + 60 * 20
            while direct.answered < minute:
                for name, serial in serials(lab).items():
                    seen[name].add(serial)
                direct.go_on(20)
        lab.start("consul", "consul")
        wait_for(lambda: not any(node_status(host).faults for host in agents(lab)), "no fault is left", 60)
        hostmesh(lab, "apply", "-f", str(SAMPLES / "route-rule-reviews-test-v2.yaml"))
        wait_settled(lab, timeout=30)
        hostmesh(lab, "delete", "-f", str(SAMPLES / "route-rule-reviews-test-v2.yaml"))
    assert direct.failures == []
    assert page.failures == []
    assert direct.total > 1000
    assert min(len(found) for found in seen.values()) >= 8


def test_a_client_agent_of_consul_that_lost_everything(lab: Lab) -> None:
    """Killed, its state deleted, started again: the instance is registered again by itself."""
    host = lab["ratings"]
    with load(lab["productpage"], contains=STARS) as running:
        lab.kill("ratings", "consul")
        for path in host.path("consul").glob("*"):
            if path.is_dir():
                host.exec("rm", "-rf", str(path))
        lab.start("ratings", "consul")
        local = ("curl", "-fs", "http://127.0.0.1:8500/v1/agent/service/hostmesh-ratings-9080")
        wait_for(lambda: host.exec(*local, check=False).returncode == 0, "ratings is registered again", 30)
        wait_for(lambda: passing(lab, "ratings") == 1, "ratings is passing", 30)
        wait_for(lambda: not node_status(host).faults, "no fault is left", 30)
    # While its Consul is away the host itself counts as failed: its only instance is gone for the callers meanwhile.
    assert all("Ratings service" in reason or "503" in reason or "200" in reason for _, reason in running.failures)


def test_garbage_in_kv(lab: Lab) -> None:
    """Each kind of garbage is named; good rules work on; a rule written beside it is acknowledged."""
    bad = {
        "default/routerule/not-json": b"\xff\xfe{",
        "default/routerule/wrong-types": RULE_WITH_WRONG_TYPES,
        "default/frobnicator/x": b'{"apiVersion":"x/v1","kind":"Frobnicator","metadata":{"name":"x"},"spec":{}}',
        "default/routerule/huge": b"x" * (512 * 1024),
        "odd": b"",
    }
    with load(lab["productpage"], contains=STARS) as running:
        for key, value in bad.items():
            kv(lab, "PUT", f"hostmesh/config/{key}", value)
        for number in range(1000):
            kv(lab, "PUT", f"hostmesh/config/default/routerule/bad-{number}", b"garbage")
        kv(lab, "PUT", "hostmesh/mesh", b"[]")
        host = lab["productpage"]
        told = {"hostmesh/mesh", "hostmesh/config/default/routerule/bad-0"}  # by two watches, in any order
        wait_for(lambda: told <= {fault.subject for fault in node_status(host).faults}, "the faults are told")
        shown = hostmesh(lab, "proxy-status")
        assert "hostmesh/" in shown
        assert any("bad-0" in line for line in metric_lines(host, "hostmesh_fault"))
        assert "bad-0" in host.log("agent", 5000)
        printed = hostmesh(lab, "apply", "-f", str(SAMPLES / "route-rule-reviews-test-v2.yaml"))
        wait_settled(lab, int(printed.rsplit(" ", 1)[1]), timeout=30)
        kv(lab, "DELETE", "hostmesh/config/default/routerule/bad-?recurse=true")
        for key in bad:
            kv(lab, "DELETE", f"hostmesh/config/{key}")
        kv(lab, "DELETE", "hostmesh/mesh")
        wait_for(lambda: not any(node_status(host).faults for host in agents(lab)), "no fault is left")
        hostmesh(lab, "delete", "-f", str(SAMPLES / "route-rule-reviews-test-v2.yaml"))
    assert running.failures == []


def test_a_bad_services_file(lab: Lab) -> None:
    host = lab["details"]
    bad = host.path("etc/services.d/zz-bad.yaml")
    bad.write_text("name: [\n")
    agent = host.pid("agent")
    assert agent is not None
    host.exec("kill", "-HUP", str(agent))
    wait_for(lambda: any("zz-bad.yaml" in fault.reason for fault in node_status(host).faults), "the fault is told")
    assert passing(lab, "details") == 1
    bad.unlink()
    host.exec("kill", "-HUP", str(agent))
    wait_for(lambda: not node_status(host).faults, "no fault is left")


def test_a_killed_envoy_comes_back_and_no_other_host_notices(lab: Lab) -> None:
    with load(lab["productpage"], contains=STARS) as running:
        before = lab["details"].pid("envoy")
        lab.kill("details", "envoy")
        wait_for(lambda: lab["details"].pid("envoy") not in (None, before), "a new Envoy")
        wait_for(lambda: node_status(lab["details"]).proxy.connected, "it is connected")
        assert node_status(lab["details"]).proxy.restarts == 1
        assert "SIGKILL" in node_status(lab["details"]).proxy.last_exit
        wait_for(lambda: lab["details"].get("/details/0", address=lab["details"].address)[0] == 200, "details serves")
    assert running.failures == []


def test_after_a_killed_agent_its_envoy_rules_and_names_serve_on(lab: Lab) -> None:
    """Killed on the caller's and on a callee's host; nothing fails, and the next agent adopts what is there."""
    hosts = ("productpage", "ratings")
    envoys = {name: lab[name].pid("envoy") for name in hosts}
    with load(lab["productpage"], contains=STARS) as running:
        for name in hosts:
            lab.kill(name, "agent")
        assert lab["productpage"].exec("getent", "hosts", "reviews").stdout.strip()
        running.go_on(40)  # two seconds' worth: that no agent is there is what is tested
        for name in hosts:
            lab.start_agent(name)
        lab.wait({(name, "agent"): agent_ready(lab[name]) for name in hosts})
        wait_settled(lab)
    assert running.failures == []
    assert {name: lab[name].pid("envoy") for name in hosts} == envoys


def test_a_stopped_agent_leaves_the_catalog_and_nothing_behind(lab: Lab) -> None:
    host = lab["details"]
    lab.stop("details", "agent", seconds=30)
    assert passing(lab, "details") == 0
    assert "HOSTMESH" not in host.exec("iptables-save").stdout + host.exec("ip6tables-save").stdout
    assert "240.240" not in host.exec("ip", "route").stdout
    assert host.pid("envoy") is None
    assert host.exec("getent", "hosts", "reviews", check=False).returncode != 0
    lab.start_agent("details")
    wait_for(lambda: passing(lab, "details") == 1, "details is registered and passing", 30)


def passing(lab: Lab, service: str) -> int:
    """Return how many instances of a service Consul calls healthy."""
    with urllib.request.urlopen(f"{lab.state.consul}/v1/health/service/{service}?passing") as answer:
        return len(json.load(answer))


def kv(lab: Lab, method: str, path: str, value: bytes = b"") -> None:
    """Write to Consul's KV as any program might."""
    urllib.request.urlopen(urllib.request.Request(f"{lab.state.consul}/v1/kv/{path}", value, method=method)).close()


def test_the_root_is_changed_under_load(lab: Lab) -> None:
    """Prepare, activate, retire, the CA killed after each: no request fails, and no host is touched by hand."""

    def root(*words: str, check: bool = True) -> str:
        return hostmesh(lab, "ca", "root", *words, "--socket", lab.state.ca_socket, check=check)

    def states() -> list[str]:
        return [info["state"] for info in json.loads(root("list", "-o", "json"))]

    with load(lab["productpage"], contains=STARS) as running:
        root("prepare")
        _revive_ca(lab)
        root("activate")  # as soon as every host's Envoy has the new root
        before = serials(lab)
        _revive_ca(lab)
        assert states() == ["retiring", "active"]
        wait_for(lambda: all(serials(lab)[name] != serial for name, serial in before.items()), "all have renewed")
        wait_for(lambda: root("retire", check=False).startswith("Retired"), "the old root's last certificate ends")
        _revive_ca(lab)
        assert states() == ["active"]
        before = serials(lab)
        wait_for(lambda: all(serials(lab)[name] != serial for name, serial in before.items()), "all renew on")
    assert running.failures == []
    assert running.total > 200


def _revive_ca(lab: Lab) -> None:
    lab.kill("consul", "ca")
    lab.start("consul", "ca")
    wait_for(
        lambda: hostmesh(lab, "ca", "root", "list", "--socket", lab.state.ca_socket, check=False).startswith("ID"),
        "the CA",
    )


def test_the_ca_away_for_as_long_as_is_promised(lab: Lab) -> None:
    """Three quarters of a lifetime just after a renewal, 40 % when one is due: nothing fails, the fault is told.

    Half of the hosts, the caller among them, have the one, the others the other. This test and the next come last:
    certificates of other lifetimes would keep an old root from being retired.
    """
    seconds = 20.0
    fresh, due = agents(lab)[::2], agents(lab)[1::2]
    with lifetime(lab, seconds), load(lab["productpage"], contains=STARS) as running:
        renew_all(due)
        pass_until(time.monotonic() + seconds / 2)
        renew_all(fresh)
        cut, before = time.monotonic(), serials(lab)
        with unreachable_ca(lab, fresh):
            with unreachable_ca(lab, due):
                pass_until(cut + 0.4 * seconds)
                check_that_it_is_told(filter(misses_the_ca, due))  # whose renewal came a little early has no need
            pass_until(cut + 0.75 * seconds)
            assert all(map(misses_the_ca, fresh)), "all were to renew meanwhile"
            check_that_it_is_told(fresh)
        wait_for(lambda: have_renewed(lab, before), "all have renewed")
        wait_for(lambda: not any(node_status(host).faults for host in agents(lab)), "no fault is left")
    assert running.failures == []
    assert running.total > seconds * 20


def test_a_host_whose_clock_is_two_minutes_off_works_and_says_so(lab: Lab) -> None:
    """Ahead, then behind: the caller's agent, whose sense of time is another (Envoy does not run so)."""
    host, pids = lab["productpage"], list[int]()
    with lifetime(lab, 600), load(host, contains=STARS) as running:
        try:
            for offset, words in (("+120", "s ahead of hostmesh-ca's"), ("-120", "s behind hostmesh-ca's")):
                lab.kill(host.name, "agent")
                pids.append(lab.start(host.name, "agent", another_time(offset)).pid)
                lab.wait({(host.name, "agent"): agent_ready(host)})
                wait_for(lambda: node_status(host).certificates, "it has its certificate")
                before = serials(lab)[host.name]
                renew(host)
                assert serials(lab)[host.name] != before
                (fault,) = (fault for fault in node_status(host).faults if fault.subject == "this host's clock")
                assert words in fault.reason
                assert 110 < int(fault.reason.split()[1]) < 130
                wait_settled(lab)
                running.go_on(40)
        finally:
            lab.kill(host.name, "agent")
            lab.start_agent(host.name)
            for pid in pids:  # the library's, which a kill leaves
                for name in (f"sem.faketime_sem_{pid}", f"faketime_shm_{pid}"):
                    Path("/dev/shm", name).unlink(missing_ok=True)
            lab.wait({(host.name, "agent"): agent_ready(host)})
            wait_settled(lab)
    assert running.failures == []
    assert not node_status(host).faults


def another_time(offset: str) -> list[str]:
    """Return what gives a program a clock that is so many seconds off; the one that never jumps stays as it is."""
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    return ["env", f"LD_PRELOAD={library}", f"FAKETIME={offset}", "FAKETIME_DONT_FAKE_MONOTONIC=1"]


@contextmanager
def lifetime(lab: Lab, seconds: float) -> Iterator[None]:
    """Let the CA issue for another lifetime, and every host have such a certificate."""
    path = lab["consul"].path("etc/ca.yaml")
    settings = path.read_text()
    path.write_text(yaml.safe_dump(yaml.safe_load(settings) | {"lifetime": f"{seconds:.0f}s"}))
    try:
        _revive_ca(lab)
        renew_all(agents(lab))
        yield
    finally:
        path.write_text(settings)
        _revive_ca(lab)
        renew_all(agents(lab))


def renew_all(hosts: Sequence[Host]) -> None:
    """Let every host renew at once, so that all certificates are of one age."""
    for host in hosts:
        renew(host)


def renew(host: Host) -> None:
    """Let a host renew now, and wait until it has."""
    argv = ["curl", "-fsS", "-X", "POST", "--max-time", "30", "--unix-socket", str(host.path("run/admin.sock"))]
    subprocess.run([*argv, "http://agent/certificates/renew"], check=True, capture_output=True)


def pass_until(moment: float) -> None:
    """Let time pass: that nothing is there for so long is what is tested."""
    wait_for(lambda: time.monotonic() >= moment, "time passes", 120)
