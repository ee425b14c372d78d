"""A DNS client of a few lines (RFC 1035) that runs inside a namespace: `ask(host, ("reviews", "A"), …)`."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tests.integration.capture import PYTHON
from tests.integration.netns import Host

SCRIPT = """
import ipaddress, json, socket, struct, sys, time

TYPES = {"A": 1, "AAAA": 28, "SRV": 33, "TXT": 16, "PTR": 12, "HTTPS": 65}

def skip_name(data, at):
    while data[at]:
        if data[at] >= 192:
            return at + 2
        at += data[at] + 1
    return at + 1

def read_name(data, at):
    labels = []
    while data[at]:
        if data[at] >= 192:
            at = struct.unpack(">H", data[at:at + 2])[0] & 0x3fff
            continue
        labels.append(data[at + 1:at + 1 + data[at]].decode())
        at += data[at] + 1
    return ".".join(labels)

def value(data, kind, at, size):
    if kind in (1, 28):
        return str(ipaddress.ip_address(data[at:at + size]))
    if kind == 33:
        return "%d %s" % (struct.unpack(">H", data[at + 4:at + 6])[0], read_name(data, at + 6))
    if kind == 12:
        return read_name(data, at)
    return ""

def ask(name, kind, server, timeout):
    question = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\\0"
    packet = struct.pack(">6H", 7, 256, 1, 0, 0, 0) + question + struct.pack(">2H", TYPES[kind], 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(timeout)
        client.connect((server, 53))
        client.send(packet)
        data = client.recv(4096)
    flags, _, count = struct.unpack(">3H", data[2:8])
    at = skip_name(data, 12) + 4
    values = []
    for _ in range(count):
        at = skip_name(data, at)
        answered, _, _, size = struct.unpack(">2HIH", data[at:at + 10])
        at += 10
        if answered == TYPES[kind]:
            values.append(value(data, answered, at, size))
        at += size
    return {"code": flags & 15, "values": sorted(values)}

results = []
for name, kind in json.loads(sys.argv[1]):
    started = time.monotonic()
    try:
        result = ask(name, kind, sys.argv[2], float(sys.argv[3]))
    except OSError:
        result = {"code": -1, "values": []}
    results.append(result | {"seconds": time.monotonic() - started})
print(json.dumps(results))
"""


@dataclass(frozen=True)
class Answer:
    """What a name server said."""

    code: int
    """0: no error, 3: no such name, -1: no answer in time."""
    values: tuple[str, ...]
    """Addresses, `PORT NAME` for SRV, names for PTR; sorted."""
    seconds: float


def ask(host: Host, *questions: tuple[str, str], server: str = "127.0.0.1", timeout: float = 1.0) -> list[Answer]:
    """Ask the server at port 53 each (name, type); from inside the host's namespace."""
    done = host.run(*PYTHON, SCRIPT, json.dumps(questions), server, str(timeout))
    return [Answer(a["code"], tuple(a["values"]), a["seconds"]) for a in json.loads(done.stdout)]
