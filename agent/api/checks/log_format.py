"""Formats of access logs: `%COMMAND%` stands for a fact of the request, `%%` for a percent sign. Pure.

Envoy refuses a whole listener for one command that it doesn't know, so only known ones pass.
"""

from __future__ import annotations

import re

from agent.api.checks.header_format import PLAIN_COMMANDS
from agent.api.problem import one_line

_PIECE = re.compile(r"%%|%([A-Z0-9_]+)(\([^()%]*\))?(:[0-9]{1,4})?%|%|[^%]+", re.DOTALL)
_MORE_NAMES = """
CONNECTION_TERMINATION_DETAILS RESPONSE_FLAGS_LONG DOWNSTREAM_WIRE_BYTES_RECEIVED DOWNSTREAM_WIRE_BYTES_SENT
UPSTREAM_WIRE_BYTES_RECEIVED UPSTREAM_WIRE_BYTES_SENT REQUEST_DURATION RESPONSE_DURATION RESPONSE_TX_DURATION
REQUEST_HEADERS_BYTES RESPONSE_HEADERS_BYTES GRPC_STATUS_NUMBER EMIT_TIME
"""
MORE_COMMANDS = frozenset(_MORE_NAMES.split())
_HEADER = re.compile(r"\(:?[-A-Za-z0-9_.]+(\?:?[-A-Za-z0-9_.]+)?\)")
_OF_HEADERS = frozenset({"REQ", "RESP", "TRAILER"})


def format_problem(text: str) -> str | None:
    """Return what is wrong with a format, None if Envoy takes it."""
    for piece in _PIECE.finditer(text):
        if piece[0] == "%":
            return f'"{one_line(text, 60)}" has a single %, or a command that is not known (a percent sign is %%)'
        command, argument, length = piece[1], piece[2], piece[3]
        if command is not None and not _is_known(command, argument, length):
            return f"{one_line(piece[0], 60)} is not a command that can be used here"
    return None


def _is_known(command: str, argument: str | None, length: str | None) -> bool:
    if command in _OF_HEADERS:
        return bool(argument and _HEADER.fullmatch(argument))
    if command == "PATH":
        return argument in ("(WQ)", "(NQ)", "(ORIG)")
    return (command in PLAIN_COMMANDS or command in MORE_COMMANDS) and argument is None and length is None
