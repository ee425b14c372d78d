"""Golden tests of the translation: a case is a catalog, rules and arguments; what `hostmesh render` makes of them is
compared with expected.json, and a real Envoy must accept it.

`UPDATE_GOLDEN=1 pytest tests/golden` writes the expected files anew; look at the difference before committing it.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli.main import cli
from tests.mesh_certificates import TestAuthority
from tests.programs import ENVOY

CASES = sorted(path.name for path in (Path(__file__).parent / "cases").iterdir())
SPIFFE_ID = "spiffe://example.org/ns/default/sa/bookinfo-reviews"


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Render every case once; the files name the real folder of certificates."""
    folder = tmp_path_factory.mktemp("golden")
    authority = TestAuthority()
    certs = authority.write(folder / "certs", SPIFFE_ID)
    for name in ("shop", "books"):
        authority.write_secret(certs / "secrets" / name, f"{name}.example.com")
    return {case: _render(case, folder / f"{case}.json", certs) for case in CASES}


@pytest.fixture(scope="session")
def verdicts(rendered: Mapping[str, Path]) -> Mapping[str, str]:
    """Let Envoy look at every case, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(rendered, pool.map(_validate, rendered.values()), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_translation_is_as_expected(case: str, rendered: Mapping[str, Path]) -> None:
    expected = Path(__file__).parent / "cases" / case / "expected.json"
    text = rendered[case].read_text().replace(str(rendered[case].parent / "certs"), "/CERTS")
    if os.environ.get("UPDATE_GOLDEN"):
        expected.write_text(text)
    assert text == expected.read_text(), f"{case}: differs (UPDATE_GOLDEN=1 pytest tests/golden writes it anew)"


@pytest.mark.parametrize("case", CASES)
def test_envoy_accepts_it(case: str, verdicts: Mapping[str, str]) -> None:
    assert verdicts[case] == "", f"{case}: Envoy refuses it"


def _render(case: str, output: Path, certs: Path) -> Path:
    folder = Path(__file__).parent / "cases" / case
    arguments = shlex.split((folder / "arguments").read_text().replace("CERTS", shlex.quote(str(certs))))
    rules = _rules(folder / "rules.yaml", output.with_suffix(".rules.yaml"), certs)
    command = ["render", "--catalog", str(folder / "catalog.yaml"), *rules, "-o", str(output), *arguments]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, f"{case}: {result.output}"
    return output


def _rules(given: Path, written: Path, certs: Path) -> list[str]:
    """Return the arguments that name the rules; files that they name are in the real folder of certificates."""
    if not given.exists():
        return []
    written.write_text(given.read_text().replace("/CERTS", str(certs)))
    return ["-f", str(written)]


def _validate(path: Path) -> str:
    """Return why Envoy refuses the file, or nothing."""
    done = subprocess.run(
        [ENVOY, "--mode", "validate", "-l", "warning", "-c", path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return "" if done.returncode == 0 else done.stderr[-2000:]
