"""A small model of iptables for tests: what a restore input does with one packet. Knows only what hostmesh writes."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network


@dataclass(frozen=True)
class Packet:
    """The first packet of a TCP connection (`syn`), or one of a connection that conntrack picks up midway."""

    destination: IPv4Address | IPv6Address
    port: int
    uid: int = 1000
    out: str = "eth0"
    is_local: bool = True
    syn: bool = True
    redirected: bool = False


def verdict(text: str, table: str, chain: str, packet: Packet) -> str:
    """Return `REDIRECT 15001`, `REJECT` or `ACCEPT` for a packet that enters a built-in chain."""
    rules = [shlex.split(line) for line in _table(text, table)]
    return _walk(rules, chain, packet) or "ACCEPT"


def _walk(rules: list[list[str]], chain: str, packet: Packet) -> str | None:
    for rule in rules:
        words = iter(rule)
        if next(words) not in ("-A", "-I") or next(words) != chain:
            continue
        target = _match(words, packet)
        if target == "RETURN":
            return None
        if target is not None:
            word = target.split()[0]
            result = target if word in ("REDIRECT", "REJECT") else _walk(rules, target, packet)
            if result is not None:
                return result
    return None


def _match(words: Iterator[str], packet: Packet) -> str | None:
    """Return the rule's target if all its matches hold, else None."""
    inverted = False
    for word in words:
        if word == "!":
            inverted = True
            continue
        if word == "-j":
            target = next(words)
            if target == "REDIRECT":
                assert next(words) == "--to-ports"
                return f"REDIRECT {next(words)}"
            return target
        if word == "1":  # the position of -I
            continue
        if word == "-m":
            next(words)
            continue
        if _holds(word, words, packet) == inverted:
            return None
        inverted = False
    raise AssertionError("a rule without a target")


def _holds(option: str, words: Iterator[str], packet: Packet) -> bool:
    value = next(words)
    match option:
        case "-p":
            return value == "tcp"
        case "-d":
            return ip_address(packet.destination) in ip_network(value)
        case "-o":
            return packet.out == value
        case "--dport":
            return packet.port == int(value)
        case "--dports":
            ports = [int(port) for port in value.split(",")]
            assert len(ports) <= 15, "multiport takes 15 ports"
            return packet.port in ports
        case "--uid-owner":
            return packet.uid == int(value)
        case "--dst-type":
            return packet.is_local
        case "--ctstate":
            return packet.redirected
        case "--ctdir":
            return value == "ORIGINAL"
        case "--tcp-flags":
            assert (value, next(words)) == ("FIN,SYN,RST,ACK", "SYN")
            return packet.syn
    raise AssertionError(f"the model does not know {option}")


def _table(text: str, name: str) -> list[str]:
    body = text.partition(f"*{name}\n")[2].partition("COMMIT")[0]
    return [line for line in body.splitlines() if line.startswith("-")]
