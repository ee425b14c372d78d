"""Numbers as protobuf's JSON may write them: in quotes, or whole with a point; read as what they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.api.document import Document, from_json, read_documents, to_json
from agent.api.envelope import to_plain
from agent.api.kinds import KINDS_BY_NAME
from agent.api.validate import validate

FILES = sorted(
    [
        *Path("vagrant/samples").glob("**/*.yaml"),
        *Path("tests/golden/cases").glob("*/rules.yaml"),
    ]
)


def read(text: str) -> list[Document]:
    return read_documents(text, "rules.yaml", "default")[0]


def quoted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: quoted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [quoted(item) for item in value]
    return json.dumps(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


@pytest.mark.parametrize("file", FILES, ids=str)
def test_quoted_numbers_are_the_numbers(file: Path) -> None:
    for document in read(file.read_text()):
        if KINDS_BY_NAME[document.kind].verbatim or not KINDS_BY_NAME[document.kind].supported:
            continue
        plain = to_plain(document)
        (same,) = read(json.dumps({**plain, "spec": quoted(plain["spec"])}))
        assert to_plain(same) == plain
        assert to_plain(from_json(document.key, to_json(same))) == plain


def virtual_service(port: str, share: str = "1") -> Document:
    (document,) = read(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\n"
        "spec: {hosts: [a], http: [{route: "
        f"[{{destination: {{host: a, port: {{number: {port}}}}}}}], mirror: {{host: b}},"
        f" mirrorPercentage: {{value: {share}}}}}]}}\n"
    )
    return document


@pytest.mark.parametrize("port", ["80", '"80"', "80.0", "8.0e+1", "0x50"])
def test_whole_numbers(port: str) -> None:
    document = virtual_service(port)
    assert validate(document) == []
    number = document.spec["http"][0]["route"][0]["destination"]["port"]["number"]
    assert (number, type(number)) == (80, int)


@pytest.mark.parametrize(
    "port", ['"080"', '"80.0"', '"+80"', '" 80"', "80.5", '"eighty"', '""', "true", '"٨٠"', "1e400"]
)
def test_what_is_no_number_stays_wrong(port: str) -> None:
    assert ["must be a whole number" in line for line in validate(virtual_service(port))] == [True]


@pytest.mark.parametrize(("share", "value"), [('"12.5"', 12.5), ('"1e1"', 10.0), ("3", 3)])
def test_shares(share: str, value: float) -> None:
    document = virtual_service("80", share)
    assert validate(document) == []
    assert document.spec["http"][0]["mirrorPercentage"]["value"] == value


@pytest.mark.parametrize("share", ['"NaN"', '"Infinity"', '"1_0"', '".5"', "true"])
def test_what_is_no_share_stays_wrong(share: str) -> None:
    assert ["must be a number" in line for line in validate(virtual_service("80", share))] == [True]
