"""Whatever a rule file holds: it is refused in words, or it is used; nothing else is ever raised, and soon."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from random import Random
from typing import Any

import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.api.analysis.analyze import analyze
from agent.api.conversion.convert import convert
from agent.api.document import Document, from_json, merge_documents, read_documents, to_json
from agent.api.enforce import enforceable
from agent.api.validate import find_problems, is_invalid, validate
from agent.cli.main import cli
from agent.errors import ValidationError
from agent.translate.plan import Planner
from agent.translate.static import static_bootstrap
from tests.unit.fuzzed_mesh import HOSTS, snapshot
from tests.unit.mutations import mutated_document, mutated_text, texts

SECONDS = 4.0
"""CPU time that the handling of one file may take, on a busy machine too."""
RANDOM = st.integers(0, 2**32).map(Random)
FEW = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@contextmanager
def soon() -> Iterator[None]:
    """Fail if the block takes too much CPU time."""
    begin = time.process_time()
    yield
    assert time.process_time() - begin < SECONDS


@FEW
@given(RANDOM)
def test_any_text_is_read_or_refused(random: Random) -> None:
    with soon():
        documents, problems = read_documents(mutated_text(random), "x.yaml", "default")
        assert all("\n" not in problem and problem.startswith("x.yaml:") for problem in problems)
        use(documents)


@settings(FEW, max_examples=40)
@given(RANDOM, st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=4)), max_size=3))
def test_any_bytes_get_an_answer(random: Random, damage: list[tuple[int, bytes]]) -> None:
    given = random.choice(texts()).encode()
    for place, put in damage:
        given = given[:place] + put + given[place + 1 :]
    for command in (["validate", "-f", "-"], ["convert", "-f", "-"], ["analyze", "-f", "-"]):
        with soon():
            answer = CliRunner().invoke(cli, command, input=given)
        assert answer.exception is None or isinstance(answer.exception, SystemExit), command
        assert answer.exit_code in (0, 1, 79), answer.output  # 79: analyze has found something


@FEW
@given(RANDOM)
def test_any_document_is_used_or_refused(random: Random) -> None:
    with soon():
        plain = mutated_document(random)
        text = yaml.safe_dump(plain, allow_unicode=True)
        documents, problems = read_documents(text, "x.yaml", "default")
        assert documents or problems
        use(documents)
        stored(plain)


@FEW
@given(RANDOM)
def test_documents_are_used_together(random: Random) -> None:
    """Most of them are whole or nearly so, and they name the same hosts often."""
    with soon():
        found: list[Document] = []
        for _ in range(5):
            text = yaml.safe_dump(mutated_document(random, most=1), allow_unicode=True)
            found += read_documents(text, "x.yaml", "default")[0]
        use(merge_documents(found)[0])


def use(documents: list[Document]) -> None:
    """Do with documents whatever commands and agents do."""
    for document in documents:
        problems = find_problems(document)
        assert all("\n" not in line for line in validate(document))
        enforced = enforceable(document)
        assert (enforced.document is None) <= bool(problems)
        to_json(document)
    analyze(documents)
    usable = [document for document in documents if not is_invalid(find_problems(document))]
    convert(usable)
    mesh = snapshot(documents)
    for options in HOSTS.values():
        desired = Planner().plan(mesh, options)
        assert desired.dangling == ()
        static_bootstrap(desired, "n")


def stored(plain: Any) -> None:
    """Read it as an agent does that finds it in KV."""
    try:
        value = json.dumps(plain, default=str).encode()
    except (ValueError, TypeError):
        return
    with suppress(ValidationError):
        validate(from_json("hostmesh/config/default/x/y", value))
