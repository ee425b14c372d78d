"""Findings about rules that nothing ever comes to: not what the service speaks, or delegates that don't fit. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from agent.api.analysis.finding import INEFFECTIVE, NOT_FOUND, OTHER_PROTOCOL, Finding, finding
from agent.api.analysis.world import World
from agent.api.enforce import enforceable
from agent.api.lowering.delegation import Problem, is_delegate, named_delegates, owned_routes
from agent.api.lowering.gateway import bound_gateways, is_for_mesh
from agent.api.lowering.lower import lower
from agent.mesh.reach import idle_rules


def find_unreached(world: World) -> Iterator[Finding]:
    """Yield a finding for each rule that no port of its service can follow, and for each delegate that is not used."""
    yield from _idle(world)
    yield from _delegates(world)


def _idle(world: World) -> Iterator[Finding]:
    if world.services is None:
        return
    by_ref = {str(document.ref): document for document in world.documents}
    for key, policy in lower(world.documents, world.catalog.services).policies.items():
        service = world.services.get(key)
        for fault in idle_rules(key, policy, service.ports) if service and service.ports else ():
            yield finding(OTHER_PROTOCOL, by_ref[fault.subject], "spec", fault.reason)


def _delegates(world: World) -> Iterator[Finding]:
    known = {document.ref: document for document in world.of_kind("VirtualService")}
    delegates = {ref: document for ref, document in known.items() if is_delegate(document)}
    for root in known.values():
        if not named_delegates(root):
            continue
        left_out: list[Problem] = []
        usable = enforceable(root).document or root
        for gateway in (*((None,) if is_for_mesh(usable) else ()), *bound_gateways(usable)):
            list(owned_routes(usable, delegates, gateway, left_out))
        for problem in dict.fromkeys(left_out):
            yield finding(INEFFECTIVE if problem.contradicts else NOT_FOUND, root, problem.path, problem.reason)
