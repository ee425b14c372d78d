"""The lab's collector of traces: a Zipkin server beside Consul, which the catalog knows as the service `zipkin`.

It is no part of a mesh that works: nobody waits for it, and on a machine without it (or Java) the lab goes without.
Nothing is sent to it until the mesh's settings say so (docs/tasks/tracing.md).
"""

from __future__ import annotations

import msgspec

from agent.lab.plan import App, HostPlan, LabPlan

ZIPKIN_PORT = 9411
_MEMORY = "-Xms64m -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1"


def with_collector(plan: LabPlan, port: int = ZIPKIN_PORT) -> LabPlan:
    """Return the lab with a collector on the host of Consul's server; `port` of the machine's loopback leads there."""
    hosts = tuple(_with_zipkin(host) if host.consul_server else host for host in plan.hosts)
    return msgspec.structs.replace(plan, hosts=hosts, zipkin_port=port)


def _with_zipkin(host: HostPlan) -> HostPlan:
    zipkin = App(
        "zipkin",
        ("nice", "zipkin"),  # Java starts slowly, and the mesh is to be there first
        port=ZIPKIN_PORT,
        environment={"JAVA_OPTS": _MEMORY, "STORAGE_TYPE": "mem"},
        programs=("java", "zipkin"),
        is_optional=True,
        by_consul=True,
    )
    return msgspec.structs.replace(host, apps=(*host.apps, zipkin))
