"""EgressRules and ServiceEntries to services of the mesh that the catalog doesn't have. Pure.

WorkloadEntries are endpoints of the ServiceEntries that select them. One service for each host that a rule names; rules
that declare the same host in the same way add up their ports.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import structs

from agent.api.envelope import Document
from agent.api.lowering.catalog import Catalog
from agent.api.lowering.exported import exported_to
from agent.mesh.routes import Fault
from agent.mesh.service import (
    Instance,
    Labels,
    Locality,
    Outside,
    Port,
    Protocol,
    Resolution,
    Service,
    ServiceKey,
    labels_of,
    selects,
)

_RESOLUTIONS = {
    "NONE": Resolution.ORIGINAL,
    "STATIC": Resolution.STATIC,
    "DNS": Resolution.DNS,
    "DNS_ROUND_ROBIN": Resolution.DNS_ROUND_ROBIN,
    "DYNAMIC_DNS": Resolution.DYNAMIC,
}
_TLS_MODE_LABEL = "security.istio.io/tlsMode"
_TLS = "https"
"""The protocol of an EgressRule's port that is called with http://, and goes on with TLS."""


def declared_services(document: Document, workload_entries: Iterable[Document] = ()) -> tuple[Service, ...]:
    """Return the services that an EgressRule or a ServiceEntry declares; the latter may select WorkloadEntries."""
    if document.kind == "EgressRule":
        return _of_egress_rule(document)
    return _of_service_entry(document, workload_entries)


def outside_services(
    declared: Iterable[tuple[Document, tuple[Service, ...]]], catalog: Catalog
) -> tuple[dict[ServiceKey, Service], list[Fault]]:
    """Return the services of all rules, which come in order of namespace and name.

    A host of the catalog stays what the catalog says; of two rules that contradict each other the first one counts.
    """
    found: dict[ServiceKey, Service] = {}
    faults: list[Fault] = []
    for document, services in declared:
        for service in services:
            if (known := catalog.resolve(service.key.name, document.namespace)) is not None:
                reason = f"not used for {service.key}: that is the service {known} of the catalog"
                faults.append(Fault(str(document.ref), reason))
                continue
            first = found.get(service.key)
            merged = service if first is None else _merged(first, service)
            if isinstance(merged, str):
                faults.append(Fault(str(document.ref), merged))
            else:
                found[service.key] = merged
    return found, faults


def _merged(first: Service, other: Service) -> Service | str:
    """Return one service of two rules', or why the other one is not used."""
    one, two = first.outside, other.outside
    assert one is not None
    assert two is not None
    if structs.replace(two, origin=one.origin, tls_ports=one.tls_ports, namespaces=one.namespaces) != one:
        return f"not used for {first.key}: {one.origin} declares it otherwise"
    for port in other.ports:
        known = first.port(port.number)
        same = known is None or known.protocol is port.protocol
        if not same or (known and (port.number in one.tls_ports) != (port.number in two.tls_ports)):
            return f"not used for {first.key}: {one.origin} says otherwise what port {port.number} speaks"
    ports = {port.number: port for port in (*other.ports, *first.ports)}
    outside = structs.replace(
        one,
        tls_ports=tuple(sorted({*one.tls_ports, *two.tls_ports})),
        namespaces=tuple(sorted({*one.namespaces, *two.namespaces})),
    )
    return structs.replace(first, ports=tuple(sorted(ports.values())), outside=outside)


def _of_egress_rule(document: Document) -> tuple[Service, ...]:
    key = ServiceKey("", document.spec["destination"]["service"].rstrip(".").lower())
    protocols = {port["port"]: port["protocol"].lower() for port in document.spec["ports"]}
    tls_ports = tuple(sorted(number for number, protocol in protocols.items() if protocol == _TLS))
    if "/" in key.name:
        ports = [Port(number, "tcp", Protocol.TCP) for number in protocols]
        addresses: tuple[str, ...] = (key.name,)
        tls_ports = ()
    else:
        spoken = {number: "http" if protocol == _TLS else protocol for number, protocol in protocols.items()}
        ports = [Port(number, name, Protocol(name)) for number, name in spoken.items()]
        addresses = ()
    ports.sort()
    outside = Outside(
        str(document.ref),
        Resolution.ORIGINAL,
        addresses=addresses,
        tls_ports=tls_ports,
        namespaces=(document.namespace,),
    )
    if key.is_one_host:
        outside = structs.replace(outside, resolution=Resolution.DNS, endpoints=(_itself(key),))
    return (Service(key, tuple(ports), (), outside),)


