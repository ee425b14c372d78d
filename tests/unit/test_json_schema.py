"""`hostmesh schema` agrees with `hostmesh validate`: what is valid fits it, and what fits it is judged."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.api.document import read_documents
from agent.api.json_schema import document_schema
from agent.api.kinds import KINDS, KINDS_BY_NAME
from agent.api.validate import find_problems, is_invalid, spec_check
from tests.unit.api_samples import SAMPLES
from tests.unit.mutations import documents
from tests.unit.schema_model import fitting, misfits
from tests.unit.test_api_fuzz import use

SCHEMAS = {kind.name: document_schema(kind) for kind in KINDS}
SPECS = {kind.name: SCHEMAS[kind.name]["properties"]["spec"] for kind in KINDS if spec_check(kind.name) is not None}


def is_valid(plain: Any) -> bool:
    found, problems = read_documents(yaml.safe_dump(plain), "x.yaml", "default")
    return not problems and not any(is_invalid(find_problems(document)) for document in found)


def written() -> list[Any]:
    """Return the real documents that are valid, as they are written."""
    samples = (one for text in SAMPLES for one in yaml.safe_load_all(text))
    found = [one for one in (*documents(), *samples) if isinstance(one, dict) and one.get("kind") in KINDS_BY_NAME]
    return [one for one in found if is_valid(one)]


def test_what_is_valid_fits() -> None:
    found = written()
    assert len(found) > 150  # with the cases beside the project more than 300
    wrong = {(one["kind"], misfit) for one in found for misfit in misfits(SCHEMAS[one["kind"]], without_noise(one))}
    assert sorted(wrong) == []


def without_noise(value: Any) -> Any:
    """Leave out nulls, which are as good as nothing."""
    if isinstance(value, dict):
        return {key: without_noise(item) for key, item in value.items() if item is not None}
    return [without_noise(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("kind", [kind for kind, spec in SPECS.items() if spec.get("properties")])
def test_an_unknown_field_does_not_fit(kind: str) -> None:
    assert any("additionalProperties" in one for one in misfits(SPECS[kind], {"nosuch": 1}))


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_what_fits_is_judged(data: st.DataObject) -> None:
    kind = KINDS_BY_NAME[data.draw(st.sampled_from(sorted(SPECS)))]
    spec = data.draw(fitting(SPECS[kind.name]))
    plain = {"apiVersion": kind.api_versions[0], "kind": kind.name, "metadata": {"name": "x"}, "spec": spec}
    assert misfits(SCHEMAS[kind.name], plain) == []
    use(read_documents(json.dumps(plain), "x.yaml", "default")[0])
