"""agent.yaml, cluster.env, sidecar.env and services.d: what they mean, and that every fault is told at once."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.config import Config, load_config, load_workloads
from agent.errors import ConfigError
from agent.mesh.service import Workload
from agent.runtime.main import main
from agent.runtime.workloads import served

EXAMPLES = Path(__file__).parents[2] / "packaging/examples"

ALL_WRONG = """\
node: 7
address: nowhere
consul: {address: "ftp://x", tokenFile: 3, bogus: 1}
ca: {address: "a b", enrolmentPort: 99999}
proxy: {concurrency: -1, drainSeconds: -5, logLevel: shout}
interception: {outbound: everything, inboundPorts: [0, x], excludeOutboundCidrs: [10.0.0.1/8]}
vips: {v4: 10.0.0.0/30, v6: 10.0.0.0/8}
log: {level: loud}
extra: 1
"""


def load(folder: Path, **files: str) -> Config:
    """Write the files (`agent_yaml=…`) and load the folder."""
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    return load_config(folder, folder / "var", folder / "run")


def problems(folder: Path, **files: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(folder, **files)
    return [problem.removeprefix(f"{folder}/") for problem in caught.value.problems]


def test_nothing_said_is_all_defaults(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert config.interception.inbound_ports is None
    assert (config.consul.address, config.ca.address) == ("http://127.0.0.1:8500", "")
    assert load(tmp_path, agent_yaml="consul:\n# address: x\nnode: vm-1\naddress: ''\n").node == "vm-1"


def test_dns_and_ranges(tmp_path: Path) -> None:
    text = "dns: {upstreams: [10.0.0.2, '[fd00::2]:53']}\ninterception: {includeOutboundCidrs: [10.0.0.0/8]}\n"
    config = load(tmp_path, agent_yaml=text)
    assert config.dns.upstreams == ("10.0.0.2", "[fd00::2]:53")
    assert config.interception.include_outbound_cidrs == ("10.0.0.0/8",)
    text = "dns: {upstreams: [dns.example]}\ninterception: {outbound: all, includeOutboundCidrs: [10.0.0.0/8]}\n"
    assert problems(tmp_path, agent_yaml=text) == [
        'agent.yaml:1: dns.upstreams[0]: "dns.example" is not a DNS server (10.0.0.2, 10.0.0.2:5353 or [fd00::2]:53)',
        "agent.yaml:2: interception.includeOutboundCidrs: goes with outbound: mesh only, not with all",
    ]


def test_the_operator_port_is_never_captured_wherever_it_is(tmp_path: Path) -> None:
    assert load(tmp_path).operator.port == 15022
    config = load(tmp_path, agent_yaml="operator: {port: 7777}\ninterception: {excludeInboundPorts: [1]}\n")
    assert config.interception.exclude_inbound_ports == (1, 7777)
    assert config.interception.exclude_outbound_ports == (7777,)
    assert not load(tmp_path, agent_yaml="operator: {enabled: false}\n").operator.enabled
    assert problems(tmp_path, agent_yaml="operator: {port: 15006}\n") == [
        "agent.yaml:1: operator.port: 15006 is a port of ssh, of Consul or of the mesh itself (default 15022)"
    ]


def test_every_fault_of_agent_yaml_is_told_with_its_line(tmp_path: Path) -> None:
    told = [problem.split(": ")[:2] for problem in problems(tmp_path, agent_yaml=ALL_WRONG)]
    assert told == [
        ["agent.yaml:1", "node"],
        ["agent.yaml:2", "address"],
        ["agent.yaml:3", "consul.address"],
        ["agent.yaml:3", "consul.tokenFile"],
        ["agent.yaml:3", "consul.bogus"],
        ["agent.yaml:4", "ca.address"],
        ["agent.yaml:4", "ca.enrolmentPort"],
        ["agent.yaml:5", "proxy.concurrency"],
        ["agent.yaml:5", "proxy.drainSeconds"],
        ["agent.yaml:5", "proxy.logLevel"],
        ["agent.yaml:6", "interception.outbound"],
        ["agent.yaml:6", "interception.inboundPorts[0]"],
        ["agent.yaml:6", "interception.inboundPorts[1]"],
        ["agent.yaml:6", "interception.excludeOutboundCidrs[0]"],
        ["agent.yaml:7", "vips.v4"],
        ["agent.yaml:7", "vips.v6"],
        ["agent.yaml:8", "log.level"],
        ["agent.yaml:9", "extra"],
    ]


def test_variables_lie_over_agent_yaml(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        agent_yaml="address: 10.0.0.1\nvips: {v4: 10.9.0.0/16}\n",
        cluster_env="ISTIO_SERVICE_CIDR=10.1.0.0/24,10.2.0.0/24\nexport ISTIO_CP_AUTH=MUTUAL_TLS\n",
        sidecar_env="# x\nISTIO_INBOUND_PORTS=27017,3306\nISTIO_LOCAL_EXCLUDE_PORTS=9100\nISTIO_SVC_IP=10.0.0.7\n",
    )
    assert config.vip_range_v4 == IPv4Network("10.1.0.0/24")
    assert config.interception.inbound_ports == (27017, 3306)
    assert config.interception.exclude_inbound_ports == (9100,)
    assert config.address == "10.0.0.7"
    assert [note.partition(": ")[2] for note in config.notes] == [
        "ISTIO_CP_AUTH is not used by hostmesh",
        "ISTIO_SERVICE_CIDR has several ranges: only 10.1.0.0/24 is used",
    ]


@pytest.mark.parametrize("setting", ["inbound: false", "inboundPorts: []", "inbound: false, inboundPorts: [9080]"])
def test_nothing_is_captured_inbound_where_one_setting_says_so(tmp_path: Path, setting: str) -> None:
    config = load(tmp_path, agent_yaml=f"interception: {{{setting}}}\n")
    assert (config.interception.inbound, config.interception.inbound_ports) == (False, ())
    assert len(config.notes) == ("9080" in setting)


def test_wrong_variables_are_told_where_they_stand(tmp_path: Path) -> None:
    told = problems(
        tmp_path,
        cluster_env='ISTIO_SERVICE_CIDR=banana\nfoo\n"unclosed\n',
        sidecar_env="ISTIO_INBOUND_PORTS=80,x\nISTIO_SVC_IP=zz\n",
    )
    assert sorted(problem.split(": ")[0] for problem in told) == [
        "cluster.env:1",
        "cluster.env:2",
        "cluster.env:3",
        "sidecar.env:1",
        "sidecar.env:2",
    ]


@pytest.mark.parametrize(
    ("ports", "captured"),
    [("*", True), ("9080,80", True), ("80", False), ("", False)],
    ids=["all", "its", "other", "no"],
)
def test_an_instance_whose_port_is_not_captured_is_no_proxied_one(tmp_path: Path, ports: str, captured: bool) -> None:
    config = load(tmp_path, sidecar_env=f"ISTIO_INBOUND_PORTS={ports}\n")
    assert served(workload(tmp_path), config).proxied is captured
    excluded = load(tmp_path, sidecar_env="ISTIO_LOCAL_EXCLUDE_PORTS=9080\n")
    assert not served(workload(tmp_path), excluded).proxied


def workload(folder: Path) -> Workload:
    (folder / "services.d").mkdir(exist_ok=True)
    (folder / "services.d/web.yaml").write_text("name: web\nport: 9080\n")
    (found,), faults = load_workloads(folder, "10.0.0.1")
    assert faults == ()
    return found


def test_bad_service_files_cost_only_themselves(tmp_path: Path) -> None:
    workload(tmp_path)
    (tmp_path / "services.d/x.yaml").write_text("name: web\nport: 9080\n")
    (tmp_path / "services.d/y.yaml").write_bytes(b"\xff\xfe")
    (tmp_path / "services.d/z.yaml").write_text("name: [")
    found, faults = load_workloads(tmp_path, "10.0.0.1")
    assert len(found) == 1
    assert [fault.split(": ")[0].rsplit("/", 1)[1] for fault in faults] == ["x.yaml", "y.yaml", "z.yaml:2"]


def test_a_service_file_that_is_spoilt_serves_on_as_it_was(tmp_path: Path) -> None:
    web, last_good = workload(tmp_path), dict[Path, list[Workload]]()
    assert load_workloads(tmp_path, "10.0.0.1", last_good=last_good) == ((web,), ())
    (tmp_path / "services.d/web.yaml").write_text("name: web\nport: 908o\n")
    found, (fault,) = load_workloads(tmp_path, "10.0.0.1", last_good=last_good)
    assert found == (web,)
    assert fault.endswith("; what it said before serves on")
    (tmp_path / "services.d/web.yaml").unlink()
    assert load_workloads(tmp_path, "10.0.0.1", last_good=last_good) == ((), ())


def test_whether_services_are_proxied_is_the_meshs_default_and_each_ones_own(tmp_path: Path) -> None:
    workload(tmp_path)
    (tmp_path / "services.d/own.yaml").write_text("name: own\nport: 81\nproxied: true\n")
    found, _ = load_workloads(tmp_path, "10.0.0.1", proxied=False)
    assert {one.service.name: one.proxied for one in found} == {"web": False, "own": True}


def test_check_says_what_is_good_and_what_is_not(tmp_path: Path) -> None:
    arguments = ["--check", "--config-dir", str(tmp_path)]
    assert "configuration of node" in CliRunner().invoke(main, arguments).stdout
    (tmp_path / "agent.yaml").write_text("log: 3\nnod: x\n")
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 2
    (tmp_path / "services.d").mkdir()
    (tmp_path / "services.d/web.yaml").write_text("name: web\n")
    assert len(CliRunner().invoke(main, arguments).stderr.splitlines()) == 3, "all files at once"
    absent = CliRunner().invoke(main, ["--check", "--config-dir", str(tmp_path / "absent")])
    assert absent.exit_code == 1
    assert "no such folder" in absent.stderr


def test_check_tells_of_files_that_the_settings_name(tmp_path: Path) -> None:
    (tmp_path / "agent.yaml").write_text("consul: {tokenFile: /absent/token}\n")
    (tmp_path / "secrets/shop").mkdir(parents=True)
    (tmp_path / "secrets/shop/tls.crt").write_text("nonsense")
    result = CliRunner().invoke(main, ["--check", "--config-dir", str(tmp_path)])
    assert result.exit_code == 1
    token, secret = result.stderr.splitlines()
    assert "consul.tokenFile: /absent/token" in token
    assert "secrets/shop" in secret


def test_the_shipped_examples_are_good_also_with_every_setting_written_out(tmp_path: Path) -> None:
    assert load_config(EXAMPLES, tmp_path, tmp_path).node
    text = (EXAMPLES / "agent.yaml").read_text()
    lines = [
        line.removeprefix("# ") if ":" in line.split("#")[1] else line for line in text.splitlines() if "#" in line
    ]
    settings = [line for line in lines if not line.startswith("#") and line.lstrip().split(":")[0].isidentifier()]
    assert load(tmp_path, agent_yaml="\n".join(settings)).proxy.concurrency == 2
