"""Reading of rule documents: what is accepted, what is refused, and with which line."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.api.document import from_json, merge_documents, read_documents, to_json
from agent.api.validate import validate
from agent.api.yaml_text import MAX_DEPTH, read_yaml
from agent.errors import ValidationError
from tests.unit.api_samples import JSON, ROUTE_RULE, SAMPLES, mutated, one, read

HEAD = "apiVersion: config.istio.io/v1alpha2\nkind: RouteRule\nmetadata: {name: r}\n"


def problems_of(text: str) -> list[str]:
    return read_documents(text, "f.yaml", "default")[1]


def test_several_documents_empty_ones_and_equal_duplicates() -> None:
    documents = read(f"---\n# nothing\n---\n{ROUTE_RULE}\n---\n---\n{ROUTE_RULE}\n---\n")
    assert [document.name for document in documents] == ["reviews-test-v2"]
    assert documents[0].line == 5
    assert documents[0].key == "hostmesh/config/default/routerule/reviews-test-v2"


def test_an_object_in_two_forms_is_refused() -> None:
    text = f"{HEAD}spec: {{destination: {{name: a}}}}\n---\n{HEAD}spec: {{destination: {{name: b}}}}\n"
    assert problems_of(text) == [
        "f.yaml:6: RouteRule/r: given twice with different content (first at f.yaml:1): keep one"
    ]


def test_list_is_unwrapped_with_its_lines() -> None:
    documents = read(
        f"kind: List\nitems:\n- {HEAD.replace(chr(10), chr(10) + '  ')}spec: {{destination: {{name: a}}}}\n"
    )
    assert documents[0].lines["spec.destination.name"] == 6


def test_json_also_where_it_is_not_yaml() -> None:
    plain = {"apiVersion": "v1", "kind": "X", "metadata": {"name": "x"}, "spec": {"a": "😀"}}
    tabbed = json.dumps(plain, indent="\t")
    assert one(tabbed).spec == {"a": "😀"}
    assert one(json.dumps({"kind": "List", "items": [plain]})).name == "x"


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 2}', '{"a": "\\ud83d\\ude00", "a": 2}', '{"a": "\\ud83d\\ude00", "b": NaN}']
)
def test_json_obeys_yamls_bounds(text: str) -> None:
    assert problems_of(text) != []


def test_namespace_is_the_documents_own_or_the_default() -> None:
    own = HEAD.replace("{name: r}", "{name: r, namespace: team}")
    assert [one(text, "given").namespace for text in (HEAD, own)] == ["given", "team"]


def test_snake_case_is_turned_but_not_in_labels_and_headers() -> None:
    document = one(
        HEAD
        + """spec:
  destination: {name: a}
  match: {request: {headers: {x_user_id: {exact: a_b}}}}
  http_req_timeout: {simple_timeout: {timeout: 1s}}
  route:
  - labels: {my_version: v_1}
"""
    )
    assert document.spec["match"]["request"]["headers"] == {"x_user_id": {"exact": "a_b"}}
    assert document.spec["route"] == [{"labels": {"my_version": "v_1"}}]
    assert document.spec["httpReqTimeout"] == {"simpleTimeout": {"timeout": "1s"}}
    assert document.lines["spec.httpReqTimeout.simpleTimeout"] == 7


def test_one_field_in_both_spellings_is_refused() -> None:
    text = HEAD + "spec:\n  destination: {name: a}\n  httpFault: {}\n  http_fault: {}\n"
    assert problems_of(text) == ["f.yaml:7: RouteRule/r: spec.http_fault: is given twice (as httpFault too)"]


def test_snake_case_is_read_in_the_second_generation_too_as_protobuf_does() -> None:
    document = one(
        """apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: v}
spec:
  hosts: [a]
  http:
  - match: [{source_labels: {my_app: x_y}, query_params: {a_b: {exact: c}}, headers: {x_y: {exact: z}}}]
    headers: {request: {set: {x_z: a}}}
    route: [{destination: {host: a}}]
