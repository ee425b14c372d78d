"""Every error hostmesh raises on purpose, drawn as one tree.

HostmeshError
├── UserError            the operator's input is wrong: one line, no traceback, exit code 1
│   ├── ConfigError      agent.yaml, services.d, *.env: all problems of a file set at once
│   ├── ValidationError  a rule's YAML: file, line, object, path, reason
│   └── ConflictError    create of what exists, replace of what doesn't, a lost check-and-set
├── PartialWrite         some of several documents were written before one failed
├── Unavailable          an outside system doesn't answer now; trying again may help
│   ├── ConsulUnavailable
│   └── CaUnavailable
├── Refused              an outside system answered no; trying the same again won't help
│   ├── ConsulRefused
│   │   └── ConsulConflict   a check-and-set failed
│   └── CaRefused
└── HostError            this host can't do it: a command failed, a file can't be written

Foreign errors (aiohttp, grpc, OSError, subprocess) are translated at the adapters' boundary and never travel further.
"""


class HostmeshError(Exception):
    """Root of the tree; its text is one line written for a person."""


class UserError(HostmeshError):
    """The operator's input is wrong and the text says where, what and how to mend it."""


class ConfigError(UserError):
    """A set of configuration files is wrong; `problems` has one line for each fault."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


class ValidationError(UserError):
    """One or more documents are wrong; `problems` has one `FILE:LINE: Kind/name: path: reason` line for each fault."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


class ConflictError(UserError):
    """The store's state is not what the command presumes (exists already, does not exist, changed meanwhile)."""


class PartialWrite(HostmeshError):
    """Some of several documents were written before one failed; `written` has their keys."""

    def __init__(self, text: str, written: tuple[str, ...]) -> None:
        self.written = written
        super().__init__(text)


class Unavailable(HostmeshError):
    """An outside system does not answer now."""


class ConsulUnavailable(Unavailable):
    """Consul cannot be reached, or has no leader."""


class CaUnavailable(Unavailable):
    """hostmesh-ca cannot be reached."""


class Refused(HostmeshError):
    """An outside system answered no."""


class ConsulRefused(Refused):
    """Consul answered with a client error (ACL, size limit, malformed request)."""


class ConsulConflict(ConsulRefused):
    """Consul's state is not what a transaction's checks presume."""


class CaRefused(Refused):
    """hostmesh-ca refused the request; the text carries its one-line reason."""


class HostError(HostmeshError):
    """Something on this host failed: a command, a file, a socket."""
