"""Whose identity the calls of each Unix user of this host bear. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from agent.mesh.service import Workload


def callers_by_uid(workloads: Iterable[Workload]) -> dict[int, Workload]:
    """Return the workloads that call under their own identity, by the Unix user whose programs they are.

    All other users call as the host's default workload, its first one; so does a user who runs that one. Of two
    workloads of one user the first counts: a connection tells its user and no more.
    """
    workloads = tuple(workloads)
    by_uid: dict[int, Workload] = {}
    for workload in workloads:
        if workload.uid is not None:
            by_uid.setdefault(workload.uid, workload)
    return {uid: workload for uid, workload in sorted(by_uid.items()) if workload is not workloads[0]}
