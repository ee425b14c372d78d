"""The stock programs that `.ci/setup` fetches."""

from __future__ import annotations

from pathlib import Path

TOOLS = Path(__file__).parents[1] / "build/tools/bin"
ENVOY = TOOLS / "envoy"
CONSUL = TOOLS / "consul"
