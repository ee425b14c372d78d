"""Rules about hosts, addresses, ports and protocols as Istio checks them; each returns what is wrong, or None. Pure.

The source of each rule is Istio's pkg/config/validation and pkg/config/labels.
"""

from __future__ import annotations

import re
from ipaddress import ip_interface

from agent.api.checks.words import is_address
from agent.api.problem import one_line

_LABEL = r"[A-Za-z0-9](?:[-A-Za-z0-9]{0,61}[A-Za-z0-9])?"
_DNS_LABEL = re.compile(_LABEL)
_FIRST_LABEL = re.compile(rf"\*|(?:\*-?)?{_LABEL}")
_UNIX = "unix://"

HTTP_PROTOCOLS = frozenset({"http", "http2", "grpc", "grpc-web", "http_proxy", "hbone"})
TLS_PROTOCOLS = frozenset({"https", "tls"})
_PROTOCOLS = HTTP_PROTOCOLS | TLS_PROTOCOLS | {"tcp", "udp", "mongo", "redis", "mysql"}


def is_label(text: str) -> bool:
    """Tell whether a text is a DNS label, capital letters included."""
    return _DNS_LABEL.fullmatch(text) is not None


def label(text: str) -> str | None:
    """Want a DNS label in any case: the name of a namespace, a subset or a port."""
    return None if is_label(text) else f'"{one_line(text, 70)}" is not a name (letters, digits and "-", at most 63)'


def dns_name(text: str) -> str | None:
    """Want a host name without a wildcard, whose last label is no number."""
    if 0 < len(text) <= 255 and _labels(text):
        return None
    return f'"{one_line(text, 70)}" is not a host name'


def wildcard_name(text: str) -> str | None:
    """Want a host name, or one whose first label is or begins with `*`."""
    first, dot, rest = text.partition(".")
    if len(text) <= 255 and _FIRST_LABEL.fullmatch(first) and (not dot or _labels(rest)):
        return None
    return f'"{one_line(text, 70)}" is not a host name (a wildcard can only be the first label: "*.example.com")'


def entry_host(text: str) -> str | None:
    """Want the host of a ServiceEntry: not every host at all."""
    return '"*" alone is not allowed (name a domain: "*.example.com")' if text == "*" else wildcard_name(text)


def name_or_address(text: str) -> str | None:
    """Want a host name or an IP address."""
    return None if is_address(text) or not dns_name(text) else f'"{one_line(text, 70)}" is no host name or IP address'


def subnet(text: str) -> str | None:
    """Want an IP address or a range in CIDR notation."""
    if is_address(text) and "/" not in text:
        return None
    _, _, bits = text.partition("/")
    try:
        if bits.isdecimal():
            ip_interface(text)
            return None
    except ValueError:
        pass
    return f'"{one_line(text, 70)}" is no IP address or range (10.1.2.3 or 10.1.0.0/16)'


def is_unix(text: str) -> bool:
    """Tell whether an address is said to be a Unix socket."""
    return text.startswith(_UNIX)


def unix_socket(text: str) -> str | None:
    """Want `unix:///path` or `unix://@name`."""
    path = text.removeprefix(_UNIX)
    if is_unix(text) and (path.startswith("@") or (path.startswith("/") and not path.endswith("/"))):
        return None
    return f'"{one_line(text, 70)}" is not a Unix socket (unix:///path or unix://@name)'


def endpoint_address(text: str) -> str | None:
    """Want a host name, an IP address or a Unix socket."""
    return unix_socket(text) if is_unix(text) else name_or_address(text)


def port_name(text: str) -> str | None:
    """Want the name of a port."""
    return None if is_label(text) else f'"{one_line(text, 70)}" is not a port name (letters, digits and "-")'


def protocol(text: str) -> str | None:
    """Want a protocol that Istio knows, in any case."""
    if text.lower() in _PROTOCOLS:
        return None
    return f'"{one_line(text, 40)}" is not a protocol (one of {", ".join(sorted(_PROTOCOLS))})'


def scoped_host(text: str, *, namespaces: tuple[str, ...], or_address: bool = False) -> str | None:
    """Want `NAMESPACE/HOST`: the namespace a name or one of these words, the host qualified, a wildcard whole."""
    namespace, slash, host = text.partition("/")
    if not slash or not namespace or not host:
        return f'"{one_line(text, 70)}" is not NAMESPACE/HOST'
    if namespace not in namespaces and not is_label(namespace):
        return f'"{one_line(namespace, 70)}" is not a namespace (a name, or one of {", ".join(namespaces)})'
    return qualified_host(host, or_address=or_address)


def qualified_host(text: str, *, or_address: bool = False) -> str | None:
    """Want `*`, or a host name (or an address) with a dot in it, whose wildcard is a whole label."""
    if text != "*" and "." not in text:
        return f'"{one_line(text, 70)}": short names are not allowed here (write the full host name)'
    if "*" in text and text != "*" and not text.startswith("*."):
        return f'"{one_line(text, 70)}": a wildcard must be the whole first label ("*.example.com")'
    return None if or_address and is_address(text) else wildcard_name(text)


def _labels(text: str) -> bool:
    """Tell whether a text is labels joined by dots; the last may be empty, and is not a number."""
    parts = text.split(".")
    if not parts[-1]:
        parts.pop()
    return bool(parts) and not re.fullmatch(r"[+-]?\d+", parts[-1]) and all(is_label(part) for part in parts)
