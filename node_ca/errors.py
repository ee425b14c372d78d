"""Every error hostmesh-ca raises on purpose, drawn as one tree.

CaError
├── ConfigError     ca.yaml or the state directory is wrong: all problems at once, exit code 1
├── Refusal         a caller gets no; `reason` says how, and becomes the gRPC status
├── EntryFault      who vouches for callers can't be asked: nothing is issued, trying again may help
├── InventoryError  the record can't be written or read: nothing is issued, trying again may help
└── SigningFault    what was signed is not what the template says: a bug or an attack; nothing is issued
"""

from __future__ import annotations

from enum import StrEnum


class CaError(Exception):
    """Root of the tree; its text is one line written for a person."""


class ConfigError(CaError):
    """The configuration is wrong; `problems` has one line for each fault."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


class RefusalKind(StrEnum):
    """Why a caller gets no; the names are gRPC's."""

    UNAUTHENTICATED = "unauthenticated"
    PERMISSION_DENIED = "permission_denied"
    INVALID_ARGUMENT = "invalid_argument"
    NOT_FOUND = "not_found"
    RESOURCE_EXHAUSTED = "resource_exhausted"
    FAILED_PRECONDITION = "failed_precondition"
    UNIMPLEMENTED = "unimplemented"


class Refusal(CaError):
    """A caller is refused; the text never repeats a secret or unbounded input."""

    def __init__(self, kind: RefusalKind, text: str) -> None:
        self.kind = kind
        super().__init__(text)

    @classmethod
    def unauthenticated(cls, text: str) -> Refusal:
        """Return a refusal of a caller who didn't show who it is."""
        return cls(RefusalKind.UNAUTHENTICATED, text)

    @classmethod
    def denied(cls, text: str) -> Refusal:
        """Return a refusal of a known caller who wants what it isn't entitled to."""
        return cls(RefusalKind.PERMISSION_DENIED, text)

    @classmethod
    def invalid(cls, text: str) -> Refusal:
        """Return a refusal of a malformed request."""
        return cls(RefusalKind.INVALID_ARGUMENT, text)

    @classmethod
    def unknown(cls, text: str) -> Refusal:
        """Return a refusal of a request about something that is not there."""
        return cls(RefusalKind.NOT_FOUND, text)

    @classmethod
    def too_much(cls, text: str) -> Refusal:
        """Return a refusal of one call too many; the same call may be made later."""
        return cls(RefusalKind.RESOURCE_EXHAUSTED, text)

    @classmethod
    def premature(cls, text: str) -> Refusal:
        """Return a refusal of a step that may be taken later."""
        return cls(RefusalKind.FAILED_PRECONDITION, text)

    @classmethod
    def unavailable(cls, text: str) -> Refusal:
        """Return a refusal of what this CA is not configured for."""
        return cls(RefusalKind.UNIMPLEMENTED, text)


class EntryFault(CaError):
    """Another system, which knows who a caller is, can't be asked now."""


class InventoryError(CaError):
    """The inventory can't be written or read now."""


class SigningFault(CaError):
    """A signed certificate differs from its template."""
