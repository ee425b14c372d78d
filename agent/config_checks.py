"""What agent.yaml may hold: every problem at once, as `FILE:LINE: setting: reason (what is allowed)`. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from agent.adapters.consul.address import ConsulAddress
from agent.api.checks import words
from agent.api.checks.schema import Report, Rule, boolean, integer, listing, mapping, message, one_of, text
from agent.api.problem import one_line
from agent.api.yaml_text import YamlValue, read_yaml
from agent.errors import ConfigError
from agent.mesh.ports import NEVER_CAPTURED, OPERATOR_PORT

LOG_LEVELS = ("debug", "info", "warning", "error")
PROXY_LOG_LEVELS = ("trace", "debug", "info", "warning", "error", "critical", "off")
MIN_VIPS = 16


def read_agent_yaml(content: str, source: str) -> tuple[dict[str, Any], list[str]]:
    """Return the settings of the file as plain data, without null ones, and its problems."""
    values, problems = read_yaml(content, source)
    if len(values) > 1:
        problems.append(f"{source}: holds {len(values)} documents (one is allowed)")
    if problems or not values:
        return {}, problems
    report = Report()
    AGENT(report, "", values[0].value)
    problems = [_line(values[0], source, problem.path, problem.reason) for problem in report.problems]
    plain = values[0].value
    return (_without_null(plain) if not problems and isinstance(plain, dict) else {}), problems


def network(value: str, kind: type[IPv4Network] | type[IPv6Network]) -> str | None:
    """Want a range of at least 16 virtual addresses of that family."""
    family = 4 if kind is IPv4Network else 6
    try:
        parsed = ip_network(value)
    except ValueError as error:
        return f"{one_line(error)} (a range such as {'240.240.0.0/16' if family == 4 else 'fdf0:240:240::/112'})"
    if not isinstance(parsed, kind):
        return f"{value} is not an IPv{family} range"
    if parsed.num_addresses < MIN_VIPS:
        return f"{value} is too small: a range of at least {MIN_VIPS} addresses is needed"
    return None


def ports(value: str) -> tuple[int, ...]:
    """Return the ports of `80,443`; raises ValueError with the reason."""
    numbers = []
    for word in (word.strip() for word in value.split(",")):
        if not word:
            continue
        if not (word.isascii() and word.isdigit() and 0 < int(word) < 65536):
            raise ValueError(f'"{one_line(word, 40)}" is not a port (1 to 65535; several with commas)')
        numbers.append(int(word))
    return tuple(numbers)


def _line(value: YamlValue, source: str, path: str, reason: str) -> str:
    known = path
    while known and known not in value.lines:
        known = known[: max(known.rfind("."), known.rfind("["), 0)]
    place = f"{path}: " if path else ""
    return f"{source}:{value.lines.get(known, value.line)}: {place}{reason}"


def _without_null(value: Any) -> Any:
    """Return the data without settings that have no value: `consul:` with all its lines commented out."""
    if isinstance(value, dict):
        return {key: _without_null(item) for key, item in value.items() if item is not None}
    return value


def _consul_address(value: str) -> str | None:
    try:
        ConsulAddress.from_url(value, source="")
    except ConfigError as error:
        return error.problems[0].removeprefix(": ")
    return None


def _cidr(value: str) -> str | None:
    try:
        ip_network(value)
    except ValueError as error:
        return f"{one_line(error)} (a range such as 10.0.0.0/8)"
    return None


def _duration(report: Report, path: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 3600:
        report.invalid(path, f"{one_line(value, 40)} is not a number of seconds (0 to 3600)")


def _or_empty(rule: Rule) -> Rule:
    return lambda value: rule(value) if value else None


def _host_or_address(value: str) -> str | None:
    return None if words.is_address(value) else words.host(value)


def _vips(kind: type[IPv4Network] | type[IPv6Network]) -> Rule:
    return lambda value: network(value, kind)


def _interception(report: Report, path: str, interception: dict[str, Any]) -> None:
    mode = interception.get("outbound", "mesh")
    for name in ("includeOutboundCidrs", "includeOutboundPorts"):
        if interception.get(name) and mode != "mesh":
            report.invalid(f"{path}.{name}", f"goes with outbound: mesh only, not with {mode}")


def _operator_port(report: Report, path: str, value: Any) -> None:
    integer(1, 65535)(report, path, value)
    if value in NEVER_CAPTURED and value != OPERATOR_PORT:
        report.invalid(path, f"{value} is a port of ssh, of Consul or of the mesh itself (default {OPERATOR_PORT})")


def _fields(names: Iterable[str], check: Any) -> dict[str, Any]:
    return dict.fromkeys(names, check)


_PORT = integer(1, 65535)
_PORTS = listing(_PORT)
AGENT = message(
    {
        "role": one_of("host", "gateway"),
        "labels": mapping(text(empty=True)),
        "node": text(_or_empty(words.host), empty=True),
        "address": text(_or_empty(words.address), empty=True),
        "consul": message(
            {"address": text(_consul_address), **_fields(("tokenFile", "caFile", "certFile", "keyFile"), text())}
        ),
        "ca": message(
            {
                "address": text(_or_empty(_host_or_address), empty=True),
                "addresses": listing(text(_host_or_address), at_most=16),
                "enrolmentPort": _PORT,
                "renewalPort": _PORT,
                "tokenFile": text(),
                "rootChangeSpread": _duration,
            }
        ),
        "proxy": message(
            {
                "binary": text(),
                "concurrency": integer(1, 1024),
                "drainSeconds": _duration,
                "logLevel": one_of(*PROXY_LOG_LEVELS),
            }
        ),
        "interception": message(
            {
                "outbound": one_of("mesh", "all", "none"),
                "inbound": boolean,
                **_fields(("inboundPorts", "excludeInboundPorts", "excludeOutboundPorts"), _PORTS),
                "includeOutboundPorts": _PORTS,
                **_fields(("includeUsers", "excludeUsers"), listing(text(words.unix_user))),
                "onProxyFailure": one_of("closed", "open"),
                **_fields(("excludeOutboundCidrs", "includeOutboundCidrs"), listing(text(_cidr))),
            },
            also=_interception,
        ),
        "dns": message({"upstreams": listing(text(words.dns_server), at_most=16)}),
        "vips": message({"v4": text(_vips(IPv4Network)), "v6": text(_vips(IPv6Network))}),
        "operator": message({"enabled": boolean, "port": _operator_port}),
        "log": message({"level": one_of(*LOG_LEVELS)}),
    }
)
