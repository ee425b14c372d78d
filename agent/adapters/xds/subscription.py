"""What one stream knows of one resource type: what Envoy asked for, was sent, holds and refused. No I/O, no protobuf.

It decides *what* is due for each name; when it may go is decided in `delta`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Set

from msgspec import Struct

from agent.flow.table import changed_keys
from agent.mesh.snapshot import Resource

WILDCARD = "*"
ABSENT = ""
"""Stands for a version: Envoy was told that the resource does not exist."""

UNSURE = "?"
"""Stands for a version: what Envoy holds is unknown, since it may have applied a part of a refused response."""

Answers = list[tuple[str, Resource | None]]
"""Names and what to say of each; None: there is no such resource."""


class Rejection(Struct, frozen=True):
    """A version that Envoy refused, and why."""

    version: str
    reason: str


class Subscription:
    """One resource type on one stream.

    `pending` names may differ from what Envoy was sent and go in their stage; `urgent` ones were just subscribed and
    are answered at once; `suspects` were in a refused response and are sent again alone, for an exact verdict;
    of `doubts` Envoy may have applied some version in a refused response, before the one it answered for last;
    `retained` ones exist no longer but Envoy's last good form of a refused resource needs them.
    """

    def __init__(self, type_url: str, target: Mapping[str, Resource]) -> None:
        self.type_url = type_url
        self.wildcard = False
        self.names: set[str] = set()
        self.requested = False
        self.owes_answer = False
        self.rejected: dict[str, Rejection] = {}
        self._target = target
        self._sent: dict[str, str] = {}
        self._held: dict[str, str] = {}
        self._held_references: dict[str, Collection[tuple[str, str]]] = {}
        self._pending: set[str] = set()
        self._urgent: set[str] = set()
        self._suspects: dict[str, str] = {}
        self._doubts: dict[str, set[str]] = {}
        self._retained: set[str] = set()

    @property
    def held(self) -> Mapping[str, str]:
        """Return the version of each resource that Envoy is known to hold."""
        return self._held

    @property
    def is_idle(self) -> bool:
        """Tell whether nothing is left to send."""
        return not (self.owes_answer or self._pending or self._urgent or self._suspects)

    def retarget(self, target: Mapping[str, Resource]) -> None:
        """Aim at the newest desired resources of this type; what is the same object has not changed."""
        old, self._target = self._target, target
        if old is target or not self.requested:
            return
        for name in changed_keys(old, target):
            self._look_at(name)

    def subscribe(self, names: Iterable[str], initial_versions: Mapping[str, str], implies_wildcard: bool) -> None:
        """Take a request's subscriptions; `initial_versions` count on the stream's first request for the type only."""
        first, self.requested = not self.requested, True
        wanted = list(names)
        known = initial_versions if first else {}
        explicit = [name for name in wanted if name != WILDCARD]
        if len(explicit) < len(wanted) or (first and implies_wildcard and not wanted):
            self._subscribe_all(known)
        for name in explicit:
            self._subscribe_one(name, known.get(name))

    def renew(self, names: Iterable[str]) -> None:
        """Send these again, even unchanged, if Envoy is subscribed to them; refused ones once they change."""
        for name in names:
            resource = self._target.get(name)
            if not resource or name not in self._sent:
                continue
            if self._is_rejected(name, resource):
                self._sent[name] = UNSURE  # so that the good form that Envoy kept goes again, once it is wanted again
                self._held.pop(name, None)
            elif name not in self._suspects:  # these go anyway
                self._pending.discard(name)
                self._urgent.add(name)

    def unsubscribe(self, names: Iterable[str]) -> None:
        """Forget names; with a wildcard subscription left they stay part of that."""
        gone = set(names)
        self.names -= gone
        if WILDCARD in gone and self.wildcard:
            self.wildcard = self.owes_answer = False
            gone |= self._sent.keys() | self._pending | self._held.keys()
        for name in gone:
            if not self._wants(name):
                self._forget(name)

    def take_urgent(self) -> Answers:
        """Return what newly subscribed names get at once, as sent from now on."""
        names, self._urgent = self._urgent, set()
        return self._take(names)

    def take_updates(self) -> Answers:
        """Return the resources that are new or changed, as sent from now on."""
        return self._take({name for name in self._pending if name in self._target})

    def take_removals(self, in_use: Set[str]) -> Answers:
        """Return the names that Envoy holds and that exist no longer, as sent from now on; those in use stay."""
        gone = {name for name in self._pending | self._retained if name not in self._target}
        self._retained = gone & in_use
        self._pending -= gone
        return self._take(gone - in_use)

    def references_of_last_good(self) -> Iterator[tuple[str, str]]:
        """Yield what Envoy's last good forms of refused resources refer to: (type URL, name)."""
        for name in self.rejected:
            yield from self._held_references.get(name, ())

    def take_suspects(self) -> Answers:
        """Return what is to be sent in responses of its own, as sent from now on."""
        return self._take(set(self._suspects))

    def accept(self, resources: Iterable[Resource], removed: Iterable[str]) -> None:
        """Note that Envoy took these resources, and that it holds no more what was removed."""
        for resource in resources:
            if self._wants(resource.name):
                self._held[resource.name] = resource.version
                self._held_references[resource.name] = resource.references
            self._doubts.pop(resource.name, None)
        for name in removed:
            self._doubts.pop(name, None)
            self._held.pop(name, None)
            self._held_references.pop(name, None)
            if name not in self.names and self._sent.get(name) == ABSENT:
                del self._sent[name]  # nobody will ask for it again: a wildcard's names come and go
        for name in self.rejected.keys() & {*removed, *(resource.name for resource in resources)}:
            if self.rejected[name].version != _version(self._target.get(name)):
                del self.rejected[name]

    def refuse(self, versions: Mapping[str, str], reason: str, sent_later: Set[str]) -> None:
        """Note that Envoy refused a response: a single resource is to blame, several are suspects."""
        # A name that was sent again since, or unsubscribed, has its verdict still to come, or needs none.
        current = [
            name for name, version in versions.items() if self._sent.get(name) == version and name not in sent_later
        ]
        for name in current:
            if len(versions) > 1:
                self._suspect(name, versions[name])
            else:
                self._reject(name, Rejection(versions[name], reason))
            self._look_at(name)

    def _suspect(self, name: str, version: str) -> None:
        self._suspects[name] = version
        self._sent[name] = UNSURE
        self._doubts.setdefault(name, set()).add(version)

    def _reject(self, name: str, rejection: Rejection) -> None:
        if rejection.version == ABSENT:
            return  # nothing is lost if Envoy keeps what nobody wants
        self.rejected[name] = rejection
        doubts = self._doubts.pop(name, set())
        if doubts <= {rejection.version}:
            self._sent[name] = self._held.get(name, UNSURE)
        else:
            self._sent[name] = UNSURE
            self._held.pop(name, None)

    def _subscribe_all(self, known: Mapping[str, str]) -> None:
        self.wildcard = True
        self.owes_answer = not known
        for name, version in known.items():
            self._sent[name] = self._held[name] = version
        for name in self._target.keys() | known.keys():
            self._look_at(name)

    def _subscribe_one(self, name: str, version: str | None) -> None:
        self.names.add(name)
        if version is None:
            # xDS protocol, "Subscribing to Resources": a name subscribed again must be answered even if it is known.
            self._forget(name)
            self._urgent.add(name)
        else:
            self._sent[name] = self._held[name] = version
            self._look_at(name)

    def _take(self, names: set[str]) -> Answers:
        answers = [(name, self._target.get(name)) for name in sorted(names)]
        self._sent.update((name, _version(resource)) for name, resource in answers)
        self._pending -= names
        if not self._pending:
            self._pending = set()  # one that once held thousands would be walked through like that for ever
        for name in names:
            self._suspects.pop(name, None)
        return answers

    def _look_at(self, name: str) -> None:
        version = _version(self._target.get(name))
        if self._suspects.get(name, version) != version:
            del self._suspects[name]  # what was refused is not wanted any more
        if version == ABSENT:
            self.rejected.pop(name, None)  # nobody wants it any more
        if self._is_due(name):
            self._pending.add(name)
            return
        self._pending.discard(name)
        rejection = self.rejected.get(name)
        if rejection and rejection.version != version and self._held.get(name) == version:
            del self.rejected[name]  # the good form that Envoy kept is wanted again

    def _is_due(self, name: str) -> bool:
        if not self._wants(name) or name in self._urgent or name in self._suspects:
            return False
        sent = self._sent.get(name)
        resource = self._target.get(name)
        if resource is None:
            return sent != ABSENT and (sent is not None or name in self.names)
        return sent != resource.version and not self._is_rejected(name, resource)

    def _is_rejected(self, name: str, resource: Resource) -> bool:
        rejection = self.rejected.get(name)
        return rejection is not None and rejection.version == resource.version

    def _wants(self, name: str) -> bool:
        return self.wildcard or name in self.names

    def _forget(self, name: str) -> None:
        self._sent.pop(name, None)
        self._held.pop(name, None)
        self._held_references.pop(name, None)
        self.rejected.pop(name, None)
        self._suspects.pop(name, None)
        self._doubts.pop(name, None)
        for names in (self._pending, self._urgent, self._retained):
            names.discard(name)


def _version(resource: Resource | None) -> str:
    return ABSENT if resource is None else resource.version
