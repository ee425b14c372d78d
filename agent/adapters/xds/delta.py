"""The protocol state of one delta ADS stream (xDS protocol, "Incremental xDS"). No I/O, no grpc, no clock of its own.

Requests and the desired Resources go in, responses come out. `now` is any monotonic time in seconds.

What a stream may send is derived anew each time from what is due, never queued: a publish in the middle of another one
simply changes what is due, so the stream always moves toward the newest Resources. The order is make before break:

1. clusters, endpoints and secrets go at once: nothing is routed to them yet, or they belong to what is there already;
2. listeners wait until Envoy has answered for the clusters and endpoints (it withholds a cluster's ACK while it warms),
   routes until it has answered for these and for the listeners;
3. removals wait for every answer, listeners first, then clusters, then what Envoy itself did not unsubscribe.

No wait is longer than `Limits.stage_wait`. What Envoy newly subscribes to is answered at once, at any stage.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping

from envoy.service.discovery.v3 import discovery_pb2
from msgspec import Struct

from agent.adapters.xds.response import Outstanding, Pack, one_line, packs, proxy_version, to_message
from agent.adapters.xds.subscription import Answers, Subscription
from agent.mesh.names import CLUSTER_TYPE, ENDPOINT_TYPE, LISTENER_TYPE, ROUTE_TYPE, SECRET_TYPE, XDS_ORDER
from agent.mesh.routes import Fault
from agent.mesh.snapshot import Resource, Resources

logger = logging.getLogger(__name__)

WAITS_FOR: Mapping[str, tuple[str, ...]] = {
    LISTENER_TYPE: (CLUSTER_TYPE, ENDPOINT_TYPE),
    ROUTE_TYPE: (CLUSTER_TYPE, ENDPOINT_TYPE, LISTENER_TYPE),
}
REMOVAL_ORDER = (LISTENER_TYPE, CLUSTER_TYPE, ROUTE_TYPE, ENDPOINT_TYPE, SECRET_TYPE)
WILDCARD_TYPES = (CLUSTER_TYPE, LISTENER_TYPE)


class ProtocolError(Exception):
    """A request that no well-behaved client sends; the stream must end. Never leaves this package."""


class Limits(Struct, frozen=True):
    """Bounds on one stream."""

    stage_wait: float = 5.0
    """Seconds that a stage waits for Envoy's answers to the stages before it."""
    silence: float = 20.0
    """Seconds after which a missing answer is a fault; more than Envoy's usual initial_fetch_timeout of 15."""
    response_bytes: int = 3_000_000
    """grpc's usual message limit is 4 MB."""
    response_resources: int = 2_000
    cluster_grace: float = 0.2
    """Seconds from a stream's first endpoint request to its first cluster request; at once unless clusters warm."""
    types: int = 32
    names: int = 200_000


