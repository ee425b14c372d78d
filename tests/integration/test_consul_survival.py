"""What befalls Consul costs no request: leader change, a client agent's restart, a partition, a rotated token; by TLS.

Two instances of one service; the load's host has none. A node that Consul counts as failed is out of its peers'
endpoints, so a service needs an instance on another one; if its node has left, it does not.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.integration.capture import USER
from tests.integration.consul_cluster import SERVERS, ConsulCluster
from tests.integration.netns import lan
from tests.waiting import wait_for


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulCluster]:
    folder: Path = tmp_path_factory.mktemp("cluster")
    folder.chmod(0o755)
    with lan(*SERVERS, "caller", "one", "two", subnet=79) as hosts:
        cluster = ConsulCluster(hosts, folder)
        try:
            cluster.up()
            yield cluster
        finally:
            cluster.down()


def changes_arrive(cluster: ConsulCluster, name: str) -> None:
    """Show that the caller's agent follows the catalog: a new service's name comes and goes."""
    cluster.ask("/v1/agent/service/register", "PUT", {"Name": name, "Port": 5}, at="two")
    cluster.wait(lambda: cluster.virtual_address("caller", name), f"{name} has come")
    cluster.ask(f"/v1/agent/service/deregister/{name}", "PUT", at="two")
    cluster.wait(lambda: not cluster.virtual_address("caller", name), f"{name} is gone")


def test_a_removed_services_name_is_gone_within_two_seconds(cluster: ConsulCluster) -> None:
    """Usually it takes hundredths; the middle of three, as this machine may have other things to do."""
    took = []
    for number in range(3):
        name = f"soon-gone-{number}"
        cluster.ask("/v1/agent/service/register", "PUT", {"Name": name, "Port": 5}, at="two")
        cluster.wait(partial(cluster.virtual_address, "caller", name), f"{name} has come")
        cluster.ask(f"/v1/agent/service/deregister/{name}", "PUT", at="two")
        started = time.monotonic()
        wait_for(lambda name=name: not cluster.virtual_address("caller", name), f"{name} is gone")  # type: ignore[misc]
        took.append(time.monotonic() - started)
    assert sorted(took)[1] < 2


def test_virtual_addresses_of_both_families_outlive_the_agent(cluster: ConsulCluster) -> None:
    host = cluster.hosts["caller"]
    cluster.stop("caller", "agent", hard=True)
    for version in (4, 6):
        address = cluster.virtual_address("caller", version=version)
        url = f"http://[{address}]:8080/" if version == 6 else f"http://{address}:8080/"
        assert host.run("curl", "-sg", "-m10", url, uid=USER).stdout == "hello from the mesh\n", address
    cluster.start_agent("caller")
    cluster.wait(cluster.is_quiet, "the next agent has taken over")


def test_the_leader_is_killed(cluster: ConsulCluster) -> None:
    leader = cluster.leader()
    with cluster.load("caller") as failures:
        cluster.stop(leader, "consul", hard=True)
        cluster.wait(lambda: cluster.leader() not in ("", leader), "another server leads")
        changes_arrive(cluster, "after-the-election")
        cluster.start_consul(leader)
    assert failures == []
    cluster.wait(cluster.is_quiet, "all is as before")


@pytest.mark.parametrize("hard", [True, False], ids=["killed", "stopped"])
def test_a_client_agent_restarts(cluster: ConsulCluster, hard: bool) -> None:
    """Stopped by SIGTERM a client agent leaves: its node is gone from the catalog with all its services."""
    with cluster.load("caller") as failures:
        for name in ("caller", "one"):
            cluster.stop(name, "consul", hard)
        cluster.wait(lambda: cluster.passing() == {"two"}, "the servers have noticed")
        for name in ("caller", "one"):
            cluster.start_consul(name)
        cluster.wait(cluster.is_quiet, "all is as before")
        changes_arrive(cluster, f"after-restart-{hard}".lower())
    assert failures == []


def test_a_client_agent_leaves_with_the_only_instance(cluster: ConsulCluster) -> None:
    """Stopped by SIGTERM it takes its node, and so the whole service, out of the catalog, until it is started again."""
    file = cluster.services_file("two")
    said = file.read_text()
    file.unlink()
    cluster.wait(lambda: cluster.passing() == {"one"}, "the other instance is gone")
    address = cluster.virtual_address("caller")
    with cluster.load("caller") as failures:
        cluster.stop("one", "consul")
        cluster.wait(lambda: "one" not in cluster.nodes() and cluster.passing() == set(), "nobody is in the catalog")
        cluster.wait(lambda: "no instance left" in cluster.log("caller"), "the caller's agent has heard of it")
        assert cluster.virtual_address("caller") == address
        cluster.start_consul("one")
        cluster.wait(lambda: cluster.passing() == {"one"}, "it is back")
        changes_arrive(cluster, "after-the-leave")
    assert failures == []
    file.write_text(said)
    cluster.wait(cluster.is_quiet, "all is as before")


def test_a_partition(cluster: ConsulCluster) -> None:
    """Neither the caller's nor an instance's Consul reaches a server; requests pass, as all else does."""
    with cluster.load("caller") as failures:
        with cluster.cut_off("caller", "one"):
            cluster.wait(lambda: cluster.passing() == {"two"}, "the servers count the instance's node as failed")
            cluster.wait(lambda: cluster.status("caller").faults, "the caller's agent tells that Consul is away")
        cluster.wait(cluster.is_quiet, "all is as before")
        changes_arrive(cluster, "after-the-partition")
    assert failures == []


def has_read_its_token(cluster: ConsulCluster, name: str) -> bool:
    return "token has been replaced" in cluster.log(name)


def test_the_token_is_rotated(cluster: ConsulCluster) -> None:
    """New tokens are written, the old ones deleted: nothing is restarted, and Consul's agent acts by the new ones."""
    with cluster.load("caller") as failures:
        old = [cluster.new_token(name)[1] for name in cluster.meshed]
        for name in ("one", "two"):
            cluster.wait(partial(has_read_its_token, cluster, name), f"{name} reads it")
        for accessor in old:
            cluster.ask(f"/v1/acl/token/{accessor}", "DELETE")
        changes_arrive(cluster, "after-the-rotation")
    assert failures == []
    # What the check finds reaches the catalog by the token that the service was registered with.
    cluster.stop("one", "application", hard=True)
    cluster.wait(lambda: cluster.passing() == {"two"}, "the failed check is in the catalog")
    cluster.start_application("one")
    cluster.wait(cluster.is_quiet, "all is as before")


def has_read_its_certificates(cluster: ConsulCluster, name: str) -> bool:
    return "certificates for Consul have been replaced" in cluster.log(name)


def test_the_certificates_are_rotated(cluster: ConsulCluster) -> None:
    """Another authority signs them, and then every connection is made anew: the old ones would not be let in."""
    with cluster.load("caller") as failures:
        cluster.new_certificates()
        for name in cluster.meshed:
            cluster.wait(partial(has_read_its_certificates, cluster, name), f"{name} reads them")
        for name in ("caller", "one"):
            cluster.stop(name, "consul", hard=True)
            cluster.start_consul(name)
        changes_arrive(cluster, "after-the-certificates")
        cluster.wait(cluster.is_quiet, "all is as before")
    assert failures == []
