"""Contexts: the file, the commands, and which of flags, environment and context decides."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent.cli.connection import resolve
from agent.cli.main import cli
from agent.errors import UserError


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "contexts.yaml"


def run(config: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments), env={"HOSTMESH_CONFIG": str(config), "CONSUL_HTTP_ADDR": ""})


def test_create_use_list_current_delete(config: Path) -> None:
    assert run(config, "context", "create", "lab", "--consul-addr", "http://lab:8500").output == (
        "Created context lab (current)\n"
    )
    assert run(config, "-n", "shop", "--consul-addr", "https://prod:8501", "context", "create", "prod").exit_code == 0
    assert run(config, "context", "use", "prod").exit_code == 0
    assert run(config, "context", "list").output == (
        "CURRENT  NAME  CONSUL             NAMESPACE\n"
        "         lab   http://lab:8500    default\n"
        "*        prod  https://prod:8501  shop\n"
    )
    assert run(config, "context", "current").output == "prod\n"
    assert run(config, "context", "delete", "prod").exit_code == 0
    assert run(config, "context", "current").exit_code == 1


def test_only_the_owner_may_read_the_file(config: Path) -> None:
    run(config, "context", "create", "lab", "--consul-addr", "http://lab:8500")
    assert stat.S_IMODE(config.stat().st_mode) == 0o600


def test_a_context_is_not_replaced_unasked(config: Path) -> None:
    create = ("context", "create", "lab", "--consul-addr", "http://lab:8500")
    run(config, *create)
    second = run(config, *create)
    assert second.exit_code == 1
    assert "--force" in second.stderr
    assert run(config, *create, "--force").exit_code == 0


@pytest.mark.parametrize("text", ["contexts: 3", "a: [", "contexts: {x: {consulAdress: y}}"])
def test_a_broken_file_is_named(config: Path, text: str) -> None:
    config.parent.mkdir()
    config.write_text(text)
    result = run(config, "context", "list")
    assert result.exit_code == 1
    assert str(config) in result.stderr


def test_what_decides(config: Path) -> None:
    run(
        config,
        "context",
        "create",
        "lab",
        "--consul-addr",
        "http://lab:8500",
        "--token-file",
        "/lab-token",
        "-n",
        "shop",
    )
    here = {"HOSTMESH_CONFIG": str(config)}
    elsewhere = {**here, "CONSUL_HTTP_ADDR": "env:8500", "CONSUL_HTTP_TOKEN": "env-token"}
    assert resolve({}, {}).address == "http://127.0.0.1:8500"
    assert resolve({}, here).address == "http://lab:8500"
    assert resolve({}, here).namespace == "shop"
    assert resolve({}, elsewhere).address == "env:8500"
    assert resolve({"context": "lab"}, elsewhere).address == "http://lab:8500"
    assert resolve({"consul_addr": "flag:8500", "namespace": "other"}, elsewhere).address == "flag:8500"


def test_the_environments_token_never_goes_to_a_contexts_consul(config: Path) -> None:
    run(config, "context", "create", "lab", "--consul-addr", "http://lab:8500", "--token-file", "/lab-token")
    elsewhere = {"HOSTMESH_CONFIG": str(config), "CONSUL_HTTP_ADDR": "env:8500", "CONSUL_HTTP_TOKEN": "env-token"}
    assert resolve({"context": "lab"}, elsewhere).environment == {
        "CONSUL_HTTP_ADDR": "http://lab:8500",
        "CONSUL_HTTP_TOKEN_FILE": "/lab-token",
    }
    assert "CONSUL_HTTP_TOKEN_FILE" not in resolve({}, elsewhere).environment
    assert "CONSUL_HTTP_TOKEN" not in resolve({"token_file": "/mine"}, elsewhere).environment


def test_an_unknown_context_names_the_known_ones(config: Path) -> None:
    run(config, "context", "create", "lab", "--consul-addr", "http://lab:8500")
    with pytest.raises(UserError, match=r"no context 'x' \(known: lab\)"):
        resolve({"context": "x"}, {"HOSTMESH_CONFIG": str(config)})
