"""Values that Envoy puts into headers: `%OPERATOR%` stands for a fact of the request, `%%` for a percent sign.

Envoy refuses a whole route table for one operator that it doesn't know, so only known ones pass. Pure.
"""

from __future__ import annotations

import re

from agent.api.checks.schema import Check, Report, text
from agent.api.checks.words import one_line_value
from agent.api.problem import one_line

_PIECE = re.compile(r"%%|%([^%(]*)(\((?:[^)\\]|\\.)*\))?(:[0-9]{1,4}| +)?%|%|[^%]+", re.DOTALL)
_PLAIN_NAMES = """
PROTOCOL HOSTNAME CONNECTION_ID STREAM_ID BYTES_RECEIVED BYTES_SENT DURATION RESPONSE_CODE RESPONSE_CODE_DETAILS
RESPONSE_FLAGS ROUTE_NAME VIRTUAL_CLUSTER_NAME START_TIME REQUESTED_SERVER_NAME TRACE_ID
UPSTREAM_HOST UPSTREAM_HOST_NAME UPSTREAM_CLUSTER UPSTREAM_CLUSTER_RAW UPSTREAM_LOCAL_ADDRESS
UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT UPSTREAM_LOCAL_PORT UPSTREAM_REMOTE_ADDRESS
UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT UPSTREAM_REMOTE_PORT UPSTREAM_REQUEST_ATTEMPT_COUNT UPSTREAM_PROTOCOL
UPSTREAM_TRANSPORT_FAILURE_REASON UPSTREAM_TLS_VERSION UPSTREAM_PEER_SUBJECT UPSTREAM_PEER_URI_SAN
DOWNSTREAM_REMOTE_ADDRESS DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT DOWNSTREAM_REMOTE_PORT
DOWNSTREAM_DIRECT_REMOTE_ADDRESS DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT DOWNSTREAM_DIRECT_REMOTE_PORT
DOWNSTREAM_LOCAL_ADDRESS DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT DOWNSTREAM_LOCAL_PORT
DOWNSTREAM_PEER_URI_SAN DOWNSTREAM_LOCAL_URI_SAN DOWNSTREAM_PEER_SUBJECT DOWNSTREAM_LOCAL_SUBJECT
DOWNSTREAM_PEER_ISSUER DOWNSTREAM_TLS_SESSION_ID DOWNSTREAM_TLS_CIPHER DOWNSTREAM_TLS_VERSION
DOWNSTREAM_PEER_FINGERPRINT_256 DOWNSTREAM_PEER_FINGERPRINT_1 DOWNSTREAM_PEER_SERIAL DOWNSTREAM_PEER_CERT
DOWNSTREAM_PEER_CERT_V_START DOWNSTREAM_PEER_CERT_V_END
"""
PLAIN_COMMANDS = frozenset(_PLAIN_NAMES.split())
_WITH_NAME = frozenset({"REQ", "RESP", "TRAILER", "QUERY_PARAM", "ENVIRONMENT"})
_NAME = re.compile(r"\([-:A-Za-z0-9_.]+(\?[-:A-Za-z0-9_.]+)?\)")


def header_value(empty: bool) -> Check:
    """Check the value that a rule gives a header; an empty one only if `empty`."""
    is_text = text(one_line_value, empty=empty)

    def check(report: Report, path: str, value: object) -> None:
        before = report.invalid_count
        is_text(report, path, value)
        if report.invalid_count > before or not isinstance(value, str):
            return
        for piece in _PIECE.finditer(value):
            if piece[0] == "%":
                report.invalid(path, f'"{one_line(value, 60)}" has a single % (a percent sign is %%)')
                return
            if piece[1] is not None and not _is_known(piece[1], piece[2], piece[3]):
                report.unsupported(path, f"{one_line(piece[0], 60)} is not an operator that can be used here")

    return check


def _is_known(operator: str, argument: str | None, length: str | None) -> bool:
    if operator in _WITH_NAME:
        return bool(argument and _NAME.fullmatch(argument)) and (operator != "ENVIRONMENT" or "?" not in str(argument))
    return operator in PLAIN_COMMANDS and argument is None and length is None
