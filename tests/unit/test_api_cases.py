"""Istio's own valid and invalid configuration, where the folder with it exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agent.api.document import read_documents
from agent.api.problem import Verdict
from agent.api.validate import describe, find_problems, is_invalid

CASES = Path(__file__).parents[3] / "shared" / "cases" / "istio"

pytestmark = [
    pytest.mark.case,
    pytest.mark.skipif(not CASES.is_dir(), reason="the folder with Istio's cases is not here"),
]

WHY = re.compile(r'\(TestValidate\w+, case "(?P<case>.*)"\)\.(?: Expected error contains: (?P<error>.*))?')
NO_SUBJECT = re.compile(
    r"invalid|bad|empty|valid|missing|happy|value|name|rule|route|match|http|spec|set|has|give|one|both|is|not|no|does"
    r"|with|without|and|or|the|to|in|on|at|for|of|by|an?|but|too|that"
)
"""Words of a case's name and of our lines that name no field and no fault."""
SAME_FIELD = {
    "condition-value-missing": "when[0].values: is missing",
    "to-empty": "rules[0].to: is empty",
    "value-empty": "when[0].values[1]: is empty",
    "empty": "destination.host: is missing",
    "unnumbered-selector": "destination.port.number: is missing",
    "invalid percent": "fault.delay.percentage.value",
    "invalid FQDN": "is no host name or IP address",
    "empty route rule": "spec.destination: is missing",
}
"""What our line says where it shares no word with the case's name, which names no field or names it otherwise."""


def files(pattern: str) -> list[Path]:
    return sorted(CASES.glob(pattern))


def test_the_cases_are_found() -> None:
    if CASES.is_dir():
        assert len(files("valid-*/**/*.yaml")) > 50
        assert len(files("invalid/**/*.yaml")) > 50


def test_no_valid_file_is_called_invalid() -> None:
    wrong = []
    for path in files("valid-*/**/*.yaml"):
        documents, problems = read_documents(path.read_text(), path.name, "default")
        wrong += problems
        for document in documents:
            wrong += [
                describe(document, problem)
                for problem in find_problems(document)
                if problem.verdict is not Verdict.UNSUPPORTED
            ]
    assert wrong == []


def test_what_is_supported_is_found_valid() -> None:
    valid = set()
    for path in files("valid-*/**/*.yaml"):
        documents, problems = read_documents(path.read_text(), path.name, "default")
        if not problems and not any(find_problems(document) for document in documents):
            valid.add(path.name)
    assert {
        "r0.6-pilot_pkg_config_kube_crd_file_testdata_weighted-route.yaml",
        "r0.8-bookinfo_consul_route-rule-all-v1.yaml",
        "r0.8-bookinfo_kube_route-rule-reviews-50-v3.yaml",
        "r0.8-bookinfo_kube_route-rule-reviews-test-v2.yaml",
        "r0.8-httpbin_routerules_httpbin-v1.yaml",
        "istio-bookinfo_networking_virtual-service-reviews-80-20.yaml",
        "istio-tests_integration_pilot_a.yaml",
        "r0.6-pilot_pkg_config_kube_crd_file_testdata_redirect-route.yaml",
        "r0.6-pilot_pkg_config_kube_crd_file_testdata_rewrite-route.yaml",
        "r0.8-RouteAndIngressRule-append-headers.yaml",
        "r0.8-RouteAndIngressRule-valid-cors-policy.yaml",
        "r0.8-bookinfo_kube_route-rule-ratings-test-abort.yaml",
        "r0.8-istioctl_cmd_istioctl_convert_testdata_v1alpha1_rule-default-route-mirrored.yaml",
        "r0.8-istioctl_cmd_istioctl_convert_testdata_v1alpha1_rule-fault-injection.yaml",
        "r0.8-istioctl_cmd_istioctl_convert_testdata_v1alpha1_rule-websocket-route.yaml",
        "val-Destination-full.yaml",
        "val-HTTPDirectResponse-status-200.yaml",
        "val-HTTPFaultInjectionAbort-grpc-valid.yaml",
        "val-HTTPFaultInjectionDelay-valid-default.yaml",
        "val-HTTPRedirect-prefix_rewrite-with-authority.yaml",
        "val-HTTPRetry-valid-http-status-retryOn.yaml",
        "val-HTTPRewrite-uri.yaml",
        "val-HTTPRoute-envoy-escaped-add.yaml",
        "val-HTTPRoute-valid-headers.yaml",
        "val-VirtualService-set-authority-in-destination.yaml",
        "val-VirtualService-uri-with-prefix-exact.yaml",
    } <= valid


def test_every_invalid_file_is_called_invalid() -> None:
    passing = []
    for path in files("invalid/**/*.yaml"):
        documents, problems = read_documents(path.read_text(), path.name, "default")
        if not problems and not any(is_invalid(find_problems(document)) for document in documents):
            passing.append(f"{path.name}: {path.with_suffix('.why').read_text().strip()}")
    assert passing == []


def test_every_invalid_file_is_refused_for_its_own_reason() -> None:
    elsewhere = []
    for path in files("invalid/**/*.yaml"):
        why = WHY.search(path.with_suffix(".why").read_text())
        assert why, path
        wanted, lines = subjects(f"{why['case']} {why['error'] or ''}"), invalid_lines(path)
        same_field = SAME_FIELD.get(why["case"])
        if not any(wanted & subjects(line) or (same_field and same_field in line) for line in lines):
            elsewhere.append(f"{why['case']}: {lines}")
    assert elsewhere == []


def invalid_lines(path: Path) -> list[str]:
    documents, lines = read_documents(path.read_text(), path.name, "default")
    for document in documents:
        found = (one for one in find_problems(document) if one.verdict is Verdict.INVALID)
        lines += [f"{problem.path}: {problem.reason}" for problem in found]
    return lines


def subjects(text: str) -> set[str]:
    """Return the words that name a field or a fault, in the singular; `serverCertificate` has two."""
    apart = re.sub(r"([a-z])([A-Z])", r"\1 \2", text).lower()
    words = {word.removesuffix("s") if len(word) > 3 else word for word in re.findall(r"[a-z0-9]+", apart)}
    return {word for word in words if not NO_SUBJECT.fullmatch(word)}
