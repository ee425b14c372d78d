"""Print a trace as a tree: who called whom. Usage: trace.py ID [ZIPKIN]   ZIPKIN: http://127.0.0.1:9411

Prints nothing while the collector does not know the trace.
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from typing import Any


def main(trace: str, zipkin: str = "http://127.0.0.1:9411") -> None:
    """Print the spans, each under the one that it is a part of."""
    try:
        with urllib.request.urlopen(f"{zipkin}/api/v2/trace/{trace}", timeout=10) as answer:
            spans: list[dict[str, Any]] = json.load(answer)
    except urllib.error.HTTPError:
        return
    known = {span["id"] for span in spans}
    roots = [span for span in spans if span.get("parentId") not in known]
    _print(roots, spans, "")


def _print(some: list[dict[str, Any]], spans: list[dict[str, Any]], indent: str) -> None:
    for span in sorted(some, key=lambda span: (span["timestamp"], span["name"])):
        status = span["tags"].get("http.status_code", "-")
        sys.stdout.write(f"{indent}{span['kind']} {span['localEndpoint']['serviceName']}: {span['name']} {status}\n")
        _print([each for each in spans if each.get("parentId") == span["id"]], spans, indent + "  ")


if __name__ == "__main__":
    main(*sys.argv[1:])
