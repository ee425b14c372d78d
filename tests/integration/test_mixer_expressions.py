"""Mixer's expressions drawn at random: what Envoy makes of them on requests is what they are worth."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from envoy.extensions.filters.http.rbac.v3 import rbac_pb2
from google.protobuf.json_format import MessageToDict
from msgspec import Struct

from agent.mesh.expressions.evaluate import evaluate
from agent.mesh.expressions.tree import Value
from agent.mesh.mixer import Denial, ListCheck, workload_attributes
from agent.translate.mixer_conditions import is_listed
from agent.translate.mixer_guard import Mixed, mixing
from tests.drawn_rules import CALLER, CALLER_LABELS, CALLER_SERVICE, CALLERS, DOMAIN, LABELS, SERVER, Drawn, drawn_rules
from tests.mesh_certificates import TestAuthority
from tests.ports import free_ports
from tests.programs import ENVOY

_FILTERS = "type.googleapis.com/envoy.extensions.filters"
_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
_RBAC = "envoy.filters.http.rbac"
RULES = 150


class Request(Struct, frozen=True):
    """A request without a body."""

    method: str
    path: str
    host: str
    headers: dict[str, str]


REQUESTS = (
    Request("GET", "/a/b.html", "ratings", {"user-agent": "curl/8", "x-user": "jason"}),
    Request("POST", "/a?b=1", "jason", {"a": "v3", "x-request-id": "a", "referer": "http", "content-length": "0"}),
    Request("GET", "/", "host", {"x-api-key": "x", "user-agent": "", "cookie": "a"}),
)


def test_envoy_finds_what_they_are_worth(tmp_path: Path) -> None:
    # Of a request's whole size only Envoy knows.
    rules = [one for one in drawn_rules(3, RULES) if not any("total_size" in text for text in one.written)]
    mixed = [mixing(one.here, CALLERS) for one in rules]
    secured, plain = free_ports(2)
    authority = TestAuthority()
    server = authority.write(tmp_path / "server", f"spiffe://{DOMAIN}/ns/default/sa/ratings")
    caller = authority.write(tmp_path / "caller", CALLER.spiffe_id(DOMAIN))
    listeners = [_listener(secured, [one.requests for one in mixed], server)]
    listeners.append(_listener(plain, [one.plain_requests for one in mixed], None))
    with _envoy(tmp_path / "envoy.json", {"static_resources": {"listeners": listeners}}, (secured, plain)):
        for request in REQUESTS:
            for port, folder in ((secured, caller), (plain, None)):
                refused = _refused(request, port, folder)
                values = _attributes(request, is_secured=folder is not None)
                for number, (rule, one) in enumerate(zip(rules, mixed, strict=True)):
                    known = (one.requests if folder else one.plain_requests).faults
                    assert known or (number in refused) is _is_refused(rule, values), (rule.written, request, folder)


class _Headers(dict[str, str]):
    """Names of headers are found whatever their case."""

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)


def _attributes(request: Request, *, is_secured: bool) -> dict[str, Value]:
    scheme, now = "https" if is_secured else "http", datetime.now(UTC)
    pseudo = {":path": request.path, ":method": request.method, ":authority": request.host, ":scheme": scheme}
    found: dict[str, Value | None] = {
        **workload_attributes("destination", SERVER, LABELS),
        "connection.mtls": is_secured,
        "source.ip": ip_address("127.0.0.1"),
        "context.protocol": "http",
        "request.headers": _Headers({**request.headers, **pseudo, "host": request.host}),
        "request.path": request.path,
        "request.url_path": request.path.partition("?")[0],
        "request.host": request.host,
        "request.method": request.method,
        "request.scheme": scheme,
        "request.size": 0,
        "request.time": now,
        "context.time": now,
        "request.id": request.headers.get("x-request-id"),
        "request.useragent": request.headers.get("user-agent"),
        "request.referer": request.headers.get("referer"),
        "request.api_key": request.headers.get("x-api-key"),
    }
    if is_secured:
        found |= workload_attributes("source", CALLER_SERVICE, CALLER_LABELS, CALLER, DOMAIN)
    return {name: value for name, value in found.items() if value is not None}


def _is_refused(rule: Drawn, values: Mapping[str, Value]) -> bool:
    """Tell whether a request with these attributes is refused (of a quota: by a limit of nothing)."""
    lowered = rule.lowered
    if evaluate(lowered.match, values) is not True:
        return False
    (check,) = lowered.checks
    match check:
        case Denial():
            return True
        case ListCheck():
            value = evaluate(check.value, values)
            return (value is not None and is_listed(check, str(value))) is check.blacklist
    worth = {name: evaluate(dimension, values) for name, dimension in check.dimensions}
    texts = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in worth.items()}
    found = {name: "" if worth[name] is None else text for name, text in texts.items()}
    limit = next(one for one in check.limits if all(found.get(name) == value for name, value in one.dimensions))
    return limit.amount == 0


def _listener(port: int, every: list[Mixed], certificates: Path | None) -> dict[str, Any]:
    """Return a listener that answers each request with the numbers of the rules that would refuse it."""
    filters = list[dict[str, Any]]()
    for number, mixed in enumerate(every):
        named = {each.name: each for each in mixed.filters}
        if certificates and not filters and f"{_RBAC}.mixer_peer" in named:
            filters.append(MessageToDict(named[f"{_RBAC}.mixer_peer"], preserving_proto_field_name=True))
        if f"{_RBAC}.mixer" in named:
            filters.append(_in_shadow(number, named[f"{_RBAC}.mixer"]))
    filters.append({"name": "router", "typed_config": {"@type": f"{_FILTERS}.http.router.v3.Router"}})
    told = {"header": {"key": "x-refused", "value": f"%DYNAMIC_METADATA({_RBAC})%"}}
    route = {
        "match": {"prefix": "/"},
        "direct_response": {"status": 200},
        "response_headers_to_add": [told],
    }
    manager = {
        "@type": f"{_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "x",
        "generate_request_id": False,
        "preserve_external_request_id": True,
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": filters,
    }
    chain: dict[str, Any] = {"filters": [{"name": "http", "typed_config": manager}]}
    if certificates:
        chain["transport_socket"] = {"name": "tls", "typed_config": _server_tls(certificates)}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {"name": f"at {port}", "address": address, "filter_chains": [chain]}


def _in_shadow(number: int, enforced: Any) -> dict[str, Any]:
    """Return a filter that only notes what another one would refuse."""
    config: Any = rbac_pb2.RBAC()
    enforced.typed_config.Unpack(config)
    config.shadow_matcher.CopyFrom(config.matcher)
    config.ClearField("matcher")
    config.shadow_rules_stat_prefix = f"rule{number}_"
    plain = MessageToDict(config, preserving_proto_field_name=True)
    return {"name": f"{_RBAC}.{number}", "typed_config": {"@type": f"{_FILTERS}.http.rbac.v3.RBAC", **plain}}


def _server_tls(folder: Path) -> dict[str, Any]:
    chain, key = ({"filename": str(folder / name)} for name in ("cert-chain.pem", "key.pem"))
    roots = {"trusted_ca": {"filename": str(folder / "root-cert.pem")}}
    common = {"tls_certificates": [{"certificate_chain": chain, "private_key": key}], "validation_context": roots}
    return {"@type": _TLS, "require_client_certificate": True, "common_tls_context": common}


@contextmanager
def _envoy(file: Path, config: Mapping[str, Any], ports: tuple[int, ...]) -> Iterator[None]:
    file.write_text(json.dumps(config))
    command = [str(ENVOY), "-c", str(file), "--disable-hot-restart", "--concurrency", "1", "-l", "error"]
    with file.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        for port in ports:
            while True:
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
                    break
                assert process.poll() is None, file.with_suffix(".log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield
    finally:
        process.kill()
        process.wait()


def _refused(request: Request, port: int, certificates: Path | None) -> set[int]:
    """Return the numbers of the rules that would refuse it."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.sock = _connected(port, certificates)
    connection.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
    for name, value in {"host": request.host, **request.headers}.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 200
    noted = json.loads(answer.getheader("x-refused") or "{}")
    connection.close()
    names = (name.removeprefix("rule") for name, value in noted.items() if value == "denied")
    return {int(name.partition("_")[0]) for name in names}


def _connected(port: int, certificates: Path | None) -> socket.socket:
    plain = socket.create_connection(("127.0.0.1", port), timeout=30, source_address=("127.0.0.1", 0))
    if certificates is None:
        return plain
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(certificates / "cert-chain.pem", certificates / "key.pem")
    return context.wrap_socket(plain, server_hostname="ratings.default")
