"""Finds the programs that the lab runs: beside this one, in PATH, in build/tools/bin of this checkout, in sbin."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from agent.errors import HostError
from agent.lab.plan import CHECKOUT

_OWN = Path(sys.executable).parent  # first: the agent and the CA have to be of this very version
_FOLDERS = (CHECKOUT / "build" / "tools" / "bin", Path("/usr/sbin"), Path("/sbin"))
PROGRAMS = (
    "consul",
    "envoy",
    "dnsmasq",
    "iptables",
    "ip",
    "setpriv",
    "nsenter",
    "unshare",
    "hostmesh-agent",
    "hostmesh-ca",
)

SEARCH_PATH = os.pathsep.join([str(_OWN), os.environ.get("PATH", os.defpath), *map(str, _FOLDERS)])
"""Where the lab's processes find their programs."""


def find_programs(names: Sequence[str] = PROGRAMS) -> dict[str, str]:
    """Return each program's path; raises HostError that names all missing ones."""
    found = {name: shutil.which(name, path=SEARCH_PATH) for name in names}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise HostError(
            f"lab: missing programs: {', '.join(missing)}; install them with `make setup-run` in the checkout"
        )
    return {name: path for name, path in found.items() if path is not None}
