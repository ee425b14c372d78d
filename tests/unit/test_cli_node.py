"""`hostmesh node init`: the configuration of a new host is written whole, checked, and once."""

from __future__ import annotations

import contextlib
import os
import pty
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from agent.cli.main import cli
from agent.cli.node_bundle import BundleCa, BundleConsul, NodeBundle, dump_bundle, read_bundle
from agent.cli.node_files import install_files
from agent.config import load_config
from agent.errors import HostError, UserError
from node_ca.proto.token import JoinToken

TOKEN = JoinToken.new(b"f" * 32).text()
IDENTITY = "ns/default/sa/reviews"
BUNDLE = NodeBundle(
    "web-1",
    consul=BundleConsul("http://10.0.0.2:8500", "5ecret", ""),
    ca=BundleCa(("ca-1", "ca-2"), 16012),
    join_tokens={IDENTITY: TOKEN},
    environment="ISTIO_SERVICE_CIDR=240.250.0.0/16\n",
)


def init(folder: Path, *arguments: str, stdin: bytes | None = None) -> Result:
    words = ["node", "init", "--no-start", "--config-dir", str(folder), *arguments]
    return CliRunner().invoke(cli, words, input=stdin)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_bundle_becomes_a_configuration_once(tmp_path: Path) -> None:
    folder = tmp_path / "etc"
    done = init(folder, "--bundle", "-", stdin=dump_bundle(BUNDLE))
    assert done.exit_code == 0, done.output
    config = load_config(folder, tmp_path, tmp_path)
    assert (config.node, config.ca.hosts, config.ca.enrolment_port) == ("web-1", ("ca-1", "ca-2"), 16012)
    assert (config.consul.address, config.consul.token_file) == ("http://10.0.0.2:8500", str(folder / "consul-token"))
    assert str(config.vip_range_v4) == "240.250.0.0/16"
    assert (folder / "join-token").read_text() == f"{IDENTITY} {TOKEN}\n"
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes == {"agent.yaml": 0o644, "cluster.env": 0o644, "consul-token": 0o600, "join-token": 0o600}
    before = contents(folder)
    again = init(folder, "--bundle", "-", stdin=dump_bundle(BUNDLE))
    assert again.exit_code == 0
    assert "unchanged" in again.stdout
    assert contents(folder) == before
    assert "5ecret" not in done.output
    assert TOKEN not in done.output


def test_comments_of_the_packages_files_stay_and_settings_of_the_operator_too(tmp_path: Path) -> None:
    shipped = (Path(__file__).parents[2] / "packaging/examples/agent.yaml").read_text()
    (tmp_path / "agent.yaml").write_text(shipped)
    assert init(tmp_path, "--node", "web-1", "--ca", "ca-1").exit_code == 0
    assert (tmp_path / "agent.yaml").read_text().startswith(shipped)
    (tmp_path / "agent.yaml").write_text("node: web-1\nproxy: {concurrency: 4}\nca: {enrolmentPort: 1}\n")
    assert init(tmp_path, "--ca", "ca-1", "--node", "web-1").exit_code == 0
    written = yaml.safe_load((tmp_path / "agent.yaml").read_text())
    assert written["proxy"] == {"concurrency": 4}
    assert written["ca"] == {"enrolmentPort": 1, "address": "ca-1"}


def test_what_says_something_else_is_replaced_only_by_force(tmp_path: Path) -> None:
    (tmp_path / "agent.yaml").write_text("node: other\n")
    refused = init(tmp_path, "--node", "web-1", "--without-ca")
    assert refused.exit_code == 1
    assert "node: other (now web-1)" in refused.stderr
    assert contents(tmp_path) == {"agent.yaml": "node: other\n"}
    assert init(tmp_path, "--node", "web-1", "--without-ca", "--force").exit_code == 0
    assert load_config(tmp_path, tmp_path, tmp_path).node == "web-1"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--node", "web-1"), "where is the CA?"),
        (("--node", "no good", "--without-ca"), "--node"),
        (("--without-ca", "--node-consul", "unix:///x"), "Unix sockets"),
        (("--bundle", "/absent"), "/absent: cannot be read"),
        (("--ca", "a", "--join-token-file", "/dev/null"), "not a join token"),
    ],
)
def test_what_is_wrong_is_refused_and_nothing_is_written(
    tmp_path: Path, arguments: tuple[str, ...], reason: str
) -> None:
    refused = init(tmp_path, *arguments)
    assert refused.exit_code == 1, refused.output
    assert reason in refused.stderr
    assert contents(tmp_path) == {}


def test_a_configuration_that_is_wrong_with_the_bundle_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "services.d").mkdir()
    (tmp_path / "services.d/web.yaml").write_text("name: web\n")
    refused = init(tmp_path, "--bundle", "-", stdin=dump_bundle(BUNDLE))
    assert refused.exit_code == 1
    assert refused.stderr.startswith(f"{tmp_path}/services.d/web.yaml:1: service web: port: is missing")
    assert [path.name for path in tmp_path.iterdir()] == ["services.d"]


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "join-token").write_text("old\n")
    before = contents(tmp_path)
    limit, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, most))
    try:
        with pytest.raises(HostError, match=r"agent\.yaml: cannot be written"):
            install_files(tmp_path, {"agent.yaml": b"#" * 9000, "join-token": b"new\n", "cluster.env": b"\n"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"[", "not YAML"),
        (b"node: web-1\nsecret: 5ecret\n", "unknown field"),
        (b"version: 9\n", "version 9"),
        (b"node: no good\n", "node"),
        (b"#" * 300_000, "too many"),
    ],
)
def test_what_is_no_bundle_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as refused:
        read_bundle(data, "x.bundle")
    assert "5ecret" not in str(refused.value)


def test_on_a_terminal_it_asks_for_what_is_missing(tmp_path: Path) -> None:
    hostmesh = Path(sys.executable).with_name("hostmesh")
    words = [str(hostmesh), "node", "init", "--no-start", "--config-dir", str(tmp_path / "etc")]
    ours, theirs = pty.openpty()
    with subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as process:
        os.close(theirs)
        patience = threading.Timer(60, process.kill)  # what is read below then ends with an error
        patience.start()
        shown = b""
        for question, answer in (("node's name", "web-1"), ("Consul", ""), ("hostmesh-ca", "ca-1"), ("token", TOKEN)):
            while question.encode() not in shown:
                shown += os.read(ours, 4096)
            shown = b""
            os.write(ours, f"{answer}\n".encode())
        with contextlib.suppress(OSError):  # EIO: the command has ended
            while part := os.read(ours, 4096):
                shown += part
        patience.cancel()
    os.close(ours)
    assert process.returncode == 0, shown
    assert TOKEN.encode() not in shown
    config = load_config(tmp_path / "etc", tmp_path, tmp_path)
    assert (config.node, config.ca.hosts, config.consul.address) == ("web-1", ("ca-1",), "http://127.0.0.1:8500")
    assert config.token_file.read_text() == f"{TOKEN}\n"
