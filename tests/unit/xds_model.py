"""A model of Envoy's side of delta ADS in pure Python, with the quirks seen in Envoy 1.40, and resources for it.

It checks as it goes: the order of what arrives, and that nothing arrives that it holds already.
"""

from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32

from envoy.service.discovery.v3 import discovery_pb2
from msgspec import Struct, json

from agent.mesh.names import CLUSTER_TYPE, ENDPOINT_TYPE, LISTENER_TYPE, ROUTE_TYPE, SECRET_TYPE
from agent.mesh.snapshot import Resource, Resources

GOOD, BAD, GARBLED = "good", "bad", "garbled"
"""GARBLED: Envoy refuses the whole response and applies nothing of it; BAD: it applies the rest."""


class Content(Struct, frozen=True):
    """What the model reads in a resource."""

    number: int
    quality: str
    references: tuple[tuple[str, str], ...]


def make(type_url: str, name: str, number: int, *references: tuple[str, str], quality: str = GOOD) -> Resource:
    """Return a resource that the model understands."""
    value = json.encode(Content(number, quality, references))
    return Resource(type_url, name, f"{quality}-{crc32(value):x}", value, references)


def state(resources: Iterable[Resource]) -> Resources:
    """Return the whole desired state."""
    by_type: dict[str, dict[str, Resource]] = {}
    for resource in resources:
        by_type.setdefault(resource.type_url, {})[resource.name] = resource
    return Resources(by_type)


class Held(Struct, frozen=True):
    """A resource in the model's memory."""

    version: str
    references: tuple[tuple[str, str], ...]