class DeltaStream:
    """One stream's state: call `receive` for each request, `publish` for new Resources, then send `responses`."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.node_id = ""
        self.proxy_version = ""
        self.connected = False
        self.published_revision = 0
        self.acked_revision = 0
        self.settled = False
        self._limits = limits or Limits()
        self._resources: Resources | None = None
        self._subscriptions = {type_url: Subscription(type_url, {}) for type_url in XDS_ORDER}
        self._outstanding: dict[str, dict[str, Outstanding]] = {type_url: {} for type_url in XDS_ORDER}
        self._expected: dict[tuple[str, str], float] = {}
        self._may_be_stuck = True
        self._stuck_since: float | None = None
        self._silent: tuple[Outstanding, ...] = ()
        self._responses = 0

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Return what Envoy refuses of the newest Resources, or is silent about, in order of names."""
        refused = {
            Fault(name, rejection.reason)
            for subscription in self._subscriptions.values()
            for name, rejection in subscription.rejected.items()
        }
        # Envoy withholds its answer for ever if a cluster fails at its load balancer (a ring hash size, a Maglev table
        # size), and while one waits for a secret or a DNS name.
        silent = {
            Fault(
                _some(sent.pack.versions),
                f"Envoy has not answered for {self._limits.silence:.0f} s: one of these waits "
                "for a secret or a DNS name, or has load balancer settings that Envoy cannot use",
            )
            for sent in self._silent
        }
        return tuple(sorted(refused | silent))

    def publish(self, resources: Resources, revision: int, now: float) -> None:
        """Make these the newest Resources; a revision that changes nothing for Envoy is acked at once."""
        self._resources = resources
        self.published_revision = revision
        for type_url, subscription in self._subscriptions.items():
            subscription.retarget(resources.of(type_url))
        self._settle(now)

    def receive(self, request: discovery_pb2.DeltaDiscoveryRequest, now: float) -> Pack | None:
        """Take a request: subscriptions, an ACK or a NACK, often several in one; return what it acks, if anything.

        Raises ProtocolError.
        """
        subscription = self._subscription(request.type_url)
        if not self.connected:
            self.node_id, self.proxy_version = request.node.id, proxy_version(request.node)
            self.connected = True
        subscription.unsubscribe(request.resource_names_unsubscribe)
        names = request.resource_names_subscribe
        if len(subscription.names) + len(names) > self._limits.names:
            raise ProtocolError(f"{request.type_url}: more than {self._limits.names} names subscribed")
        first = not subscription.requested
        subscription.subscribe(names, request.initial_resource_versions, request.type_url in WILDCARD_TYPES)
        if first and request.type_url == ENDPOINT_TYPE:
            # On a new stream changed clusters may have gone before Envoy told which endpoints it holds.
            self._renew_endpoints(
                cluster for sent in self._outstanding[CLUSTER_TYPE].values() for cluster in sent.pack.resources
            )
        for name in names:
            self._expected.pop((request.type_url, name), None)
        self._note_stuck_clusters(request.type_url, now)
        acked = self._answered(subscription, request, now) if request.response_nonce else None
        self._settle(now)
        return acked

    def held(self) -> Iterator[tuple[str, str, str]]:
        """Yield what Envoy holds: (type URL, name, version)."""
        for type_url, subscription in self._subscriptions.items():
            for name, version in subscription.held.items():
                yield type_url, name, version

    def responses(self, now: float) -> list[discovery_pb2.DeltaDiscoveryResponse]:
        """Return every response that may go now, in order, and count them as sent; before the first publish none."""
        if self._resources is None:
            return []
        if self._stuck_since is not None and self._stuck_since + self._limits.cluster_grace <= now:
            self._stuck_since, self._may_be_stuck = None, False
            self._subscriptions[ENDPOINT_TYPE].renew(self._subscriptions[ENDPOINT_TYPE].names)
        messages = []
        for type_url, pack in self._due(now):
            self._responses += 1
            nonce = str(self._responses)
            # The stages that `_due` comes to next wait for this one.
            self._outstanding[type_url][nonce] = Outstanding(pack, now)
            messages.append(to_message(type_url, nonce, self.published_revision, pack))
        self._settle(now)
        return messages

    def deadline(self, now: float) -> float | None:
        """Return when to call `responses` again even if no request comes and nothing is published; None: never."""
        times = [*self._expected.values(), *(sent.sent_at + self._limits.silence for sent in self._unanswered())]
        if self._stuck_since is not None:
            times.append(self._stuck_since + self._limits.cluster_grace)
        if not all(subscription.is_idle for subscription in self._subscriptions.values()):
            times += [self._waits_until(type_url) for type_url in self._outstanding]
        return min((time for time in times if time > now), default=None)

    def _due(self, now: float) -> Iterator[tuple[str, Pack]]:
        for type_url, subscription in self._subscriptions.items():
            answers = subscription.take_urgent()
            owes_answer = False
            if not self._is_waiting(WAITS_FOR.get(type_url, ()), now):
                answers += subscription.take_updates()
                owes_answer, subscription.owes_answer = subscription.owes_answer, False
            if owes_answer and not answers:
                yield type_url, Pack()
            suspects = subscription.take_suspects()
            if type_url == CLUSTER_TYPE:
                self._renew_endpoints(cluster for _, cluster in answers + suspects)
            yield from self._packs(type_url, answers)
            for suspect in suspects:
                yield from self._packs(type_url, [suspect])
        for type_url in (*REMOVAL_ORDER, *self._subscriptions.keys() - set(REMOVAL_ORDER)):
            if self._is_waiting(self._outstanding, now):
                return
            yield from self._packs(type_url, self._subscriptions[type_url].take_removals(self._in_use(type_url)))

    def _in_use(self, type_url: str) -> set[str]:
        return {
            name
            for subscription in self._subscriptions.values()
            for referred_type, name in subscription.references_of_last_good()
            if referred_type == type_url
        }

    def _renew_endpoints(self, clusters: Iterable[Resource | None]) -> None:
        # A changed cluster warms until its endpoints come again, but Envoy, subscribed to them for the old form of the
        # cluster, doesn't ask: without this it warms, its CDS stream paused, for the whole initial_fetch_timeout.
        names = {name for cluster in clusters if cluster for name in _endpoint_names(cluster)}
        self._subscriptions[ENDPOINT_TYPE].renew(names)

    def _packs(self, type_url: str, answers: Answers) -> Iterator[tuple[str, Pack]]:
        for pack in packs(answers, self._limits.response_bytes, self._limits.response_resources):
            yield type_url, pack

    def _is_waiting(self, type_urls: Iterable[str], now: float) -> bool:
        return any(self._waits_until(type_url) > now for type_url in type_urls)

    def _waits_until(self, type_url: str) -> float:
        newest = next(reversed(self._outstanding[type_url].values()), None)
        return newest.sent_at + self._limits.stage_wait if newest else -math.inf

    def _answered(
        self, subscription: Subscription, request: discovery_pb2.DeltaDiscoveryRequest, now: float
    ) -> Pack | None:
        outstanding = self._outstanding[subscription.type_url].pop(request.response_nonce, None)
        if outstanding is None:
            return None  # a nonce of an earlier stream, or one made up: it says nothing about what was sent on this one
        if not request.HasField("error_detail"):
            subscription.accept(outstanding.pack.resources, outstanding.pack.removed)
            self._expect_subscriptions(outstanding.pack.resources, now)
            return outstanding.pack
        reason = one_line(request.error_detail.message)
        kind = subscription.type_url.rpartition(".")[2]
        versions = outstanding.pack.versions
        logger.warning("Envoy refused %s %s: %s", kind, _some(versions), reason)
        later = {name for sent in self._outstanding[subscription.type_url].values() for name in sent.pack.versions}
        subscription.refuse(versions, f"Envoy refused this {kind}: {reason}", later)
        return None

    def _expect_subscriptions(self, accepted: Iterable[Resource], now: float) -> None:
        # Envoy acks a listener before it asks for the listener's routes (likewise a cluster while it starts):
        # the revision is not in effect until these are asked for, answered and acked, too. Not so for what is not
        # wanted any more: a cluster's ACK may be withheld until the cluster is removed and its endpoints unsubscribed.
        # What Envoy had to ask for makes it ask for no more: the clusters of a route table, thousands, are there.
        for resource in accepted:
            if resource.type_url not in WILDCARD_TYPES or not self._is_wanted(resource):
                continue
            for type_url, name in resource.references:
                if type_url not in WILDCARD_TYPES and name not in self._subscription(type_url).names:
                    self._expected[type_url, name] = now + self._limits.stage_wait

    def _is_wanted(self, resource: Resource) -> bool:
        wanted = self._resources.of(resource.type_url).get(resource.name) if self._resources else None
        return wanted is not None and wanted.version == resource.version

    def _settle(self, now: float) -> None:
        self._expected = {reference: until for reference, until in self._expected.items() if until > now}
        self._silent = tuple(sent for sent in self._unanswered() if sent.sent_at + self._limits.silence <= now)
        self.settled = (
            self._resources is not None
            and all(self._subscriptions[type_url].requested for type_url in WILDCARD_TYPES)
            and not self._expected
            and not any(self._unanswered())
            and all(subscription.is_idle for subscription in self._subscriptions.values())
        )
        if self.settled:
            self.acked_revision = self.published_revision

    def _note_stuck_clusters(self, type_url: str, now: float) -> None:
        # An Envoy whose last stream ended while a cluster warmed doesn't ask for clusters on this one until it has
        # warmed; it waits for endpoints that it holds, and would wait for ever without an initial_fetch_timeout.
        if self._subscriptions[CLUSTER_TYPE].requested:
            self._stuck_since, self._may_be_stuck = None, False
        elif type_url == ENDPOINT_TYPE and self._may_be_stuck and self._stuck_since is None:
            self._stuck_since = now

    def _unanswered(self) -> Iterator[Outstanding]:
        return (sent for by_nonce in self._outstanding.values() for sent in by_nonce.values())

    def _subscription(self, type_url: str) -> Subscription:
        if type_url in self._subscriptions:
            return self._subscriptions[type_url]
        if not type_url or len(self._subscriptions) >= self._limits.types:
            raise ProtocolError(f"type URL {one_line(type_url)!r}: empty, or more than {self._limits.types} types")
        target = self._resources.of(type_url) if self._resources else {}
        self._outstanding[type_url] = {}
        self._subscriptions[type_url] = Subscription(type_url, target)
        return self._subscriptions[type_url]


def _endpoint_names(cluster: Resource) -> Iterator[str]:
    yield cluster.name
    yield from (name for _, name in cluster.references)


def _some(names: Mapping[str, str]) -> str:
    shown = ", ".join(list(names)[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
