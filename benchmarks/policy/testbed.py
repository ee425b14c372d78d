"""Two services on one host behind the same pair of Envoys, called by one other host: one is free, one has the rules."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from msgspec import Struct

from agent.errors import HostError
from agent.lab.host import Host
from agent.lab.hostfiles import APP_UID
from agent.lab.lab import Lab
from agent.lab.plan import CONSUL_HOST, App, HostPlan, LabPlan
from benchmarks.dataplane.testbed import BODY, Way, envoy_command, mesh_proxy
from benchmarks.policy.rules import NAMESPACE
from benchmarks.testlab import running
from tests.integration.meshlab import hostmesh
from tests.waiting import wait_for

SUBNET = "10.78.91.0/24"
FREE_PORT, RULED_PORT = 9080, 9180


class Testbed(Struct, frozen=True):
    """Everything that is measured."""

    lab: Lab
    free: Way
    ruled: Way

    @property
    def client(self) -> Host:
        """Return the host where the load is made."""
        return self.lab["client"]

    def take(self, rules: str) -> None:
        """Have these rules in force, and see that requests still pass."""
        told = hostmesh(self.lab, "apply", "--allow-unsupported", "-f", "-", "--wait", "--timeout", "60", stdin=rules)
        if "Acknowledged" not in told:
            raise HostError(f"the rules are not acknowledged: {told}")
        for way in (self.free, self.ruled):
            wait_for(partial(self.answers, way), f"an answer from {way.url}")

    def answers(self, way: Way) -> bool:
        """Tell whether a request passes."""
        argv = ("curl", "--silent", "--fail", "--max-time", "5", way.url)
        return self.client.exec(*argv, uid=APP_UID, check=False).stdout == BODY


@contextmanager
def testbed(concurrency: int) -> Iterator[Testbed]:
    """Bring up lab and applications; every Envoy has that many worker threads. All is gone at the end."""
    with running(lambda name, _page, consul: _plan(name, consul, concurrency)) as lab:
        proxies = (mesh_proxy(lab["client"]), mesh_proxy(lab["server"]))
        free = Way("default metrics", f"http://echo:{FREE_PORT}/", proxies)
        ruled = Way("50 rules", f"http://ruled.{NAMESPACE}:{RULED_PORT}/", proxies)
        bed = Testbed(lab, free, ruled)
        for way in (free, ruled):
            wait_for(partial(bed.answers, way), f"an answer from {way.url}")
        yield bed


def _plan(name: str, consul_port: int, concurrency: int) -> LabPlan:
    settings = {"proxy": {"concurrency": concurrency}}
    app = envoy_command(concurrency, "app.json", {"BODY": BODY})  # it listens on both ports
    free = App("echo", app, FREE_PORT, service_account="echo", health_path="/")
    ruled = App("ruled", (), RULED_PORT, namespace=NAMESPACE, service_account="ruled", health_path="/")
    idle = App("load", (sys.executable, "-m", "http.server", "9090", "--bind", "127.0.0.1"), 9090, health_path="")
    client, server = (
        HostPlan(host, apps, settings=settings) for host, apps in (("client", (idle,)), ("server", (free, ruled)))
    )
    hosts = (CONSUL_HOST, client, server)
    return LabPlan(hosts=hosts, name=name, prefix=f"{name}-", subnet=SUBNET, consul_port=consul_port)
