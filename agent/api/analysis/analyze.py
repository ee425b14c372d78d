"""Analyses documents together: what is wrong with each of them, and with all of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.api.analysis.cautions import find_cautions
from agent.api.analysis.deprecated import find_deprecated
from agent.api.analysis.finding import NOT_ENFORCEABLE, SCHEMA, Finding, Level, finding
from agent.api.analysis.gateways import Reported, find_gateways
from agent.api.analysis.mixer import find_mixer
from agent.api.analysis.overlaps import find_overlaps
from agent.api.analysis.reach import find_unreached
from agent.api.analysis.references import find_references
from agent.api.analysis.scopes import find_scopes
from agent.api.analysis.security import find_security
from agent.api.analysis.tokens import find_tokens
from agent.api.analysis.unreachable import find_unreachable
from agent.api.analysis.world import World
from agent.api.envelope import Document
from agent.api.problem import Verdict
from agent.api.validate import find_problems, is_invalid
from agent.mesh.service import Service, ServiceKey
from agent.mesh.settings import MeshSettings


def analyze(
    documents: Iterable[Document],
    services: Mapping[ServiceKey, Service] | None = None,
    settings: MeshSettings | None = None,
    reported: Iterable[Reported] = (),
) -> list[Finding]:
    """Return the findings, the worst first; without services every host that is named is taken to exist.

    `reported` is what the mesh's agents tell.
    """
    found: list[Finding] = []
    usable: list[Document] = []
    for document in documents:
        problems = find_problems(document)
        for problem in problems:
            kind = SCHEMA if problem.verdict is Verdict.INVALID else NOT_ENFORCEABLE
            found.append(finding(kind, document, problem.path, problem.reason))
        if not is_invalid(problems):
            usable.append(document)
    world = World(usable, services, settings)
    found += find_deprecated(world)
    found += find_references(world)
    found += find_overlaps(world)
    found += find_unreachable(world)
    found += find_unreached(world)
    found += find_scopes(world)
    found += find_gateways(world, reported)
    found += find_security(world)
    found += find_tokens(world)
    found += find_mixer(world)
    found += find_cautions(world)
    return sorted(found, key=lambda one: (-one.kind.level.rank, one.object, one.place, one.path, one.message))


def worst(findings: Iterable[Finding]) -> Level | None:
    """Return the worst level among findings, or None if there are none."""
    return max((one.kind.level for one in findings), key=lambda level: level.rank, default=None)
