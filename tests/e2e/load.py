"""A steady load in a machine, with Debian's Python alone: a new connection for each request, every answer judged.

Arguments: URL, text that a good answer contains. Runs until its standard input ends, then prints
{"total": …, "failures": […]}.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from threading import Event, Thread

RATE = 40.0


def main(url: str, text: str) -> None:
    stop = Event()
    Thread(target=wait_for_end, args=(stop,), daemon=True).start()
    total, failures, began = 0, [], time.monotonic()
    while not stop.wait(max(0.0, began + total / RATE - time.monotonic())):
        total += 1
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                body = answer.read().decode()
            if text not in body:
                failures.append(f"{time.time():.2f}: {body[:200]}")
        except OSError as error:
            failures.append(f"{time.time():.2f}: {error!r}")
    json.dump({"total": total, "failures": failures}, sys.stdout)


def wait_for_end(stop: Event) -> None:
    """Stop when the other side closes standard input."""
    sys.stdin.read()
    stop.set()


if __name__ == "__main__":
    main(*sys.argv[1:])
