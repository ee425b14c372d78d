"""A steady load, run as a program on a lab's host: each request on a new connection, every answer judged.

Writes a byte for each answered request to the descriptor that `--answered` names. Prints "started" and, at the end
(after `--seconds`, or on SIGTERM), one JSON object: {"total": …, "failures": [[seconds, reason], …]}.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time

import aiohttp


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--contains", default="", help="what the body of a good answer contains")
    parser.add_argument("--cookie", default="")
    parser.add_argument("--answered", type=int, required=True)
    options = parser.parse_args()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    started = loop.time()
    failures: list[tuple[float, str]] = []
    tasks: set[asyncio.Task[None]] = set()
    total = 0
    headers = {"cookie": options.cookie} if options.cookie else {}
    connector = aiohttp.TCPConnector(force_close=True, limit=0)
    sys.stdout.write("started\n")
    sys.stdout.flush()
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

        async def request() -> None:
            try:
                async with session.get(options.url, timeout=aiohttp.ClientTimeout(total=10)) as response:
                    body = await response.text()
                    if response.status != 200 or options.contains not in body:
                        failures.append((time.time(), f"{response.status}: {body[:120]}"))
            except (aiohttp.ClientError, TimeoutError) as error:
                failures.append((time.time(), repr(error)))
            os.write(options.answered, b".")

        while not stop.is_set() and loop.time() - started < options.seconds:
            task = asyncio.create_task(request())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            total += 1
            delay = started + total / options.rate - loop.time()
            if delay > 0:
                try:
                    await asyncio.wait_for(stop.wait(), delay)
                except TimeoutError:
                    continue
        await asyncio.gather(*tasks)
    json.dump({"total": total, "failures": failures}, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main())
