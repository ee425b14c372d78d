"""Manual pages and completion: every command has its place in a page, and roff understands the pages."""

from __future__ import annotations

import subprocess
from pathlib import Path

import click
import pytest

from agent.cli.main import cli
from agent.cli.manual import page, write_manual
from tests.unit.test_cli_commands import all_commands


@pytest.fixture(scope="module")
def manual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("manual")
    write_manual(folder)
    return folder


def test_every_command_is_in_the_manual_with_its_examples(manual: Path) -> None:
    assert isinstance(cli, click.Group)
    for path in all_commands(cli):
        text = (manual / "man1" / f"hostmesh-{path[0]}.1").read_text().replace("\\-", "-")
        assert f"\\fBhostmesh {' '.join(path)}\\fR" in text
        assert text.count(f"hostmesh {' '.join(path)}") > 1, f"no example of {path}"


def test_the_daemons_have_pages_in_section_8(manual: Path) -> None:
    assert "\\-\\-check" in (manual / "man8" / "hostmesh-agent.8").read_text()
    assert "hostmesh\\-ca backup" in (manual / "man8" / "hostmesh-ca.8").read_text()


def test_troff_has_nothing_to_say_about_the_pages(manual: Path) -> None:
    pages = sorted(map(str, manual.glob("man?/*")))
    found = subprocess.run(["groff", "-man", "-ww", "-z", *pages], capture_output=True, text=True, check=True)
    assert found.stderr == ""


def test_what_roff_would_take_for_its_own_is_escaped() -> None:
    command = click.Command("odd", help=".TH is no request\n\nNeither 'this', nor a\\b: ü.")
    text = page(command, ("odd",), 1)
    assert "\n\\&.TH is no request\n" in text
    assert "Neither \\(aqthis\\(aq, nor a\\eb: \\[u00FC]." in text


@pytest.mark.parametrize(("name", "shell"), [("hostmesh", "bash"), ("_hostmesh", "zsh"), ("hostmesh.fish", "fish")])
def test_each_shell_has_its_completion(manual: Path, name: str, shell: str) -> None:
    assert f"_HOSTMESH_COMPLETE={shell}_complete" in (manual / "completion" / name).read_text()
