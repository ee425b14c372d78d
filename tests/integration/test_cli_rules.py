"""create, replace, apply, get, delete and validate against a real Consul."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from agent.adapters.consul.store import RuleStore
from tests.integration.cli_consul import CommandLine, many, route_rule


def stored(hostmesh: CommandLine) -> list[str]:
    return [item.key.removeprefix("hostmesh/config/") for item in RuleStore(hostmesh.address).list()]


def test_a_rules_life(hostmesh: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "rule.yaml"
    file.write_text(route_rule("reviews-default"))
    created = hostmesh.ok("create", "-f", str(file))
    assert re.fullmatch(r"Created config route-rule/default/reviews-default at revision \d+\n", created)
    assert hostmesh.ok("get", "routerules") == (
        "NAME             KIND                                NAMESPACE\n"
        "reviews-default  RouteRule.v1alpha2.config.istio.io  default\n"
    )
    file.write_text(route_rule("reviews-default", "v3"))
    replaced = hostmesh.ok("replace", "-f", str(file))
    assert re.fullmatch(r"Updated config route-rule/default/reviews-default to revision \d+\n", replaced)
    assert yaml.safe_load(hostmesh.ok("get", "routerule", "reviews-default", "-o", "yaml"))["spec"]["route"] == [
        {"labels": {"version": "v3"}}
    ]
    assert hostmesh.ok("apply", "-f", str(file)).startswith("Unchanged config")
    assert hostmesh.ok("delete", "routerule", "reviews-default") == (
        "Deleted config: route-rule/default/reviews-default\n"
    )
    assert stored(hostmesh) == []


def test_what_exists_is_not_created_and_what_does_not_is_not_replaced(hostmesh: CommandLine) -> None:
    hostmesh.ok("create", stdin=route_rule("a"))
    both = route_rule("b") + "---\n" + route_rule("a", "v2")
    assert "routerule/a.default exists already" in hostmesh.refused("create", stdin=both)
    assert "routerule/b.default does not exist" in hostmesh.refused("replace", stdin=both)
    assert stored(hostmesh) == ["default/routerule/a"]
    assert hostmesh.ok("apply", stdin=both).splitlines()[0].startswith("Created config route-rule/default/b")


MIXER = "apiVersion: config.istio.io/v1alpha2\nkind: {}\nmetadata: {{name: deny}}\nspec: {}\n---\n"


def test_what_a_rule_lacks_is_a_warning_and_may_come_later(hostmesh: CommandLine) -> None:
    rule = MIXER.format("rule", "{actions: [{handler: deny.denier, instances: [deny.checknothing]}]}")
    denier, nothing = MIXER.format("denier", "{status: {code: 7}}"), MIXER.format("checknothing", "{}")
    told = hostmesh.run("create", stdin=rule)
    assert told.exit_code == 0
    first, second = told.stderr.splitlines()
    where = "Warning: standard input:4: rule/deny: spec.actions[0]"
    assert first.startswith(f"{where}.handler: there is no deny.denier.default yet: the rule is inactive")
    assert second.startswith(f"{where}.instances[0]: there is no deny.checknothing.default yet: ")
    assert hostmesh.run("create", stdin=denier).stderr == ""
    assert "deny.checknothing.default" in hostmesh.run("apply", "--dry-run", stdin=rule).stderr
    assert hostmesh.run("apply", stdin=rule + nothing).stderr == "", "what comes along is there"


def test_one_bad_document_and_nothing_is_written(hostmesh: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "1.yaml").write_text(route_rule("good"))
    bad = tmp_path / "2.yaml"
    bad.write_text(route_rule("bad").replace("precedence: 1", "precedense: 1") + "---\nkind: [\n")
    lines = hostmesh.refused("create", "-f", str(tmp_path)).splitlines()
    assert any(line.startswith(f"{bad}:8: RouteRule/bad: spec.precedense: ") for line in lines), lines
    assert all(line.startswith(f"{bad}:") for line in lines)
    assert stored(hostmesh) == []


def test_standard_input_several_files_and_folders(hostmesh: CommandLine, tmp_path: Path) -> None:
    folder = tmp_path / "rules"
    folder.mkdir()
    (folder / "b.yml").write_text(route_rule("from-yml"))
    (folder / "a.json").write_text(json.dumps(yaml.safe_load(route_rule("from-json"))))
    (folder / "notes.txt").write_text("not a rule")
    single = tmp_path / "single.yaml"
    single.write_text(route_rule("single"))
    printed = hostmesh.ok("create", "-f", str(folder), "-f", str(single), "-f", "-", stdin=route_rule("piped"))
    assert re.findall(r"default/(\S+)", printed) == ["from-json", "from-yml", "single", "piped"]
    assert hostmesh.ok("delete", "-f", str(folder)).count("Deleted config") == 2
    assert stored(hostmesh) == ["default/routerule/piped", "default/routerule/single"]


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n---\n"])
def test_nothing_to_do_is_an_error(hostmesh: CommandLine, text: str) -> None:
    assert "standard input: no objects in it" in hostmesh.refused("create", stdin=text)


def test_a_missing_file_and_an_empty_folder_are_named(hostmesh: CommandLine, tmp_path: Path) -> None:
    assert f"{tmp_path}/absent.yaml: cannot be read" in hostmesh.refused("create", "-f", f"{tmp_path}/absent.yaml")
    assert f"{tmp_path}: no *.yaml" in hostmesh.refused("create", "-f", str(tmp_path))


def test_namespaces(hostmesh: CommandLine) -> None:
    hostmesh.ok("create", "-n", "shop", stdin=route_rule("a"))
    hostmesh.ok("-n", "shop", "create", stdin=route_rule("b", namespace="other"))
    assert stored(hostmesh) == ["other/routerule/b", "shop/routerule/a"]
    assert hostmesh.run("get", "routerules").stderr == "No resources found.\n"
    assert "a  " in hostmesh.ok("get", "routerules", "-n", "shop")
    assert re.findall(r"(?m)\S+$", hostmesh.ok("get", "all", "-A"))[1:] == ["other", "shop"]
    assert "no routerule named b in namespace 'shop'" in hostmesh.refused("get", "routerule", "b", "-n", "shop")


@pytest.mark.parametrize("kind", ["RouteRules", "route-rule", "ROUTERULE"])
def test_kinds_in_any_spelling(hostmesh: CommandLine, kind: str) -> None:
    hostmesh.ok("create", stdin=many(2))
    assert len(hostmesh.ok("get", kind).splitlines()) == 3
    assert hostmesh.ok("delete", kind, "rule-000", "rule-001").count("Deleted") == 2


def test_what_get_prints_replace_takes(hostmesh: CommandLine) -> None:
    hostmesh.ok("create", stdin=many(3))
    for output in ("yaml", "json"):
        printed = hostmesh.ok("get", "routerules", "-o", output)
        assert hostmesh.ok("replace", "-f", "-", stdin=printed).count("Updated config") == 3
        assert hostmesh.ok("get", "routerules", "-o", output) == printed


def test_deleting_several_of_which_one_is_missing_deletes_none(hostmesh: CommandLine) -> None:
    hostmesh.ok("create", stdin=many(2))
    assert "routerule/nope.default does not exist" in hostmesh.refused("delete", "routerule", "rule-000", "nope")
    assert len(stored(hostmesh)) == 2


def test_more_documents_than_one_transaction_takes(hostmesh: CommandLine) -> None:
    assert hostmesh.ok("create", stdin=many(150)).count("Created config") == 150
    assert len(stored(hostmesh)) == 150
    assert hostmesh.ok("delete", stdin=many(150)).count("Deleted config") == 150


def test_of_two_operators_who_create_the_same_one_is_told(hostmesh: CommandLine) -> None:
    store = RuleStore(hostmesh.address)
    document = {"hostmesh/config/default/routerule/same": b"{}"}
    outcomes: list[str] = []

    def create() -> None:
        try:
            store.create(document)
            outcomes.append("created")
        except Exception as error:  # noqa: BLE001  # whatever it is, the assertion below names it
            outcomes.append(type(error).__name__)

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["ConflictError"] * 3 + ["created"]


def test_a_key_that_holds_no_rule_is_told_and_the_rest_is_shown(hostmesh: CommandLine) -> None:
    hostmesh.ok("create", stdin=route_rule("good"))
    RuleStore(hostmesh.address).create({"hostmesh/config/default/routerule/bad": b"not json"})
    result = hostmesh.run("get", "routerules")
    assert "good" in result.stdout
    assert "hostmesh/config/default/routerule/bad: not JSON" in result.stderr
    assert hostmesh.ok("delete", "routerule", "bad")


def test_a_name_that_would_be_another_key_is_refused(hostmesh: CommandLine) -> None:
    for arguments in (("-n", "a/b", "create"), ("create", "-n", "a/b"), ("-n", "..", "get", "routerules")):
        result = hostmesh.run(*arguments, stdin=route_rule("x"))
        assert result.exit_code == 2, result.output
        assert "is not a name" in result.stderr
    assert "is not a name" in hostmesh.refused("delete", "routerule", "a/b")
    assert stored(hostmesh) == []


def test_a_server_that_is_no_consul_is_not_an_empty_one(hostmesh: CommandLine) -> None:
    class NotFound(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), NotFound) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for verb in (("get", "all"), ("ps",), ("mesh", "get"), ("delete", "routerule", "x")):
            said = hostmesh.refused("--consul-addr", f"http://127.0.0.1:{server.server_port}", *verb)
            assert len(said.splitlines()) == 1
            assert "not as Consul does" in said
        server.shutdown()


def test_a_certificate_file_that_is_not_there_is_named(hostmesh: CommandLine) -> None:
    said = hostmesh.refused("--consul-addr", "https://127.0.0.1:1", "--ca-cert", "/absent.pem", "get", "all")
    assert "/absent.pem" in said


def test_validate_needs_no_consul(tmp_path: Path) -> None:
    nowhere = CommandLine.__new__(CommandLine)
    object.__setattr__(nowhere, "address", type("Nowhere", (), {"url": "http://127.0.0.1:1"}))
    object.__setattr__(nowhere, "config", tmp_path / "contexts.yaml")
    assert nowhere.ok("validate", "-f", "-", stdin=many(2)) == "2 objects valid\n"
    assert "spec.nonsense" in nowhere.refused("validate", stdin=route_rule("a") + "  nonsense: 1\n")