"""
    )
    assert validate(document) == []
    (route,) = document.spec["http"]
    assert route["match"] == [
        {"sourceLabels": {"my_app": "x_y"}, "queryParams": {"a_b": {"exact": "c"}}, "headers": {"x_y": {"exact": "z"}}}
    ]
    assert route["headers"] == {"request": {"set": {"x_z": "a"}}}


@pytest.mark.parametrize("selector", ["selector: {matchLabels: {my_app: x}}", "selector: {match_labels: {my_app: x}}"])
def test_labels_of_selectors_stay_as_they_are(selector: str) -> None:
    document = one(
        f"apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: p}}\nspec: {{{selector}}}\n"
    )
    assert document.spec["selector"] == {"matchLabels": {"my_app": "x"}}


def test_another_programs_configuration_is_kept_as_written() -> None:
    document = one(
        "apiVersion: networking.istio.io/v1alpha3\nkind: EnvoyFilter\nmetadata: {name: e}\nspec: {a_b: {c_d: e_f}}\n"
    )
    assert document.spec == {"a_b": {"c_d": "e_f"}}


def test_what_kubernetes_adds_is_dropped() -> None:
    document = one(
        """apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata:
  name: d
  creationTimestamp: 2020-01-01T00:00:00Z
  generation: 3
  managedFields: [{a: b}]
  annotations: {kubectl.kubernetes.io/last-applied-configuration: "{}", mine: x}
  labels: {a: b}
