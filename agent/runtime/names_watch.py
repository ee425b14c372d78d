"""Watches whether this host's programs get the mesh's names: another name server than dnsmasq may answer them.

Tells only of one that answers and does not know them; who else may have port 53 is `hostmesh doctor`'s to say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from agent.adapters.dns.question import Unknown, knows, local_server
from agent.adapters.files import read_optional
from agent.errors import HostError
from agent.mesh.routes import Fault
from agent.runtime.events import FaultsChanged

LOOK_SECONDS = 15.0
SETTLE_SECONDS = 3.0


async def watch_names(hosts: Path, serving: asyncio.Event, report: Callable[[FaultsChanged], None]) -> NoReturn:
    """Report the fault, and that it is mended, until cancelled; begins when the host serves."""
    await serving.wait()
    before: bool | Unknown = True
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        found = await asyncio.to_thread(look, hosts)
        if isinstance(found, Unknown):  # perhaps the name is so new that dnsmasq has not read it yet
            await asyncio.sleep(SETTLE_SECONDS)
            found = await asyncio.to_thread(look, hosts)
        if found != before:
            before = found
            faults = (Fault("names", f"{found}: {found.mend}"),) if isinstance(found, Unknown) else ()
            report(FaultsChanged("names", faults))


def look(hosts: Path) -> bool | Unknown:
    """Ask the name server of this host, if it has one, for a name in that file."""
    server = local_server()
    try:
        text = (read_optional(hosts) or b"").decode()
    except (HostError, UnicodeDecodeError):
        return False
    return knows(server, text) if server else False
