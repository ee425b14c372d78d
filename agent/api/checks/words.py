"""Rules about single texts: names, hosts, headers, durations. Each returns what is wrong with a text, or None."""

from __future__ import annotations

import re
from ipaddress import ip_address

from agent.api.problem import one_line

_LABEL_PART = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_DNS_LABEL = re.compile(_LABEL_PART)
_SUBDOMAIN = re.compile(rf"{_LABEL_PART}(\.{_LABEL_PART})*")
_HOST = re.compile(
    r"[A-Za-z0-9_]([-A-Za-z0-9_]{0,61}[A-Za-z0-9_])?(\.[A-Za-z0-9_]([-A-Za-z0-9_]{0,61}[A-Za-z0-9_])?)*\.?"
)
_WILDCARD = re.compile(
    r"\*([-.]?[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?)*\.?)?"
)
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_UNIX_USER = re.compile(r"[0-9]{1,10}|[a-z_][-a-z0-9_.]{0,31}")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def dns_label(text: str) -> str | None:
    """Want an RFC 1123 label."""
    if _DNS_LABEL.fullmatch(text):
        return None
    return f'"{one_line(text, 70)}" is not a name (lower case letters, digits and "-", at most 63)'


def subdomain(text: str) -> str | None:
    """Want an RFC 1123 subdomain."""
    if len(text) <= 253 and _SUBDOMAIN.fullmatch(text):
        return None
    return f'"{one_line(text, 70)}" is not a name (lower case letters, digits, "-" and ".", at most 253)'


def unix_user(text: str) -> str | None:
    """Want the name or number of a Unix user."""
    if _UNIX_USER.fullmatch(text):
        return None
    return f'"{one_line(text, 40)}" is not the name or number of a Unix user ("reviews", "1001")'


def host(text: str) -> str | None:
    """Want a host name without a wildcard."""
    if len(text) <= 253 and _HOST.fullmatch(text):
        return None
    return f'"{one_line(text, 70)}" is not a host name'


def wildcard_host(text: str) -> str | None:
    """Want a host name, or one that begins with `*`, or an address."""
    if _HOST.fullmatch(text) or _WILDCARD.fullmatch(text) or is_address(text):
        return None if len(text) <= 253 else "is longer than 253 characters"
    return f'"{one_line(text, 70)}" is not a host name (a wildcard can only be the first label: "*.example.com")'


def service_host(text: str) -> str | None:
    """Want such a name, but no address: the last label is no number."""
    if is_address(text) or re.search(r"\.[0-9]+\.?$", text):
        return f'"{one_line(text, 70)}" is not the name of a host (an address gets one from a ServiceEntry)'
    return wildcard_host(text)


def is_address(text: str) -> bool:
    """Tell whether a text is an IPv4 or IPv6 address."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def address(text: str) -> str | None:
    """Want an IP address."""
    return None if is_address(text) else f'"{one_line(text, 70)}" is not an IP address'


def dns_server(text: str) -> str | None:
    """Want a DNS server: ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT."""
    if is_address(text):
        return None
    address, _, port = text.rpartition(":")
    inner = address[1:-1] if address.startswith("[") and address.endswith("]") else address
    bracketed = inner != address
    if is_address(inner) and bracketed == (":" in inner) and port.isdecimal() and 0 < int(port) < 65536:
        return None
    return f'"{one_line(text, 70)}" is not a DNS server (10.0.0.2, 10.0.0.2:5353 or [fd00::2]:53)'


def header_name(text: str) -> str | None:
    """Want an HTTP field name (RFC 9110 section 5.1)."""
    if len(text) <= 256 and _HEADER.fullmatch(text):
        return None
    return f'"{one_line(text, 70)}" is not a header name'


def one_line_value(text: str) -> str | None:
    """Want what a header or a path can hold: no control characters."""
    if len(text) > 4096:
        return "is longer than 4096 characters"
    return None if _CONTROL.search(text) is None else "has a control character in it"


def label_key(text: str) -> str | None:
    """Want a Kubernetes label key: `name` or `prefix/name`."""
    prefix, slash, name = text.rpartition("/")
    if name and _LABEL_VALUE.fullmatch(name) and (not slash or subdomain(prefix) is None):
        return None
    return f'"{one_line(text, 70)}" is not a label name (letters, digits, "-", "_" and ".", at most 63)'


def label_value(text: str) -> str | None:
    """Want a Kubernetes label value."""
    if _LABEL_VALUE.fullmatch(text):
        return None
    return f'"{one_line(text, 70)}" is not a label value (letters, digits, "-", "_" and ".", at most 63)'


def duration(text: str) -> str | None:
    """Want a duration above 0 and up to an hour: `250ms`, `2s`, `1.5m`."""
    found = _DURATION.fullmatch(text) if len(text) < 20 else None
    if found and 0 < seconds(text) <= 3600:
        return None
    return f'"{one_line(text, 40)}" is not a duration (more than 0, at most 1h; for example 5s or 250ms)'


def seconds(text: str) -> float:
    """Return the seconds of a text that `duration` finds nothing wrong with."""
    found = _DURATION.fullmatch(text)
    return round(float(found[1]) * _SECONDS[found[2]], 6) if found else 0.0


def lower_header_name(text: str) -> str | None:
    """Want an HTTP field name in lower case, as Istio wanted it in its first generation."""
    wrong = header_name(text)
    if wrong or text == text.lower():
        return wrong
    return f'"{one_line(text, 70)}" has capital letters (write {one_line(text.lower(), 70)}: header names have no case)'