spec: {host: h}
status: {whatever: true}
"""
    )
    assert json.loads(to_json(document)) == {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"name": "d", "namespace": "default", "labels": {"a": "b"}, "annotations": {"mine": "x"}},
        "spec": {"host": "h"},
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: *\n", "f.yaml:1: not YAML: did not find expected alphabetic or numeric character (an unquoted"),
        ("a: *x\n", "f.yaml:1: not YAML: found undefined alias (an unquoted"),
        (
            "x: 1\na: b: c\n",
            "f.yaml:2: not YAML: mapping values are not allowed in this context (a value that contains",
        ),
        ("a:\n\tb: 1\n", "f.yaml:2: not YAML: found character that cannot start any token ("),
        ("a: \x07\n", "f.yaml:1: not YAML: a character that is not allowed"),
        ("a: 1\nb: 2\na: 3\n", 'f.yaml:3: the key "a" is given twice (first on line 1)'),
        ("yes: 1\n", 'f.yaml:1: the key yes is not text for YAML: write it as "yes"'),
        ("a: !!python/name:os.system\n", "f.yaml:1: the tag tag:yaml.org,2002:python/name:os.system is not allowed"),
        ("a: .inf\n", "f.yaml:1: .inf is not a finite number"),
        ("a: 99999999999999999999\n", "f.yaml:1: the number 99999999999999999999 does not fit in 64 bits"),
        ("a: !!int x\n", "f.yaml:1: x is not a int"),
        ("a:\n- \ud800\n", "f.yaml:2: not YAML: half a surrogate pair"),
        ("a: 'x\n", "f.yaml:2: not YAML: found unexpected end of stream (a quote is not closed)"),
        ("[" * 5000, f"f.yaml:1: nested deeper than {MAX_DEPTH} levels"),
        ("a: &a [*a]\n", f"f.yaml:1: nested deeper than {MAX_DEPTH} levels (an alias inside its own anchor?)"),
        ("- 1\n", "f.yaml:1: not an object (it needs apiVersion, kind, metadata and spec)"),
        ("a: b\n", "f.yaml:1: object/?: a: unknown field"),
        (HEAD.replace("name: r", "name: R_1"), 'f.yaml:3: RouteRule/R_1: metadata.name: "R_1" is not a name'),
        (HEAD.replace("name: r", "nam: r"), "f.yaml:3: RouteRule/?: metadata.nam: unknown field (did you mean name?)"),
        (HEAD.replace("kind: RouteRule", ""), "f.yaml:1: object/r: kind: is missing (for example VirtualService)"),
        (HEAD + "spec: []\n", "f.yaml:4: RouteRule/r: spec: must be a mapping"),
    ],
)
def test_refused_with_one_line(text: str, expected: str) -> None:
    problems = problems_of(text)
    assert problems[0].startswith(expected)
    assert all("\n" not in problem for problem in problems)


def test_alias_bomb_is_refused_quickly() -> None:
    letters = "abcdefghij"
    text = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{new}: &{new} [{','.join(['*' + old] * 9)}]\n" for old, new in pairwise(letters)
    )
    assert "more than" in read_yaml(text, "f.yaml")[1][0]


def test_documents_before_a_syntax_error_are_read() -> None:
    documents, problems = read_documents(f"{ROUTE_RULE}\n---\na: [\n", "f.yaml", "default")
    assert (len(documents), len(problems)) == (1, 1)


def test_merge_keys_as_yaml_defines_them() -> None:
    values, problems = read_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: [{z: 1}, *a, {z: 2}]}\n", "f")
    assert problems == []
    assert values[0].value == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"x": 1, "y": 2, "z": 1}}


def test_merging_over_files_keeps_the_first() -> None:
    documents, problems = merge_documents([one(ROUTE_RULE), one(ROUTE_RULE)])
    assert (len(documents), problems) == (1, [])


@pytest.mark.parametrize("text", SAMPLES)
def test_kv_form_comes_back_the_same(text: str) -> None:
    document = one(text)
    back = from_json(document.key, to_json(document))
    assert back.same_content(document)
    assert validate(back) == []


def test_kv_value_under_another_key_is_refused() -> None:
    document = one(ROUTE_RULE)
    with pytest.raises(ValidationError, match="whose key is hostmesh/config/default/routerule/reviews-test-v2"):
        from_json("hostmesh/config/default/routerule/other", to_json(document))


def test_problems_of_a_kv_value_name_its_key() -> None:
    document = one(HEAD + "spec: {destination: {name: A}}")
    assert validate(from_json(document.key, to_json(document))) == [
        "hostmesh/config/default/routerule/r:1: RouteRule/r: spec.destination.name: "
        '"A" is not a name (lower case letters, digits and "-", at most 63)'
    ]


def check_kv_value(key: str, value: bytes) -> None:
    try:
        document = from_json(key, value)
    except ValidationError as error:
        problems = list(error.problems)
        refused = len(problems) == 1
    else:
        problems = validate(document)
        refused = True
    assert refused
    assert all(problem.startswith(key) and "\n" not in problem for problem in problems)


KEY = one(ROUTE_RULE).key


@given(st.binary(max_size=64))
def test_any_bytes_in_kv_give_a_document_or_one_line(value: bytes) -> None:
    check_kv_value(KEY, value)


@given(JSON)
def test_any_json_in_kv_gives_a_document_or_one_line(plain: object) -> None:
    check_kv_value(KEY, json.dumps(plain).encode())


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SAMPLES).flatmap(lambda text: mutated(json.loads(to_json(one(text))))))
def test_any_near_document_in_kv_gives_a_document_or_one_line(plain: object) -> None:
    check_kv_value(KEY, json.dumps(plain).encode())


@pytest.mark.parametrize("value", [b"", b"[" * 100_000, b'{"a":' * 100 + b"1" + b"}" * 100, b"x" * 524_288, b"\xff"])
def test_extreme_kv_values(value: bytes) -> None:
    with pytest.raises(ValidationError, match=KEY):
        from_json(KEY, value)


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_read_without_a_crash(text: str) -> None:
    for problem in read_documents(text, "f.yaml", "default")[1]:
        assert problem.startswith("f.yaml:")
        assert "\n" not in problem


def test_a_fault_above_the_spec_does_not_hide_those_in_it() -> None:
    spec = "spec: {hosts: [a], http: [{rute: []}]}\n"
    envelope = "kind: VirtualService\nmetadata: {name: A_B, labels: {x: 1}}\n"
    assert problems_of(f"apiVersion: networking.istio.io/v1\n{envelope}{spec}") == [
        'f.yaml:3: VirtualService/A_B: metadata.name: "A_B" is not a name (lower case letters, digits, "-" and ".")',
        "f.yaml:3: VirtualService/A_B: metadata.labels.x: must be text (put it in quotes)",
        "f.yaml:4: VirtualService/A_B: spec.http[0].rute: unknown field (did you mean route?)",
    ]


def test_a_wrong_version_does_not_hide_the_spec_and_another_project_s_is_not_looked_at() -> None:
    rest = "kind: Gateway\nmetadata: {name: a}\nspec: {servers: 1}\n"
    (wrong,) = read(f"apiVersion: networking.istio.io/v9\n{rest}")
    assert [line.split(": ")[2] for line in validate(wrong)] == ["apiVersion", "spec.servers"]
    (foreign,) = read(f"apiVersion: gateway.networking.k8s.io/v1\n{rest}")
    assert [line.split(": ")[2] for line in validate(foreign)] == ["apiVersion"]
