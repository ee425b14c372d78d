"""The DNS servers that this host's own cache asks, as resolv.conf files name them. Reads files only."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path

RESOLV_FILES = (
    Path("/etc/resolv.conf"),
    Path("/run/systemd/resolve/resolv.conf"),
    Path("/run/dnsmasq/resolv.conf"),
    Path("/run/resolvconf/resolv.conf"),
)
"""The host's own, then where programs that put themselves before it keep the real ones."""


def read_upstreams(files: Iterable[Path] = RESOLV_FILES) -> tuple[str, ...]:
    """Return the name servers of the first file that names one beside this host itself; none if no file does."""
    for file in files:
        try:
            lines = file.read_text(errors="replace").splitlines()
        except OSError:
            continue
        found = [words[1] for line in lines if len(words := line.split()) > 1 and words[0] == "nameserver"]
        if servers := tuple(dict.fromkeys(address for address in found if _is_elsewhere(address))):
            return servers
    return ()


def _is_elsewhere(text: str) -> bool:
    """Tell whether this is an address of another host; link-local ones (with %interface) are not used."""
    try:
        address = ip_address(text)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified or address.is_link_local)
