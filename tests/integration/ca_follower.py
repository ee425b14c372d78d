"""An agent's identity part alone, in a network namespace of the test's. Usage: ca_follower.py FOLDER ADDRESS…

FOLDER has `root` (PEM), `token` and `ports` (enrolment and renewal). Follows the trust bundle and prints a JSON line
for each one; renews a certificate for each line that it reads, and prints how many seconds that took.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

from agent.adapters.clock import SystemClock
from agent.adapters.identity import CaClient, CaGroup, new_key
from agent.adapters.identity.bundle import BundleFile
from agent.mesh.service import Identity
from agent.runtime.trust import TrustFollower

REVIEWS = Identity("default", "reviews")


def say(line: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


async def renew(group: CaGroup, folder: Path) -> None:
    issued = await group.enrol(REVIEWS, new_key(), (folder / "token").read_text())
    say({"serial": issued.leaf.serial})
    while await asyncio.to_thread(sys.stdin.readline):
        began = time.monotonic()
        issued = await group.renew(REVIEWS, new_key(), issued.certificate, issued.trust_bundle_pem)
        say({"renewed": time.monotonic() - began})


async def main() -> None:
    folder, addresses = Path(sys.argv[1]), sys.argv[2:]
    enrolment, renewal = map(int, (folder / "ports").read_text().split())
    clients = tuple(CaClient(address, enrolment, renewal) for address in addresses)
    follower = TrustFollower(
        clients,
        BundleFile(folder / "bundle"),
        SystemClock(),
        lambda bundle: say({"revoked": [each.serial for each in bundle.revoked]}),
        lambda faults: say({"faults": [fault.reason for fault in faults]}),
    )
    follower.note_roots((folder / "root").read_bytes())
    task = asyncio.create_task(follower.run())
    await renew(CaGroup(clients), folder)
    task.cancel()


if __name__ == "__main__":
    asyncio.run(main())
