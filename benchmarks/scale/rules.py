"""Rules for a share of the services: by version to subsets, and by header to one of them."""

from __future__ import annotations

import json

from benchmarks.scale.catalog_load import CatalogWriter

_KEY = "hostmesh/config/default/routerule"


async def write_rules(writer: CatalogWriter, services: int) -> None:
    """Write two RouteRules for each of the first services: v2 for a header, else all to v1."""
    for number in range(services):
        match = {"request": {"headers": {"x-user": {"exact": "tester"}}}}
        await _write(writer, f"s{number}", "v1", {"precedence": 1})
        await _write(writer, f"s{number}", "v2", {"precedence": 2, "match": match})


async def _write(writer: CatalogWriter, service: str, version: str, more: dict[str, object]) -> None:
    name = f"{service}-{version}"
    document = {
        "apiVersion": "config.istio.io/v1alpha2",
        "kind": "RouteRule",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"destination": {"name": service}, "route": [{"labels": {"version": version}}], **more},
    }
    await writer.put_value(f"{_KEY}/{name}", json.dumps(document).encode())
