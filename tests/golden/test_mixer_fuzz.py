"""Whatever of Mixer's language is taken as enforceable, Envoy takes what is made of it: many rules in each run."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from agent.mesh.mixer import Denial
from agent.translate.mixer_guard import mixing
from tests.drawn_rules import CALLERS, Drawn, drawn_rules
from tests.programs import ENVOY

_FILTERS = "type.googleapis.com/envoy.extensions.filters"
_BY_HANDLER = "of a list of addresses only source.ip", "source.ip is not known", "a caller's user can be compared"
"""What only a handler together with its instance shows."""


@pytest.mark.parametrize("seed", [1, 2])
def test_envoy_takes_whatever_is_valid(seed: int, tmp_path: Path) -> None:
    chains = []
    for drawn in drawn_rules(seed, 250):
        mixed = mixing(drawn.here, CALLERS)
        for fault in mixed.faults:
            is_denial = isinstance(drawn.lowered.checks[0], Denial)
            by_handler = not is_denial and any(word in fault.reason for word in _BY_HANDLER)
            assert by_handler or "on connections" in fault.reason, (drawn.written, fault)
        for requests in (mixed.requests, mixed.plain_requests):
            chains.append((drawn, [*_plain(requests.filters), _typed("http.router.v3.Router", "router")], True))
        for connections in (mixed.connections, mixed.plain_connections):
            chains.append((drawn, [*_plain(connections.filters), _typed("network.echo.v3.Echo", "echo")], False))
    refused = _refused(chains, tmp_path / "envoy.json")
    assert not refused, refused


def _plain(filters: Iterable[Any]) -> list[dict[str, Any]]:
    found = [MessageToDict(each, preserving_proto_field_name=True) for each in filters]
    return [{**each, "name": f"{each['name']}.{number}"} for number, each in enumerate(found)]


def _typed(name: str, short: str) -> dict[str, Any]:
    return {"name": short, "typed_config": {"@type": f"{_FILTERS}.{name}"}}


_Chains = list[tuple[Drawn, list[dict[str, Any]], bool]]


def _refused(chains: _Chains, file: Path) -> str:
    """Return what Envoy refuses first, and of which rule; empty: nothing."""
    told = _validate([_chain(number, each[1], http=each[2]) for number, each in enumerate(chains)], file)
    if not told:
        return ""
    if len(chains) == 1:
        return f"{chains[0][0].written}: {told}"
    half = len(chains) // 2
    return _refused(chains[:half], file) or _refused(chains[half:], file)


def _chain(number: int, filters: list[dict[str, Any]], *, http: bool) -> dict[str, Any]:
    if http:
        manager = _typed("network.http_connection_manager.v3.HttpConnectionManager", "http")
        route = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
        hosts = [{"name": "all", "domains": ["*"], "routes": [route]}]
        manager["typed_config"] |= {
            "stat_prefix": "x",
            "route_config": {"virtual_hosts": hosts},
            "http_filters": filters,
        }
        filters = [manager]
    return {"name": f"c{number}", "filter_chain_match": {"destination_port": number + 1}, "filters": filters}


def _validate(chains: list[dict[str, Any]], file: Path) -> str:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 1}}
    listener = {"name": "l", "address": address, "filter_chains": chains}
    file.write_text(json.dumps({"static_resources": {"listeners": [listener]}}))
    command = [str(ENVOY), "--mode", "validate", "-c", str(file), "-l", "error"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return "" if done.returncode == 0 else done.stderr + done.stdout