class ModelEnvoy:
    """Envoy's side of one stream after another; `requests` is what it wants to send."""

    def __init__(self) -> None:
        self.held: dict[str, dict[str, Held]] = {
            type_url: {} for type_url in (CLUSTER_TYPE, ENDPOINT_TYPE, LISTENER_TYPE, ROUTE_TYPE, SECRET_TYPE)
        }
        self.warming: dict[str, Held] = {}
        self.subscribed: dict[str, set[str]] = {ENDPOINT_TYPE: set(), ROUTE_TYPE: set(), SECRET_TYPE: set()}
        self.requests: list[discovery_pb2.DeltaDiscoveryRequest] = []
        self.withheld: list[discovery_pb2.DeltaDiscoveryRequest] = []
        self.refused: set[tuple[str, str]] = set()
        self.renewable: set[str] = set()
        self.suspects: set[tuple[str, str]] = set()
        self.received: dict[str, int] = {}
        self.checks_order = True
        self.last: dict[tuple[str, str], str] = {}
        self.owed: set[tuple[str, str]] = set()

    def connect(self) -> None:
        """Open a new stream: first requests of all types, with the versions held."""
        self.stop_warming()  # a real one leaves out CDS on the new stream until then
        self.requests.clear()
        self.withheld.clear()
        self.suspects.clear()
        self.owed.clear()
        self.last = {
            (type_url, name): each.version for type_url, held in self.held.items() for name, each in held.items()
        }
        for type_url, held in self.held.items():
            names = sorted(self.subscribed.get(type_url, ()))
            if type_url not in self.subscribed or names:
                versions = {name: resource.version for name, resource in held.items()}
                self._request(type_url, resource_names_subscribe=names, initial_resource_versions=versions)

    def forget_refused(self, newest: Resources) -> None:
        """Refused content may come again after it was not wanted for a while."""
        for type_url, name in self.refused:
            wanted = newest.of(type_url).get(name)
            if wanted is None or wanted.version != self.last.get((type_url, name)):
                self.last.pop((type_url, name), None)

    def stop_warming(self) -> None:
        """Let the initial_fetch_timeout pass."""
        for name in list(self.warming):
            self._warmed(name)

    def receive(self, response: discovery_pb2.DeltaDiscoveryResponse) -> None:
        """Take a response: check it, apply it, and put an ACK or NACK and new subscriptions into `requests`."""
        contents = {entry.name: json.decode(entry.resource.value, type=Content) for entry in response.resources}
        self._check(response, contents)
        self.received[response.type_url] = self.received.get(response.type_url, 0) + len(contents)
        errors = [name for name, content in contents.items() if content.quality != GOOD]
        several = len(contents) + len(response.removed_resources) > 1
        if errors and several:
            self.suspects |= {(response.type_url, entry.name) for entry in response.resources}
        garbled = any(content.quality == GARBLED for content in contents.values())
        if not garbled:
            for entry in response.resources:
                content = contents[entry.name]
                if content.quality == GOOD:
                    self._apply(response.type_url, entry.name, Held(entry.version, content.references))
            for name in response.removed_resources:
                self._remove(response.type_url, name)
        if errors and response.type_url == ENDPOINT_TYPE:
            self.stop_warming()  # Envoy tells every cluster of a refused endpoint response; they go on without
        self._answer(response, errors)

    def _check(self, response: discovery_pb2.DeltaDiscoveryResponse, contents: dict[str, Content]) -> None:
        type_url = response.type_url
        for entry in response.resources:
            key = (type_url, entry.name)
            # Alone as a rule; with others if it was withdrawn and wanted again before its turn came.
            again = key in self.suspects
            renewed = type_url == ENDPOINT_TYPE and entry.name in self.renewable
            if self.last.get(key) == entry.version and not (again or renewed):
                assert key in self.owed, f"{key} sent again, unchanged"
                self.owed.discard(key)
            self.last[key] = entry.version
            self.suspects.discard(key)
            if contents[entry.name].quality != GOOD:
                self.refused.add(key)
            elif type_url in (LISTENER_TYPE, ROUTE_TYPE) and self.checks_order:
                self._check_references(key, contents[entry.name].references)
        if type_url == ENDPOINT_TYPE:
            self.renewable -= contents.keys()
        if type_url == CLUSTER_TYPE:
            self.renewable |= contents.keys()  # endpoints come again with their cluster, which may need them to warm
        if type_url == CLUSTER_TYPE and self.checks_order:
            used = {reference for route in self.held[ROUTE_TYPE].values() for reference in route.references}
            for name in response.removed_resources:
                assert (type_url, name) not in used, f"{name} removed while a route uses it"

    def _check_references(self, user: tuple[str, str], references: Iterable[tuple[str, str]]) -> None:
        for type_url, name in references:
            if type_url == CLUSTER_TYPE and (type_url, name) not in self.refused:
                active = name in self.held[CLUSTER_TYPE]
                # A new subscription is answered at once, whatever warms.
                fresh = user[1] not in self.held[user[0]]
                assert active or (fresh and name in self.warming), f"{user} came before {name}"

    def _apply(self, type_url: str, name: str, resource: Held) -> None:
        if type_url == CLUSTER_TYPE:
            if resource in (self.warming.get(name), None if name in self.warming else self.held[type_url].get(name)):
                return
            self.warming[name] = resource
        elif type_url in self.subscribed and name not in self.subscribed[type_url]:
            return
        else:
            self.held[type_url][name] = resource
        if type_url == ENDPOINT_TYPE:
            self._warmed(name)
        for referred_type, referred in resource.references:
            if referred_type in self.subscribed and referred not in self.subscribed[referred_type]:
                self.subscribed[referred_type].add(referred)
                self.owed.add((referred_type, referred))
                self._request(referred_type, resource_names_subscribe=[referred])

    def _remove(self, type_url: str, name: str) -> None:
        self.held[type_url].pop(name, None)
        self.last.pop((type_url, name), None)
        if type_url == ENDPOINT_TYPE:
            self._warmed(name)
        if type_url == CLUSTER_TYPE:
            self.warming.pop(name, None)
            self._flush()
        if type_url in (CLUSTER_TYPE, LISTENER_TYPE):
            self._unsubscribe_unused()

    def _unsubscribe_unused(self) -> None:
        users = [*self.held[CLUSTER_TYPE].values(), *self.warming.values(), *self.held[LISTENER_TYPE].values()]
        used = {reference for user in users for reference in user.references}
        for type_url, names in self.subscribed.items():
            for name in sorted(name for name in names if (type_url, name) not in used):
                names.discard(name)
                self.held[type_url].pop(name, None)
                self.last.pop((type_url, name), None)
                self._request(type_url, resource_names_unsubscribe=[name])

    def _warmed(self, name: str) -> None:
        if name in self.warming:
            self.held[CLUSTER_TYPE][name] = self.warming.pop(name)
            self._flush()

    def _flush(self) -> None:
        if not self.warming:
            self.requests += self.withheld
            self.withheld.clear()

    def _answer(self, response: discovery_pb2.DeltaDiscoveryResponse, errors: list[str]) -> None:
        request = discovery_pb2.DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
        if errors:
            request.error_detail.message = f"Error adding/updating:\n {', '.join(errors)}"
        withhold = response.type_url == CLUSTER_TYPE and self.warming
        (self.withheld if withhold else self.requests).append(request)

    def _request(self, type_url: str, **fields: object) -> None:
        self.requests.append(discovery_pb2.DeltaDiscoveryRequest(type_url=type_url, **fields))
