"""When the CA's own certificates end, and the warning of it: 60 days before, in time for a change without an outage.

Pure but for the log. May not change anything.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from node_ca.authority import Issuing
from node_ca.issuer_book import State
from node_ca.signer import issuer_id

WARN_SECONDS = 60 * 86400.0
_LOG = logging.getLogger("hostmesh.ca")


@dataclass(frozen=True)
class Ending:
    """A certificate that certificates of the mesh hang from."""

    id: str
    kind: str
    """issuer, intermediate or root; an issuer that is a root itself is a root."""
    state: State
    """Of the issuer it belongs to."""
    subject: str
    ends_at: float
    """Unix time, seconds."""

    def days_left(self, now: float) -> float:
        """Return the days until its end."""
        return (self.ends_at - now) / 86400.0

    def is_soon(self, now: float) -> bool:
        """Tell whether it is time to change it."""
        return self.ends_at - now < WARN_SECONDS


def endings(issuers: Iterable[Issuing]) -> Iterator[Ending]:
    """Yield the certificates of all trusted issuers, each once."""
    seen = set()
    for issuing in issuers:
        chain = issuing.signer.chain
        for index, certificate in enumerate(chain):
            name = issuer_id(certificate)
            kind = "root" if index == len(chain) - 1 else "issuer" if index == 0 else "intermediate"
            if name not in seen:
                ends_at = certificate.not_valid_after_utc.timestamp()
                yield Ending(name, kind, issuing.entry.state, certificate.subject.rfc4514_string(), ends_at)
            seen.add(name)


def warn(issuers: Iterable[Issuing], now: float) -> None:
    """Write a line for each certificate that signs or will, and ends soon; those that retire are meant to end."""
    for ending in endings(issuers):
        if ending.is_soon(now) and ending.state is not State.RETIRING:
            _LOG.warning(
                "%s %s (%s): ends in %.0f days: `hostmesh ca root prepare` brings another without an outage",
                ending.kind,
                ending.id,
                ending.subject,
                ending.days_left(now),
            )
