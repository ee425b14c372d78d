"""Workload identities in the CA's eyes: `ns/NAMESPACE/sa/ACCOUNT`, and the SPIFFE ID they make. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_ACCOUNT = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")  # SPIFFE-ID, section 2.1


@dataclass(frozen=True, order=True)
class WorkloadIdentity:
    """Who a workload is, less the trust domain."""

    namespace: str
    service_account: str

    def __str__(self) -> str:
        return f"ns/{self.namespace}/sa/{self.service_account}"

    def spiffe_id(self, trust_domain: str) -> str:
        """Return the SPIFFE ID (path as Istio's)."""
        return f"spiffe://{trust_domain}/{self}"

    @classmethod
    def from_path(cls, text: str) -> WorkloadIdentity:
        """Parse `ns/NAMESPACE/sa/ACCOUNT`; raises ValueError with a line that says the form."""
        parts = text.split("/")
        if len(parts) == 4 and parts[0] == "ns" and parts[2] == "sa":
            namespace, account = parts[1], parts[3]
            if _NAMESPACE.fullmatch(namespace) and _ACCOUNT.fullmatch(account):
                return cls(namespace, account)
        raise ValueError(f"{text[:80]!r} is not an identity: write ns/NAMESPACE/sa/ACCOUNT in small letters")

    @classmethod
    def from_spiffe_id(cls, uri: str, trust_domain: str) -> WorkloadIdentity:
        """Parse a SPIFFE ID of that trust domain; raises ValueError if it is another's or not of our path form."""
        prefix = f"spiffe://{trust_domain}/"
        if not uri.startswith(prefix):
            raise ValueError(f"{uri[:120]!r} is not a SPIFFE ID of trust domain {trust_domain}")
        return cls.from_path(uri.removeprefix(prefix))


def is_trust_domain(text: str) -> bool:
    """Tell whether it can be the trust domain of a SPIFFE ID."""
    return _TRUST_DOMAIN.fullmatch(text) is not None


def is_namespace(text: str) -> bool:
    """Tell whether it can be the namespace of an identity."""
    return _NAMESPACE.fullmatch(text) is not None
