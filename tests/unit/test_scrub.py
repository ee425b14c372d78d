"""No secret passes, and what is none stays readable."""

from __future__ import annotations

import pytest

from agent.cli.scrub import REMOVED, scrub
from node_ca.proto.token import JoinToken

UUID = "b1a4b5a5-3c2d-4000-8000-00000000abcd"
JOIN = JoinToken.new(b"f" * 32).text()
KEY = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE5ecret\n-----END EC PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"before\n{KEY}\nafter", "MHcCAQEE5ecret"),
        (f'{{"k": "{KEY}"}}'.replace("\n", "\\n"), "MHcCAQEE5ecret"),
        ("-----BEGIN PRIVATE KEY-----\nMHcCAQEE5ecret\n(cut off)", "MHcCAQEE5ecret"),
        (f"enrol with {JOIN} failed", JOIN.split(".")[2]),
        (f"CONSUL_HTTP_TOKEN={UUID}", UUID),
        (f'"X-Consul-Token": "{UUID}"', UUID),
        (f"token: {UUID}", UUID),
        ("Authorization: Bearer abc.def", "abc.def"),
        ("jwt eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl end", "c2lnbmF0dXJl"),
        ("https://bob:hunter2@proxy:8080/x", "hunter2"),
        ("MYSQL_PASSWORD=hunter2", "hunter2"),
        ('password: "hunter2"', "hunter2"),
        ("encrypt = 'pUqJrVyVRj5jsiYEkM/tFQ=='", "pUqJrVyVRj5jsiYEkM"),
        ("the word s3cr3t-value in a log", "s3cr3t-value"),
    ],
)
def test_a_secret_is_taken_out(text: str, secret: str) -> None:
    scrubbed = scrub(text, known=["s3cr3t-value"])
    assert secret not in scrubbed
    assert REMOVED in scrubbed


@pytest.mark.parametrize(
    "text",
    [
        "tokenFile: /etc/hostmesh/consul-token",
        f"node {UUID} joined",
        "secret: {name: shop}",
        "credentialName: shop",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        "http://10.0.0.1:8500/v1/agent/self",
        "spiffe://cluster.local/ns/default/sa/reviews",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert scrub(text, known=["short"]) == text
