"""Route actions on their way to Envoy: what they leave alone."""

from __future__ import annotations

import msgspec
from envoy.config.route.v3 import route_pb2

from agent.mesh.actions import Abort, CorsPolicy, Delay, DirectResponse, HeaderChanges, Headers, HttpActions
from agent.mesh.names import CLUSTER_TYPE, LISTENER_TYPE, ROUTE_TYPE
from agent.mesh.routes import Destination, Mirror, Route, ServicePolicy
from agent.mesh.snapshot import Desired
from agent.translate.plan import Planner
from tests.unit.mesh_samples import OPTIONS, key, mesh, route, service, version

REVIEWS = key("reviews")
MIRROR = Mirror(Destination(REVIEWS, version("v2")), 12.5)


def planned(*routes: Route) -> Desired:
    desired = Planner().plan(mesh([service("reviews")], {REVIEWS: ServicePolicy(routes)}), OPTIONS)
    assert desired.faults == ()
    return desired


def acting(actions: HttpActions, *mirrors: Mirror) -> Route:
    return msgspec.structs.replace(route(REVIEWS), actions=actions, mirrors=mirrors)


def answering(answer: DirectResponse) -> Route:
    return msgspec.structs.replace(route(REVIEWS), actions=HttpActions(answer), destinations=())


def test_no_action_changes_a_listener() -> None:
    everything = HttpActions(
        headers=Headers(HeaderChanges(set=(("x-a", "b"),))),
        timeout_seconds=1.0,
        delay=Delay(1.0),
        abort=Abort(500),
        cors=CorsPolicy(),
    )
    plain, busy = planned(route(REVIEWS)), planned(acting(everything, MIRROR))
    assert plain.resources.of(LISTENER_TYPE) == busy.resources.of(LISTENER_TYPE)
    assert plain.resources.of(ROUTE_TYPE) != busy.resources.of(ROUTE_TYPE)


def test_a_mirror_s_subset_has_a_cluster_that_the_route_table_needs() -> None:
    resources = planned(acting(HttpActions(), MIRROR)).resources
    name = "outbound|9080|version=v2|reviews.service.consul"
    assert name in resources.of(CLUSTER_TYPE)
    assert (CLUSTER_TYPE, name) in resources.of(ROUTE_TYPE)["9080"].references
    assert not resources.dangling()


def test_a_route_that_answers_itself_needs_no_destination() -> None:
    table = route_pb2.RouteConfiguration.FromString(
        planned(answering(DirectResponse(200, b"x"))).resources.of(ROUTE_TYPE)["9080"].value
    )
    first, default = table.virtual_hosts[0].routes
    assert first.direct_response.status == 200
    assert default.route.cluster == "outbound|9080||reviews.service.consul"
