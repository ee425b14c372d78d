"""docs/configuration.md is what the types say now, and leaves no setting unexplained."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.cli.reference import Row, agent_rows, ca_rows, mesh_rows, reference, service_rows

TOP = Path(__file__).parents[2]
EXAMPLES = TOP / "packaging/examples"
ROWS = [*agent_rows(EXAMPLES), *service_rows(EXAMPLES), *mesh_rows(), *ca_rows(EXAMPLES)]


def test_the_page_is_current() -> None:
    assert (TOP / "docs/configuration.md").read_text() == reference(EXAMPLES), "run `make reference`"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.path)
def test_every_setting_is_explained(row: Row) -> None:
    assert row.meaning, "say it in the example file, or in the docstring under the field"


def test_defaults_and_what_is_allowed_are_those_of_the_types() -> None:
    rows = {row.path: row for row in ROWS}
    assert rows["ca.enrolmentPort"].default == "`15012`"
    assert rows["interception.outbound"].allowed == "`mesh` \\| `all` \\| `none`"
    assert rows["lifetime"].default == "`1d`"
    assert "Two ports, both TLS" in rows["enrolment.port"].meaning
