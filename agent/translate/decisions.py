"""What AUDIT policies and dry runs tell: how Envoy writes it, and what the line says to an operator. Pure.

Envoy writes one JSON line for each request or connection; the agent reads the file and puts it into its own log.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.extensions.access_loggers.file.v3 import file_pb2
from envoy.extensions.access_loggers.stream.v3 import stream_pb2
from envoy.type.matcher.v3 import value_pb2
from msgspec import Struct

from agent.translate.claims import metadata_matcher
from agent.translate.resource import packed

HTTP_RBAC = "envoy.filters.http.rbac"
NETWORK_RBAC = "envoy.filters.network.rbac"
_RULE = re.compile(r"ns\[(?P<namespace>.*)\]-policy\[(?P<name>.*)\]-rule\[(?P<rule>\d+)\]")
_SHARED = {
    "time": "%START_TIME%",
    "principal": "%DOWNSTREAM_PEER_URI_SAN%",
    "source": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%",
    "destination": "%DOWNSTREAM_LOCAL_ADDRESS%",
}
_OF_REQUESTS = {
    "method": "%REQ(:METHOD)%",
    "host": "%REQ(:AUTHORITY)%",
    "path": "%PATH(NQ)%",
    "code": "%RESPONSE_CODE%",
}


def rule_name(namespace: str, policy: str, rule: int) -> str:
    """Return what Envoy knows a rule by."""
    return f"ns[{namespace}]-policy[{policy}]-rule[{rule}]"


def decision_log(owner: str, word: str, result: str, path: str) -> Any:
    """Return a log (envoy.config.accesslog.v3.AccessLog) to a file, or to standard output if `path` is empty.

    It has a line for each request or connection of which the RBAC filter `owner` has noted that shadow result.
    """
    log = accesslog_pb2.AccessLog(name="envoy.access_loggers.file" if path else "envoy.access_loggers.stdout")
    wanted = log.filter.metadata_filter
    value = value_pb2.ValueMatcher(string_match={"exact": result})
    wanted.matcher.CopyFrom(metadata_matcher(owner, (f"{word}_shadow_engine_result",), value))
    wanted.match_if_key_not_found.value = False
    line = {"policy": f"%DYNAMIC_METADATA({owner}:{word}_shadow_effective_policy_id)%", "event": word, **_SHARED}
    config = file_pb2.FileAccessLog(path=path) if path else stream_pb2.StdoutAccessLog()
    config.log_format.json_format.update(line | (_OF_REQUESTS if owner == HTTP_RBAC else {}))
    log.typed_config.CopyFrom(packed(config))
    return log


class Decision(Struct, frozen=True):
    """One line, for an operator's log."""

    text: str
    fields: Mapping[str, str]
    """By names that systemd's journal takes."""

    @classmethod
    def from_line(cls, line: str) -> Decision | None:
        """Return what a line says, None if it is no such line."""
        try:
            said = json.loads(line)
        except ValueError:
            return None
        if not isinstance(said, dict) or "event" not in said:
            return None
        known = {name: str(value) for name, value in said.items() if value is not None}
        rule = _RULE.fullmatch(known.pop("policy", ""))
        fields = {f"HOSTMESH_{name.upper()}": value for name, value in known.items()}
        subject = ""
        if rule is not None:
            subject = f"AuthorizationPolicy/{rule['name']}.{rule['namespace']}"
            fields |= {"HOSTMESH_SUBJECT": subject, "HOSTMESH_RULE": rule["rule"]}
        by = f"{subject} rule {rule['rule']}" if rule else "no rule of an ALLOW policy"
        verb = _VERBS.get(known["event"], "is about")
        return cls(f"{known['event'].replace('_', ' ')}: {by} {verb} {_what(known)}", fields)


_VERBS = {"audit": "holds for", "dry_run_deny": "would refuse", "dry_run_allow": "would let pass"}


def _what(known: Mapping[str, str]) -> str:
    """Return what was decided about, such as `GET reviews/path (200) of spiffe://… at 10.0.0.1:4711`."""
    asked = "a connection"
    if "method" in known:
        asked = f"{known['method']} {known.get('host', '')}{known.get('path', '')} ({known.get('code', '0')})"
    who = known.get("principal", "a caller without a certificate")
    return f"{asked} of {who} at {known.get('source', '?')} to {known.get('destination', '?')}"
