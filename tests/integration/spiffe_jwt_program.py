"""A local program that uses JWT-SVIDs with a SPIFFE library that is not ours: spiffe_jwt_program.py SOCKET AUDIENCE

Prints a JSON line: its tokens by SPIFFE ID, what the Workload API says of the first one, and what the library says of
it by the keys that the Workload API gives; or an error.
"""

from __future__ import annotations

import json
import sys

from spiffe import JwtSvid, TrustDomain, WorkloadApiClient
from spiffe.errors import PySpiffeError


def look(client: WorkloadApiClient, audience: str) -> dict[str, object]:
    svids = client.fetch_jwt_svids(audience={audience})
    first = svids[0]
    bundles = client.fetch_jwt_bundles()
    bundle = bundles.get_bundle_for_trust_domain(TrustDomain("cluster.local"))
    assert bundle is not None
    return {
        "tokens": {str(svid.spiffe_id): svid.token for svid in svids},
        "named": client.fetch_jwt_svid(audience={audience}, subject=svids[-1].spiffe_id).token,
        "api": str(client.validate_jwt_svid(first.token, audience).spiffe_id),
        "library": str(JwtSvid.parse_and_validate(first.token, bundle, {audience}).spiffe_id),
        "keys": len(bundle.jwt_authorities),
    }


def main() -> None:
    with WorkloadApiClient(f"unix:{sys.argv[1]}") as client:
        try:
            line = look(client, sys.argv[2])
        except PySpiffeError as error:
            line = {"error": str(error)}
    sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
