"""CEL that our own check lets pass: Envoy takes all of it (test_access_logs.py)."""

from __future__ import annotations

ACCEPTED = (
    "response.code >= 400",
    "response.code >= 400 && (xds.cluster_name.contains('BlackHoleCluster') || !connection.mtls)",
    "has(request.headers) && 'x-a' in request.headers && request.headers['x-a'] != \"\"",
    "response.code in [400, 401, 0x1f, 5u] || -response.code < 0.5 || .5 > 1e3",
    "request.path.matches('^/a[0-9]+$') || request.path.startsWith(r'/\\d')",
    "request.path.matches(request.host) ? true : size(request.path) > 3 || request.path.size() == 2",
    "timestamp('2024-01-01T00:00:00Z') > request.time && request.time.getHours() > 3",
    "duration('1s') > request.duration && int('1') == 1 && double(1) == 1.0 && type(1) == int",
    "{'a': 1, 'b': 2}['a'] == 1 && [1, 2][0] == 1 && null == null && b'a' == b\"a\"",
    "1 + 2 * 3 / 4 % 5 - 6 == 1 != true",
    "'\\u0041\\n\\x41\\101' == 'A' && '\\'' != \"\\\"\"",
    "!!true && --1 == 1",
    "nope.x == 1 && metadata.filter_metadata['a']['b'] == 'c'",
    "dyn(1) == 1 && uint(1) == 1u",
)
