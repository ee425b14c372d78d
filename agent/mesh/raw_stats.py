"""What Envoy counts for the agent's metrics: the names of its statistics and the atoms in them. Pure.

An atom is what Envoy knows of a request or connection at no cost: an address, the name in a certificate, a status code.
The agent makes labels of atoms when it is scraped (agent/runtime/telemetry), so Envoy never has to know the catalog.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct

PREFIX = "hm"
"""The scope of all these statistics in Envoy."""


class Side(StrEnum):
    """Which end of a request or connection is this host's."""

    IN = "in"
    """A workload of this host is called."""
    OUT = "out"
    """A program of this host calls, or a gateway passes on."""


class Atom(StrEnum):
    """The tags of a statistic, in short: names are kept, and compared, for each statistic."""

    ADDRESS = "a"
    """The connection's own address of the caller."""
    CALLER = "u"
    """The URI in the caller's verified certificate."""
    CODE = "c"
    FLAGS = "f"
    """Envoy's response flags, `-` for none."""
    CLUSTER = "k"
    HOST = "h"
    """ADDRESS:PORT of the instance that was called."""
    SERVER = "s"
    """The URI in that instance's verified certificate."""


class Measure(StrEnum):
    """What is measured. Histograms count too: requests are the count of their durations."""

    DURATION = "ms"
    """Of requests, in milliseconds; a histogram."""
    REQUEST_BYTES = "rb"
    """A histogram."""
    RESPONSE_BYTES = "sb"
    """A histogram."""
    OPENED = "opened"
    """Connections."""
    CLOSED = "closed"
    SENT = "sent"
    """Bytes to the caller."""
    RECEIVED = "received"
    """Bytes from the caller."""
    CONNECTION_DURATION = "cms"
    """Of connections, in milliseconds; a histogram."""
    SENT_SIZES = "csb"
    """Bytes to the caller of each connection; a histogram."""
    RECEIVED_SIZES = "crb"
    """A histogram."""


class RawStat(Struct, frozen=True):
    """One statistic of Envoy."""

    side: Side
    port: int
    """Of the local workload; 0 on the caller's side, where the cluster says it."""
    measure: Measure
    atoms: Mapping[str, str]
    group: str = ""
    """Which more atoms are there, for metrics that rules want; empty: those that are always there."""

    def atom(self, atom: Atom) -> str:
        """Return an atom's value, empty if there is none."""
        return self.atoms.get(atom, "")


def stat_name(side: Side, port: int, measure: Measure, group: str = "") -> str:
    """Return the name of a statistic, less scope and atoms."""
    return f"{side}|{port}|{measure}|{group}"


def asked_atom(place: int) -> str:
    """Return the atom of what a group tells apart beside what is always there, by its place among that."""
    return f"x{place}"


def tag_name(atom: str) -> str:
    """Return the name of an atom's tag; Envoy writes `.NAME.VALUE` into the statistic's name."""
    return f"={atom}"


_TAG = re.compile(r"\.=([a-z0-9]+)\.")


def read_stat(name: str) -> RawStat | None:
    """Return what a name in Envoy's statistics says; None if it is none of these.

    Of an atom that is there twice the first counts: what comes after values that a client chose may be its own words.
    """
    first, *rest = _TAG.split(name)
    parts = first.removeprefix(f"{PREFIX}.").split("|")
    if not first.startswith(f"{PREFIX}.") or len(parts) != 4:
        return None
    side, port, measure, group = parts
    atoms: dict[str, str] = {}
    for key, value in zip(rest[::2], rest[1::2], strict=True):
        atoms.setdefault(key, value)
    try:
        return RawStat(Side(side), int(port), Measure(measure), atoms, group)
    except ValueError:
        return None