def _of_service_entry(document: Document, workload_entries: Iterable[Document]) -> tuple[Service, ...]:
    """Return a service for each host; a WorkloadEntry is an endpoint of entries in its namespace that select it."""
    spec = document.spec
    hosts = dict.fromkeys(host.rstrip(".").lower() for host in spec["hosts"])
    endpoints = {f"{index:04d}": endpoint for index, endpoint in enumerate(spec.get("endpoints") or ())}
    selector = _selector(document)
    for entry in workload_entries if selector is not None else ():
        if entry.namespace == document.namespace and selects(selector or (), labels_of(entry.spec.get("labels") or {})):
            endpoints[entry.name] = entry.spec
    return tuple(_entry_service(document, ServiceKey("", host), selector, endpoints) for host in hosts)


def _entry_service(
    document: Document, key: ServiceKey, selector: Labels | None, endpoints: Mapping[str, Mapping[str, Any]]
) -> Service:
    spec = document.spec
    ports = tuple(sorted(_port(port) for port in spec.get("ports") or ()))
    targets = {port["number"]: port["targetPort"] for port in spec.get("ports") or () if port.get("targetPort")}
    addresses = tuple(spec.get("addresses") or ())
    resolution = _resolution(spec, key)
    in_mesh = spec.get("location") == "MESH_INTERNAL"
    given = tuple(
        _endpoint(f"{key}-{name}", document, key, endpoint, ports, targets) for name, endpoint in endpoints.items()
    )
    if resolution.asks_dns and not given and selector is None and resolution is not Resolution.DYNAMIC:
        given = (structs.replace(_itself(key), target_ports=tuple(sorted(targets.items()))),)
    outside = Outside(
        str(document.ref),
        resolution,
        given if resolution.asks_dns else (),
        addresses,
        subject_alt_names=tuple(name for name in spec.get("subjectAltNames") or () if name),
        exported_to=exported_to(document),
        namespaces=(document.namespace,),
        selector=selector,
        target_ports=tuple(sorted(targets.items())),
        in_mesh=in_mesh,
    )
    return Service(key, ports, () if resolution.asks_dns else given, outside)


def _selector(document: Document) -> Labels | None:
    selector = document.spec.get("workloadSelector")
    return None if selector is None else labels_of(selector.get("labels") or {})


def _resolution(spec: Mapping[str, Any], key: ServiceKey) -> Resolution:
    resolution = _RESOLUTIONS[spec.get("resolution") or "NONE"]
    if resolution is not Resolution.ORIGINAL:
        return resolution
    if "workloadSelector" in spec:
        return Resolution.STATIC  # there is somewhere to go to
    # The caller was going to the virtual address: where the host really is, only DNS can tell.
    return Resolution.DNS if key.is_one_host and not spec.get("addresses") else resolution


def _itself(key: ServiceKey) -> Instance:
    """Return the endpoint of a service that is found under its own name; it says nothing of ports, as rules add up."""
    return Instance(key.name, key, "", key.name, ())


def _port(port: Mapping[str, Any]) -> Port:
    """Return a port; Istio takes the protocol from `protocol`, else from the name."""
    return Port(port["number"], port["name"], Protocol.from_name(port.get("protocol") or port["name"]))


def _endpoint(
    name: str,
    document: Document,
    key: ServiceKey,
    endpoint: Mapping[str, Any],
    ports: tuple[Port, ...],
    targets: Mapping[int, int],
) -> Instance:
    by_name = endpoint.get("ports") or {}
    own = {**targets, **{port.number: by_name[port.name] for port in ports if port.name in by_name}}
    return Instance(
        id=name,
        service=key,
        node="",
        address=endpoint["address"],
        ports=ports,
        labels=labels_of(endpoint.get("labels") or {}),
        proxied=_serves_mutual_tls(document, endpoint),
        service_account=endpoint.get("serviceAccount") or "default",
        target_ports=tuple(sorted((number, target) for number, target in own.items() if target != number)),
        locality=Locality.from_text(endpoint.get("locality") or ""),
        weight=endpoint.get("weight") or 1,
        namespace=document.namespace,
    )


def _serves_mutual_tls(document: Document, endpoint: Mapping[str, Any]) -> bool:
    """Tell whether an endpoint is called with the mesh's mutual TLS: as its label says, else if it has an account."""
    if document.spec.get("location") != "MESH_INTERNAL":
        return False
    mode = (endpoint.get("labels") or {}).get(_TLS_MODE_LABEL)
    return bool(endpoint.get("serviceAccount")) if mode is None else mode == "istio"
