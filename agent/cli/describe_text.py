"""The records of `describe` as text for people. Pure."""

from __future__ import annotations

from agent.cli.description import Record
from agent.cli.output import table


def service_text(record: Record) -> str:
    """Return a service and its rules."""
    instances = record["instances"]
    proxied = sum(each["proxied"] for each in instances)
    lines = [
        f"Service:   {record['service']}",
        f"Names:     {', '.join(record['names'])}",
        f"Ports:     {_ports(record)}",
        f"mTLS:      {_accepted(record['mtls'])}; {proxied} of {len(instances)} instances have an agent that serves it",
        f"Guarded:   {', '.join(record['security']) or 'by no policy'}",
        "",
        _instances(instances),
        "",
        "Routes, the first that matches counts:",
        *(f"  {_route(route)}" for route in record["routes"]),
        f"  otherwise: {record['otherwise']}",
        f"Policies:  {', '.join(record['policies']) or 'none'}",
        *(
            f"  subset {each['name']} ({_labels(each['labels'])}): {each['serving']} serving instances"
            for each in record["subsets"]
        ),
        *(f"  {line}" for line in record["findings"]),
    ]
    return "\n".join([*lines, *_outbound(record["envoy"])] if "envoy" in record else lines)


def _accepted(modes: dict[str, list[str]]) -> str:
    """Return what ports accept, shortly if all accept the same."""
    said = {port: " or ".join(each) for port, each in modes.items()}
    if len(set(said.values())) == 1:
        return next(iter(said.values()))
    return ", ".join(f"{port}: {each}" for port, each in said.items()) or "no ports"


def instance_text(record: Record) -> str:
    """Return an instance, and its proxy."""
    lines = [
        f"Instance:  {record['id']}",
        f"Service:   {record['service']}",
        f"Node:      {record['node']} ({record['address']})",
        f"Ports:     {_ports(record)}",
        f"Health:    {record['health']}{'' if record['serves'] else ' (gets no traffic)'}",
        f"Labels:    {_labels(record['labels'])}",
        f"Subsets:   {', '.join(record['subsets']) or '-'}",
        f"Identity:  {record['identity']}",
    ]
    proxy = record["proxy"]
    if proxy is None:
        reason = "its agent does not report" if record["proxied"] else "none (plain text)"
        return "\n".join([*lines, f"Proxy:     {reason}", ""])
    revision = f"revision {proxy['acknowledged']} of {proxy['sent']}"
    lines.append(f"Proxy:     {proxy['state']}, {revision}, Envoy {proxy['envoy'] or '-'}")
    scope = proxy["scope"]
    if scope["sidecar"]:
        lines.append(f"Scope:     {scope['services']} of {scope['known']} services, by {scope['sidecar']}")
    return "\n".join([*lines, *_inbound(record["envoy"]), *(f"  {fault}" for fault in proxy["faults"]), ""])


def _inbound(envoy: Record) -> list[str]:
    if "error" in envoy:
        return [f"Envoy:     cannot be asked: {envoy['error']}"]
    served = [
        f"Envoy:     {port['number']}: {', '.join(port['takes']) or 'not served'}; {port['requests']} requests, "
        f"{port['answered5xx']} answered 5xx, {port['connections']} connections"
        for port in envoy["ports"]
    ]
    held = [
        f"Holds:     {one['name']}, serial {one['serial']}, until {one['validUntil']}" for one in envoy["certificates"]
    ]
    return served + held


def _outbound(envoy: Record) -> list[str]:
    routes = [f"  port {one['table']}: {one['match']} → {one['destination']}" for one in envoy["routes"]]
    routes += [f"  listener {one['listener']}: {one['match']} → {one['destination']}" for one in envoy["connections"]]
    endpoints = [f"  endpoint {one['address']} {one['health']} ({one['cluster']})" for one in envoy["endpoints"]]
    nothing = [] if routes or endpoints else ["  no route and no endpoint"]
    return ["", f"Envoy of {envoy['node']}:", *routes, *endpoints, *nothing]


def _route(route: Record) -> str:
    count = route["matches"]
    matches = f"{count} match{'es' if count != 1 else ''}" if count else "always"
    targets = ", ".join(f"{one['weight']} % {one['destination']}" for one in route["destinations"])
    name = f" {route['name']}" if route["name"] else ""
    end = "answered by the proxy" if route["of"] == "http" else "closed"
    return f"{route['rule']}{name} ({matches}): {targets or end}"


def _instances(instances: list[Record]) -> str:
    rows = [
        (
            each["id"],
            each["node"],
            each["address"],
            each["health"],
            "yes" if each["proxied"] else "no",
            _labels(each["labels"]),
        )
        for each in instances
    ]
    return table(("INSTANCE", "NODE", "ADDRESS", "HEALTH", "PROXIED", "LABELS"), rows)


def _ports(record: Record) -> str:
    return ", ".join(f"{port['number']} {port['name']}/{port['protocol']}" for port in record["ports"])


def _labels(labels: dict[str, str]) -> str:
    return ",".join(f"{key}={value}" for key, value in labels.items()) or "-"
