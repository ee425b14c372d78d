"""ca.yaml: every fault at once, one line each."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

import agent
from node_ca.cli import main
from node_ca.config import Config, Seconds, ServerNames, load_config, parse_config
from node_ca.errors import ConfigError

EXAMPLE = Path(__file__).parents[2] / "packaging/examples/ca.yaml"


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "ca.yaml"
    path.write_text("# nothing\n")
    config = load_config(path)
    assert config == Config()
    assert (config.enrolment.target, config.renewal.target) == ("[::]:15012", "[::]:15013")


def test_the_examples_settings_are_the_defaults() -> None:
    lines = EXAMPLE.read_text().splitlines()
    settings = [line.removeprefix("# ") for line in lines if line.startswith(("# ", "#   ")) and _is_setting(line)]
    document = yaml.safe_load("\n".join(settings))
    names = document.pop("serverNames")
    assert parse_config(document, "ca.yaml") == Config()
    assert parse_config({"serverNames": names}, "ca.yaml").server_names.dns


def _is_setting(line: str) -> bool:
    return line.removeprefix("# ").partition(":")[0].strip() in {
        *("trustDomain", "lifetime", "skewMargin", "serverLifetime", "stateDir", "adminSocket"),
        *("minLifetime", "maxLifetime", "caFiles", "caKeyPassphraseFile"),
        *("enrolment", "renewal", "serverNames", "dns", "ips"),
        *("jwt", "keyFile", "otherKeyFiles", "lifetime", "issuer"),
    }


def test_bounds_of_lifetimes() -> None:
    def problems(**document: object) -> tuple[str, ...]:
        with pytest.raises(ConfigError) as caught:
            parse_config(document, "ca.yaml")
        return caught.value.problems

    assert problems(minLifetime="1h", lifetime="30m") == (
        "ca.yaml: lifetime: must be from 3600s to 90d (minLifetime, maxLifetime)",
    )
    assert "in this order" in problems(minLifetime="2d", maxLifetime="1d")[0]
    assert "in this order" in problems(maxLifetime="91d")[0]
    assert problems(caFiles="certs") == ("ca.yaml: caFiles: 'certs' must be an absolute path",)
    assert parse_config({"maxLifetime": "1h", "lifetime": "1h"}, "ca.yaml").max_lifetime == Seconds(3600)


def test_bounds_of_tokens() -> None:
    jwt = {"keyFile": "key.pem", "otherKeyFiles": ["/a", "b"], "lifetime": "2h", "issuer": "a\nb"}
    with pytest.raises(ConfigError) as caught:
        parse_config({"jwt": jwt}, "ca.yaml")
    assert [problem.removeprefix("ca.yaml: jwt.").split(":")[0] for problem in caught.value.problems] == [
        "lifetime",
        "keyFile, jwt.otherKeyFiles",
        "keyFile, jwt.otherKeyFiles",
        "issuer",
    ]


def test_every_fault_is_told_at_once() -> None:
    document = {
        "trustDomain": "Not A Domain",
        "lifetime": "1s",
        "skewMargin": 60,
        "serverLifetime": "forever",
        "stateDir": "here",
        "enrolment": {"port": 99999, "address": "example.com"},
        "renewal": {"prot": 15013},
        "serverNames": {"dns": ["a b"], "ips": ["10.0.0.300"]},
        "lifetme": "24h",
    }
    with pytest.raises(ConfigError) as caught:
        parse_config(document, "ca.yaml")
    problems = caught.value.problems
    assert all(problem.startswith("ca.yaml: ") and "\n" not in problem for problem in problems)
    for wanted in (
        *("trustDomain: ", "lifetime: must be", "skewMargin: ", "serverLifetime: ", "stateDir: ", "enrolment.port: "),
        *("enrolment.address: ", "renewal.prot: unknown", "renewal.port: is missing", "serverNames.dns: "),
        *("serverNames.ips: ", "lifetme: unknown setting"),
    ):
        assert sum(wanted in problem for problem in problems) == 1, (wanted, problems)
    assert len(problems) == 12


@pytest.mark.parametrize("text", ["[1, 2", "just text", "- a list", "\0", "enrolment: 5"])
def test_what_is_no_configuration(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ca.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert len(caught.value.problems[0].splitlines()) == 1


def test_an_absent_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "ca.yaml")


@pytest.mark.parametrize(("text", "seconds"), [("10s", 10), ("24h", 86400), ("1h30m", 5400), ("7d", 604800)])
def test_durations(text: str, seconds: int) -> None:
    assert float(Seconds.from_text(text)) == seconds


def test_loopback_names_always_belong_to_the_server() -> None:
    names = ServerNames(dns=("ca.example",), ips=("10.0.0.1",)).with_defaults()
    assert names.dns == ("ca.example", "localhost")
    assert names.ips == ("10.0.0.1", "127.0.0.1", "::1")
    assert ServerNames().with_defaults().dns[0] != "localhost" or ServerNames().with_defaults().dns == ("localhost",)


def test_the_daemons_are_released_together() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert (result.exit_code, result.output) == (0, f"hostmesh-ca, version {agent.__version__}\n")
