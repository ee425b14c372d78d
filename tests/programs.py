"""The stock programs that `.ci/setup` fetches."""

from __future__ import annotations

from pathlib import Path

TOOLS = Path(__file__).parents[1] / "build/tools/bin"
ENVOY = TOOLS / "envoy"
CONSUL = TOOLS / "consul"
NAME_SERVERS = TOOLS.parent / "name-servers"
"""Folder with Debian's unbound, bind and systemd-resolved, not installed."""
FIREWALLS = TOOLS.parent / "firewalls"
"""Folder with the packages of Debian's ufw and firewalld, and what they need."""
