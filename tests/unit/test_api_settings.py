"""The mesh-wide settings as text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.api.settings import dump_settings, parse_settings, set_field, setting_named, settings_fields
from agent.errors import ValidationError
from agent.mesh.settings import MeshSettings, MtlsMode, OutboundTrafficPolicy

DEFAULTS = MeshSettings()


@pytest.mark.parametrize("value", ["", b"", "{}", b"{}", "# nothing\n"])
def test_nothing_means_the_defaults(value: str | bytes) -> None:
    assert parse_settings(value, "hostmesh/mesh") == DEFAULTS


def test_yaml_and_json_alike() -> None:
    expected = MeshSettings("mesh.example", MtlsMode.STRICT, OutboundTrafficPolicy.REGISTRY_ONLY, ("consul", "vault"))
    text = "trustDomain: mesh.example\nmtls: strict\noutboundTrafficPolicy: REGISTRY_ONLY\n"
    text += "excludedServices: [consul, vault]\n"
    assert parse_settings(text, "f.yaml") == expected
    assert parse_settings(dump_settings(expected), "hostmesh/mesh") == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("mtls: on", 'x: mtls: "True" is not one of disabled, permissive, strict'),
        ("mtls: Strict", 'x: mtls: "Strict" is not one of disabled, permissive, strict'),
        ("authPolicy: strict", 'x: authPolicy: "strict" is not one of NONE, PERMISSIVE, MUTUAL_TLS'),
        ("{authPolicy: NONE, mtls: strict}", "x: mtls: is the older name of authPolicy, which is there too"),
        ("extensionProviders: [{name: a}]", "x: extensionProviders[0]: needs envoyExtAuthzGrpc or envoyExtAuthzHttp"),
        (
            "extensionProviders: [{name: a, envoyExtAuthzGrpc: {service: s, port: 1, statusOnError: '499'}}]",
            "x: extensionProviders: Expected `str` matching regex",
        ),
        (
            "extensionProviders: [{name: a, envoyExtAuthzHttp: {service: s, port: 1, pathPrefix: x}}]",
            "x: extensionProviders: Expected `str` matching regex",
        ),
        (
            "extensionProviders: [{name: a, zipkin: {}}]",
            "x: extensionProviders: Object missing required field `service` - at `$[0].zipkin`",
        ),
        (
            "extensionProviders: [{name: a, datadog: {}}]",
            "x: extensionProviders: Object contains unknown field `datadog`",
        ),
        ("tracing: {zipkin: {service: z, port: 0}}", "x: tracing: Expected `int` >= 1 - at `$.zipkin.port`"),
        ("tracing: {zipkin: {service: 'a b', port: 1}}", "x: tracing: Expected `str` matching regex"),
        ("tracing: {sampling: 101}", "x: tracing: Expected `float` <= 100.0 - at `$.sampling`"),
        ("tracing: {customTags: {a: {}}}", "x: tracing.customTags.a: needs literal, environment or header"),
        (
            "tracing: {zipkin: {service: z, port: 1}, opentelemetry: {service: z, port: 1}}",
            "x: tracing: zipkin and opentelemetry exclude each other",
        ),
        ("rootNamespace: A b", 'x: rootNamespace: "A b" is not a name'),
        ("trustDomainAliases: [A b]", 'x: trustDomainAliases: "A b" is not a trust domain'),
        ("outboundTrafficPolicy: 3", 'x: outboundTrafficPolicy: "3" is not one of ALLOW_ANY, REGISTRY_ONLY'),
        ("trustDomain: A b", 'x: trustDomain: "A b" is not a trust domain'),
        ("trustDomain: 3", 'x: trustDomain: "3" is not a trust domain'),
        ("excludedServices: consul", "x: excludedServices: must be a list of names"),
        ("proxied: maybe", 'x: proxied: "maybe" is not true or false'),
        (
            "trust_domain: a",
            "x: trust_domain: unknown setting (did you mean trustDomain?) (known: trustDomain, authPolicy, ",
        ),
        ("- 1", "x: must be a mapping of settings (known: trustDomain, authPolicy, "),
        ("a: 1\n---\nb: 2", "x: holds 2 documents (one is allowed)"),
        (b"\xff", "x: not UTF-8 text (byte 0)"),
        ("a" * 70_000, "x: 70000 characters are too many (at most 65536)"),
        ("a: *", "x:1: not YAML: "),
    ],
)
def test_refused(value: str | bytes, expected: str) -> None:
    with pytest.raises(ValidationError) as caught:
        parse_settings(value, "x")
    assert caught.value.problems[0].startswith(expected)


def test_every_problem_at_once() -> None:
    with pytest.raises(ValidationError) as caught:
        parse_settings("mtls: x\ntrustDomain: X\n", "x")
    assert len(caught.value.problems) == 2


def test_one_field_is_set() -> None:
    assert set_field(DEFAULTS, "authPolicy", "MUTUAL_TLS").mtls is MtlsMode.STRICT
    assert set_field(DEFAULTS, "mtls", "strict").mtls is MtlsMode.STRICT
    assert settings_fields(set_field(DEFAULTS, "mtls", "disabled"))["authPolicy"] == "NONE", "one truth"
    assert setting_named(settings_fields(DEFAULTS), "mtls") == "permissive"
    assert set_field(DEFAULTS, "excludedServices", "consul, vault").excluded_services == ("consul", "vault")
    assert set_field(DEFAULTS, "excludedServices", "").excluded_services == ()
    assert set_field(DEFAULTS, "proxied", "false").proxied is False
    assert settings_fields(DEFAULTS)["outboundTrafficPolicy"] == "ALLOW_ANY"


@pytest.mark.parametrize(("name", "value"), [("mtls", "x"), ("mtl", "strict"), ("trustDomain", "")])
def test_a_wrong_field_is_refused(name: str, value: str) -> None:
    with pytest.raises(ValidationError, match="mesh settings: "):
        set_field(DEFAULTS, name, value)


@settings(deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60))
def test_any_value_gives_settings_or_one_line_problems(value: bytes | str) -> None:
    try:
        parse_settings(value, "hostmesh/mesh")
    except ValidationError as error:
        lines = error.problems
    else:
        lines = ()
    assert all(line.startswith("hostmesh/mesh") and "\n" not in line for line in lines)
