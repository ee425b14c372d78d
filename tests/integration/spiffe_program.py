"""A local program that gets its identity with a SPIFFE library that is not ours. Usage: spiffe_program.py SOCKET COUNT

Prints a JSON line for each X.509 context that the library hands out, COUNT of them, or an error.
"""

from __future__ import annotations

import json
import sys
import threading

from spiffe import WorkloadApiClient
from spiffe.workloadapi.x509_context import X509Context


def main() -> None:
    wanted, done = int(sys.argv[2]), threading.Event()
    seen: list[str] = []

    def say(line: dict[str, object]) -> None:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()

    def on_success(context: X509Context) -> None:
        svid = context.default_svid
        bundle = context.x509_bundle_set.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
        assert bundle is not None
        seen.append(f"{svid.leaf.serial_number:x}")
        say({"id": str(svid.spiffe_id), "serial": seen[-1], "roots": len(bundle.x509_authorities)})
        if len(seen) >= wanted:
            done.set()

    def on_error(error: Exception) -> None:
        say({"error": str(error)})
        done.set()

    with WorkloadApiClient(f"unix:{sys.argv[1]}") as client:
        client.stream_x509_contexts(on_success, on_error, retry_connect=False)
        done.wait(30)


if __name__ == "__main__":
    main()
