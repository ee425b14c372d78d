"""The memory of lowering and planning never shows: after any changes the result is that of a fresh start."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from ipaddress import IPv4Network, IPv6Network

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from agent.adapters.consul.catalog import CatalogSynced, ServiceEntries
from agent.adapters.consul.kv import ConfigUpdate, SettingsUpdate
from agent.mesh.gateway import INGRESS_LABELS
from agent.mesh.names import config_key
from agent.mesh.service import Health, Instance, Port, Protocol, ServiceKey, Workload
from agent.mesh.snapshot import Certificate, Desired, MeshSnapshot
from agent.runtime.events import CertificatesChanged, WorkloadsChanged
from agent.runtime.state import Event, MeshState
from agent.translate.netfilter import NetfilterOptions, OutboundMode
from agent.translate.options import KeySetSockets, PlanOptions
from agent.translate.plan import Planner

V4, V6 = IPv4Network("240.240.0.0/24"), IPv6Network("fdf0::/112")
_OLD, _NEW = "config.istio.io/v1alpha2", "networking.istio.io/v1"
TO_REVIEWS = "route: [{destination: {host: reviews}}]"
TO_V1 = "route: [{destination: {host: reviews, subset: v1}}]"
RULES = (
    # (apiVersion, kind, namespace, name, forms of the spec)
    (_OLD, "RouteRule", "default", "one", (
        "{destination: {name: reviews}, route: [{labels: {version: v1}}]}",
        "{destination: {name: reviews}, precedence: 3, match: {request: {headers: {x: {exact: y}}}},"
        " route: [{labels: {version: v2}}]}",
        "{destination: {name: ratings}, mirror: {name: reviews}}",
    )),
    (_OLD, "RouteRule", "default", "two", (
        "{destination: {name: reviews}, route: [{weight: 100, destination: {name: ratings}}]}",
        "{destination: {name: db}, match: {source: {name: ratings}}, route: [{labels: {version: v1}}]}",
    )),
    (_OLD, "DestinationPolicy", "default", "p", (
        "{destination: {name: reviews}, loadBalancing: {name: RANDOM}}",
        "{destination: {name: ratings, labels: {version: v1}}, circuitBreaker: {simpleCb: {maxConnections: 3}}}",
    )),
    (_NEW, "VirtualService", "default", "v", (
        f"{{hosts: [reviews, ratings], http: [{{{TO_V1}}}]}}",
        f"{{hosts: [reviews], http: [{{match: [{{uri: {{prefix: /a}}}}], {TO_REVIEWS}}}, {{delegate: {{name: d}}}}]}}",
        f"{{hosts: [db], tcp: [{{{TO_V1}}}]}}",
        f"{{hosts: ['*'], gateways: [edge], http: [{{{TO_V1}}}]}}",
    )),
    (_NEW, "VirtualService", "default", "d", (
        f"{{http: [{{{TO_REVIEWS}, timeout: 3s}}]}}", f"{{hosts: [reviews, nowhere], http: [{{{TO_REVIEWS}}}]}}",
    )),
    (_NEW, "DestinationRule", "default", "r", (
        "{host: reviews, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}",
        "{host: reviews, trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x}}}}",
        "{host: ratings, trafficPolicy: {connectionPool: {tcp: {idleTimeout: 9s}}}}",
    )),
    (_NEW, "DestinationRule", "other", "r", (
        "{host: reviews.default.svc.cluster.local, subsets: [{name: v1, labels: {version: v2}}]}",
        "{host: reviews.default.svc.cluster.local, trafficPolicy: {tls: {mode: DISABLE}}, exportTo: [.]}",
    )),
    (_NEW, "ServiceEntry", "default", "e", (
        "{hosts: [ratings], ports: [{number: 80, name: http}], resolution: DNS}",
        "{hosts: [www.example.com], ports: [{number: 443, name: tls, protocol: TLS}], resolution: DNS}",
        "{hosts: [pool.example.com], location: MESH_INTERNAL, ports: [{number: 80, name: http}], resolution: STATIC,"
        " workloadSelector: {labels: {app: x}}}",
    )),
    (_NEW, "WorkloadEntry", "default", "w", ("{address: 10.9.9.9, labels: {app: x}}", "{address: 10.9.9.8}")),
    (_OLD, "EgressRule", "default", "e", (
        "{destination: {service: www.example.com}, ports: [{port: 443, protocol: https}, {port: 80, protocol: http}]}",
        '{destination: {service: "*.foo.com"}, ports: [{port: 80, protocol: http}]}',
    )),
    (_NEW, "Gateway", "default", "edge", (
        "{selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP},"
        " hosts: ['*']}]}",
        "{selector: {istio: ingressgateway}, servers: [{port: {number: 443, name: tls, protocol: TLS},"
        " tls: {mode: AUTO_PASSTHROUGH}, hosts: ['*']}]}",
        "{selector: {istio: ingress}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [a.org],"
        " tls: {httpsRedirect: true}}, {port: {number: 80, name: h, protocol: HTTP}, hosts: ['*.b.org', other/c.org]},"
        " {port: {number: 443, name: tls, protocol: TLS}, tls: {mode: PASSTHROUGH}, hosts: ['*.b.org']},"
        " {port: {number: 9000, name: tcp, protocol: TCP}, hosts: ['*']}]}",
    )),
    (_NEW, "VirtualService", "default", "at-edge", (
        f"{{hosts: [x.b.org, a.org], gateways: [edge, mesh], http: [{{{TO_V1}}}]}}",
        f"{{hosts: ['*.b.org', a.org], gateways: [edge], http: [{{match: [{{port: 80}}], {TO_REVIEWS}}}],"
        f" tls: [{{match: [{{port: 443, sniHosts: [x.b.org]}}], {TO_V1}}}], exportTo: [.]}}",
        f"{{hosts: [y.org], gateways: [edge], http: [{{{TO_REVIEWS}}}]}}",
    )),
    (_NEW, "VirtualService", "other", "at-edge", (
        f"{{hosts: [c.org, x.b.org], gateways: [default/edge], http: [{{{TO_REVIEWS}}}],"
        f" tcp: [{{match: [{{port: 9000}}], {TO_V1}}}]}}",
        f"{{hosts: [a.org], gateways: [default/edge], http: [{{match: [{{port: 81}}], {TO_V1}}}]}}",
    )),
    ("extensions/v1beta1", "Ingress", "default", "i", (
        "{rules: [{http: {paths: [{path: /x, backend: {serviceName: reviews, servicePort: 9080}}]}}]}",
    )),
    ("security.istio.io/v1", "PeerAuthentication", "default", "default", (
        "{mtls: {mode: STRICT}}", "{mtls: {mode: DISABLE}}",
        "{selector: {matchLabels: {app: x}}, mtls: {mode: STRICT}}",
    )),
    ("security.istio.io/v1", "PeerAuthentication", "default", "one", (
        "{selector: {matchLabels: {version: v1}}, mtls: {mode: STRICT}, portLevelMtls: {9080: {mode: DISABLE}}}",
        "{selector: {matchLabels: {app: x, version: v2}}, mtls: {mode: DISABLE}}", "{mtls: {mode: STRICT}}",
    )),
    ("security.istio.io/v1", "PeerAuthentication", "istio-system", "default", (
        "{mtls: {mode: STRICT}}", "{mtls: {mode: DISABLE}}",
    )),
    ("security.istio.io/v1", "AuthorizationPolicy", "istio-system", "who", (
        "{rules: [{}]}", "{action: AUDIT, rules: [{to: [{operation: {methods: [GET]}}]}]}",
        "{action: CUSTOM, provider: {name: asked}, rules: [{}]}",
        "{action: DENY, selector: {matchLabels: {istio: ingressgateway}}, rules: [{}]}",
    )),
    ("security.istio.io/v1", "RequestAuthentication", "istio-system", "tokens", (
        "{jwtRules: [{issuer: a, jwksUri: 'http://reviews.default:9080/keys'}]}",
        "{jwtRules: [{issuer: a, jwksUri: 'https://keys.example/'}, {issuer: b, jwks: '{\"keys\": []}'}]}",
        "{selector: {matchLabels: {istio: ingressgateway}}, jwtRules: [{jwksUri: 'http://ratings:9080/'}]}",
    )),
    ("telemetry.istio.io/v1", "Telemetry", "istio-system", "mesh", (
        "{tracing: [{providers: [{name: zipkin}]}]}", "{tracing: [{disableSpanReporting: true}]}",
        "{tracing: [{providers: [{name: lost}], match: {mode: SERVER}}]}",
    )),
    ("telemetry.istio.io/v1", "Telemetry", "default", "own", (
        "{selector: {matchLabels: {version: v1}}, tracing: [{randomSamplingPercentage: 5}]}",
        "{tracing: [{customTags: {a: {literal: {value: b}}}}]}",
    )),
    (_NEW, "Sidecar", "default", "s", (
        "{egress: [{hosts: ['./reviews.default.svc.cluster.local']}]}", "{egress: [{hosts: ['*/*']}]}",
    )),
)  # fmt: skip
SERVICES = ("reviews.default", "ratings.default", "db.default", "reviews.other", "Reviews.default")
SETTINGS = (
    None,
    b'{"outboundTrafficPolicy": "REGISTRY_ONLY"}',
    b'{"mtls": "strict"}',
    b'{"excludedServices": ["ratings"]}',
    b'{"extensionProviders": [{"name": "asked", "envoyExtAuthzHttp": {"service": "ratings", "port": 9080}}]}',
    b'{"tracing": {"zipkin": {"service": "ratings", "port": 9080}}}',
)
_NETFILTER = NetfilterOptions(proxy_uid=1, service_cidr_v4=V4, service_cidr_v6=V6)
_KEY_SETS = KeySetSockets("/agent", "/envoy")
OPTIONS = (
    PlanOptions(_NETFILTER, dns_upstreams=("9.9.9.9",), peer_log="/p", decision_log="/d", key_sets=_KEY_SETS),
    PlanOptions(structs.replace(_NETFILTER, outbound=OutboundMode.ALL), dns_upstreams=("9.9.9.9",), counts=True),
    PlanOptions(intercepted=False, gateway=INGRESS_LABELS, peer_log="/p", key_sets=_KEY_SETS, counts=True),
    PlanOptions(intercepted=False, bind_outbound="127.0.0.2"),
)


class Written:
    """What the outside world has told: enough to tell it to another agent."""

    def __init__(self) -> None:
        self.rules: dict[str, tuple[int, bytes]] = {}
        self.catalog: dict[str, tuple[Instance, ...]] = {}
        self.settings: bytes | None = None
        self.workloads: tuple[Workload, ...] = ()
        self.index = 1

    def events(self) -> list[Event]:
        """Return everything, as an agent hears it that starts now."""
        return [
            *(ServiceEntries(name, instances) for name, instances in self.catalog.items()),
            CatalogSynced(),
            ConfigUpdate(self.index, dict(self.rules)),
            SettingsUpdate(self.settings),
            *self.workload_events(),
        ]

    def change_rule(self, number: int, form: int) -> Event:
        """Write a rule in one of its forms, or delete it."""
        api_version, kind, namespace, name, forms = RULES[number]
        key = config_key(namespace, kind, name)
        self.index += 1
        if form < len(forms):
            plain = {
                "apiVersion": api_version,
                "kind": kind,
                "metadata": {"name": name, "namespace": namespace},
                "spec": _plain(forms[form]),
            }
            self.rules[key] = self.index, json.dumps(plain).encode()
        else:
            self.rules.pop(key, None)
        return ConfigUpdate(self.index, dict(self.rules))

    def change_service(self, number: int, form: int) -> Event:
        """Write the instances that a catalog name has, in all namespaces, or none."""
        name = SERVICES[number].partition(".")[0]
        keys = [ServiceKey(*reversed(each.split("."))) for each in SERVICES if each.startswith(f"{name}.")]
        self.catalog[name] = tuple(one for key in keys[: form % 3] for one in _instances(key, form))
        return ServiceEntries(name, self.catalog[name])

    def change_settings(self, form: int) -> Event:
        """Write the mesh's settings."""
        self.settings = SETTINGS[form % len(SETTINGS)]
        return SettingsUpdate(self.settings)

    def workload_events(self) -> list[Event]:
        """Return what an agent hears of services.d and the CA."""
        certificates = {one.identity: Certificate(b"", b"") for one in self.workloads}
        return [WorkloadsChanged(self.workloads, ()), CertificatesChanged(certificates, b"ca")]

    def change_workloads(self, form: int) -> list[Event]:
        """Write this host's services.d."""
        own = Workload(ServiceKey("other", "reviews"), "10.0.0.9", (Port(9080, "http", Protocol.HTTP),))
        ratings = structs.replace(own, service=ServiceKey("default", "ratings"))
        users = (own, structs.replace(ratings, uid=7), structs.replace(ratings, uid=8, service_account="eight"))
        self.workloads = ((), (own,), (ratings,), users[:2], users)[form % 5]
        return self.workload_events()


