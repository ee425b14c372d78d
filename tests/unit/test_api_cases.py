"""Istio's own valid and invalid configuration, where the folder with it exists."""

from __future__ import annotations

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
