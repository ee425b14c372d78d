"""What is found wrong with Mixer's rules across documents and with the catalog."""

from __future__ import annotations

from agent.api.analysis.analyze import analyze
from tests.unit.test_api_analysis import CATALOG, documents, found

OBJECT = "apiVersion: config.istio.io/v1alpha2\nkind: {}\nmetadata: {{name: NAME}}\nspec: {}\n"
DENIER, NOTHING = OBJECT.format("denier", "{status: {code: 7}}"), OBJECT.format("checknothing", "{}")


def rule(match: str) -> str:
    """Return the rule that denies by what is given before and after it (their names are a and b)."""
    return OBJECT.format("rule", f"{{match: '{match}', actions: [{{handler: a.denier, instances: [b.checknothing]}}]}}")


def test_what_a_rule_names_must_be_there() -> None:
    assert found(DENIER, NOTHING, rule("true")) == []
    lacking = found(DENIER.replace("NAME", "other"), rule("true"))
    assert lacking == ["IST0101 spec.actions[0].handler", "IST0101 spec.actions[0].instances[0]"]
    assert [one.kind.code for one in analyze(documents(rule("true")))] == [], "without a mesh nobody knows"


def test_callers_of_whom_two_things_could_be_said() -> None:
    # All instances of this catalog are at one address, with one account.
    for match in (
        'source.labels["version"] == "v2"',
        'source.service == "reviews.default.svc.cluster.local"',
        '(source.labels[destination.name] | "") == "x"',
        'source.labels["color"] == "red"',
    ):
        assert found(DENIER, NOTHING, rule(match)) == ["HM0112 spec.match"], match
    for match in (
        'source.namespace == "default"',
        'source.user == "cluster.local/ns/default/sa/default"',
        'source.labels["app"] == "x"',
        'destination.labels["version"] == "v1"',
    ):
        assert found(DENIER, NOTHING, rule(match)) == [], match
    (one,) = analyze(documents(DENIER, NOTHING, rule('source.labels["version"] == "v2"')), CATALOG)
    assert one.message.startswith('source.labels["version"] is absent for callers at 10.0.0.1 with the account default')
    (listed,) = analyze(
        documents(
            OBJECT.format("listchecker", "{overrides: [v1]}"),
            OBJECT.format("listentry", "{value: 'source.labels[\"version\"]'}"),
            OBJECT.format("rule", "{actions: [{handler: a.listchecker, instances: [b.listentry]}]}"),
        ),
        CATALOG,
    )
    assert (listed.kind.code, listed.path) == ("HM0112", "spec.actions")