@cache
def _plain(text: str) -> Mapping[str, object]:
    loaded: Mapping[str, object] = yaml.safe_load(text)
    return loaded


def _instances(key: ServiceKey, form: int) -> tuple[Instance, ...]:
    port = Port(3306, "mysql", Protocol.MYSQL) if key.name == "db" else Port(9080, "http", Protocol.HTTP)
    ports = (port, Port(443, "tls", Protocol.TLS)) if form % 5 == 4 else (port,)
    return tuple(
        Instance(
            id=f"{key}-{number}",
            service=key,
            node="n",
            address=f"10.0.0.{number}",
            ports=ports,
            labels=(("app", "x"), ("version", f"v{number}")),
            health=Health.CRITICAL if form % 2 and number == 1 else Health.PASSING,
            proxied=form % 4 > 1,
        )
        for number in (1, 2)
    )


STEP = st.one_of(
    st.tuples(st.just("rule"), st.integers(0, len(RULES) - 1), st.integers(0, 4)),
    st.tuples(st.just("service"), st.integers(0, len(SERVICES) - 1), st.integers(0, 11)),
    st.tuples(st.just("settings"), st.just(0), st.integers(0, len(SETTINGS) - 1)),
    st.tuples(st.just("workloads"), st.just(0), st.integers(0, 2)),
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(OPTIONS), st.lists(st.lists(STEP, min_size=1, max_size=4), min_size=2, max_size=8))
def test_every_change_leads_where_a_fresh_start_does(
    options: PlanOptions, rounds: list[list[tuple[str, int, int]]]
) -> None:
    written, state, planner = Written(), MeshState("n", V4, V6, {}), Planner()
    for number in range(3):
        written.change_service(number, 2)
    state.apply(written.events())
    planner.plan(state.snapshot(), options)
    for steps in rounds:
        events = [event for step in steps for event in _events(written, *step)]
        state.apply(events)
        snapshot = state.snapshot()
        fresh = MeshState("n", V4, V6, state.vips)
        fresh.apply(written.events())
        anew = fresh.snapshot()
        assert _said(snapshot) == _said(anew)
        assert state.faults == fresh.faults
        _assert_same(planner.plan(snapshot, options), Planner().plan(anew, options))


def _events(written: Written, kind: str, number: int, form: int) -> list[Event]:
    match kind:
        case "rule":
            return [written.change_rule(number, form)]
        case "service":
            return [written.change_service(number, form)]
        case "settings":
            return [written.change_settings(form)]
        case _:
            return written.change_workloads(form)


def _said(snapshot: MeshSnapshot) -> dict[str, object]:
    """Return what does not depend on who was there first."""
    names = ("services", "policies", "settings", "workloads", "ingress", "sidecars", "scope", "telemetry")
    return {name: getattr(snapshot, name) for name in names}


def _assert_same(one: Desired, other: Desired) -> None:
    assert one.resources == other.resources
    assert one.dangling == other.dangling == tuple(sorted(one.resources.dangling())) == ()
    assert (one.dns_hosts, one.netfilter_v4, one.netfilter_v6) == (
        other.dns_hosts,
        other.netfilter_v4,
        other.netfilter_v6,
    )
    assert one.faults == other.faults
