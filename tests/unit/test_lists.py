"""Lists that Mixer's rules name by `providerUrl`: what is taken for one, how long it serves, what is without it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from agent.adapters.key_sets import KeySetsFile
from agent.api.lowering.mixer import lower_rule
from agent.api.mixer_lists import MAX_ENTRIES, read_list
from agent.errors import HostError
from agent.mesh.mixer import ListKind, for_workload
from agent.mesh.routes import Fault
from agent.mesh.security import SecurityRules
from agent.mesh.service import ServiceKey, Workload
from agent.runtime.events import ListsChanged
from agent.runtime.lists import Lists
from agent.translate.mixer_guard import Reply, mixing
from agent.translate.mixer_notes import Callers
from tests.unit.api_samples import one
from tests.unit.test_key_sets import Source, Steps

URI = "http://lists.example/versions"
HEAD = "apiVersion: config.istio.io/v1alpha2\nkind: {}\nmetadata: {{name: x, namespace: default}}\nspec: {}\n"


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("v1\r\n\n  v2 \nv1", ListKind.STRINGS, ("v1", "v2")),
        ("spiffe://mesh/ns/a/sa/b", ListKind.STRINGS, ("mesh/ns/a/sa/b",)),
        ("", ListKind.STRINGS, ()),
        ("10.0.0.0/8\n::1\n", ListKind.IP_ADDRESSES, ("10.0.0.0/8", "::1")),
        ("10.0.0.0/8\nx", ListKind.IP_ADDRESSES, "line 2: "),
        ("^a\n(", ListKind.REGEX, "line 2: "),
        ("a\x00b", ListKind.CASE_INSENSITIVE_STRINGS, "line 1: "),
        ("\n".join(map(str, range(MAX_ENTRIES + 1))), ListKind.STRINGS, "more than"),
    ],
)
def test_a_list_is_one_entry_a_line(text: str, kind: ListKind, expected: tuple[str, ...] | str) -> None:
    if isinstance(expected, tuple):
        assert read_list(text, kind) == expected
        return
    with pytest.raises(ValueError, match=expected):
        read_list(text, kind)


def rules(spec: str) -> SecurityRules:
    """Return the one rule that looks the caller's version up on a list of that specification."""
    documents = [
        one(HEAD.format("listchecker", spec)),
        one(HEAD.format("listentry", '{value: \'source.labels["version"] | "none"\'}')),
    ]
    rule = one(HEAD.format("rule", "{actions: [{handler: x.listchecker, instances: [x.listentry]}]}"))
    lowered = lower_rule(rule, {document.ref: document for document in documents}.get)
    assert lowered.rule is not None
    return SecurityRules(policies=(lowered.rule,))


def replies(security: SecurityRules) -> tuple[Reply, ...]:
    """Return what refused clients are told; nothing: nobody is refused."""
    here = for_workload(security.policies, ServiceKey("default", "ratings"), (), "istio-system")
    return mixing(here, Callers((), ("mesh",))).requests.replies


def test_without_its_list_a_check_cannot_be_made() -> None:
    for blacklist in ("true", "false"):
        security = rules(f"{{providerUrl: '{URI}', refreshInterval: 5s, blacklist: {blacklist}}}")
        (reply,) = replies(security.with_lists(lambda _uri, _kind: None))
        assert (reply.status, reply.body.partition(":")[0]) == (500, "INTERNAL")
        had = security.with_lists(lambda _uri, _kind: ("none",))
        assert [reply.status for reply in replies(had)] == ([403] if blacklist == "true" else [])
    assert replies(rules(f"{{providerUrl: '{URI}', overrides: [none]}}")) == (), "overrides are there at once"
    workload = Workload(ServiceKey("default", "ratings"), "127.0.0.1", ())
    assert security.lists([workload], "istio-system") == {URI: (5.0, frozenset({ListKind.STRINGS}))}
    assert security.lists([], "istio-system") == {}, "no workload is here that the rule is for"


async def test_the_last_good_list_stays(tmp_path: Path) -> None:
    source, clock, file = Source(), Steps(), KeySetsFile(tmp_path / "lists.json")
    told, faults = list[ListsChanged](), list[tuple[Fault, ...]]()
    lists = Lists(source, file, clock, faults.append, told.append)
    source.answers[URI] = "10.0.0.1\n"
    lists.follow({URI: (5.0, frozenset({ListKind.IP_ADDRESSES}))})
    task = asyncio.create_task(lists.run())
    try:
        await clock.until(1)
        assert 4 < clock.slept[0] < 6
        assert told[-1].texts == {URI: "10.0.0.1"}
        for nonsense in (HostError("answers 503"), "10.0.0.1\n<html>"):
            source.answers[URI] = nonsense
            await clock.step()
            assert faults[-1][0].subject == f"list {URI}"
            assert faults[-1][0].reason.endswith("; the last good one serves on")
        source.answers[URI] = "10.0.0.2"
        await clock.step()
        assert told[-1].texts == {URI: "10.0.0.2"}
        assert faults[-1] == ()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    again = list[ListsChanged]()
    Lists(source, file, clock, faults.append, again.append)
    assert again == [ListsChanged({URI: "10.0.0.2"})], "it is there after a restart"
