"""Where a request goes, said again from the documents alone: Istio's references of both generations, the seeds' tasks.

Plain Python over plain documents (the `spec` of each object as it is written). It shares no code with the agent and is
as simple as can be: the real thing is compared with it.

First generation (RouteRule): the rules of a destination in order of precedence, highest first (0 where none is given;
equal ones by name); the first whose conditions all hold decides; if none does, every instance may answer. Labels choose
the instances that bear all of them. Second (VirtualService, DestinationRule): routes in their order, a route holds if
one of its matches does (all conditions of it), none: 404; an object without a route for the caller, its port and the
mesh says nothing about it; a route whose destinations are not there answers 503. Header names have no case, values do;
the path is compared as it was sent, without its query; of a repeated header one value is enough; of a repeated query
parameter the first counts; withoutHeaders takes an absent header for an empty one; ignoreUriCase is about exact and
prefix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

Document = Mapping[str, Any]


class Request(Struct, frozen=True):
    """A request as an application sends it to a service port."""

    port: int
    host: str
    """The Host header."""
    target: str
    """Path and query."""
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def parts(self) -> Mapping[str, str]:
        """Return what rules call pseudo headers."""
        return {"uri": self.path, "method": self.method, "scheme": "http", "authority": self.host}

    @property
    def path(self) -> str:
        """Return the path without its query."""
        return self.target.partition("?")[0]

    def header(self, name: str) -> tuple[str, ...]:
        """Return the values of a header."""
        return tuple(value for key, value in self.headers if key.lower() == name.lower())

    def parameter(self, name: str) -> tuple[str, ...]:
        """Return the value of a query parameter."""
        for pair in self.target.partition("?")[2].split("&"):
            key, _, value = pair.partition("=")
            if pair and key == name:
                return (value,)
        return ()


class Outcome(Struct, frozen=True):
    """What becomes of a request: the addresses that may answer it, or the status it gets."""

    status: int = 200
    instances: frozenset[str] = frozenset()
    location: str = ""


class Instance(Struct, frozen=True):
    """One place where a service runs."""

    address: str
    labels: Mapping[str, str]


class Service(Struct, frozen=True):
    """A service of the catalog."""

    name: str
    namespace: str
    ports: tuple[int, ...]
    instances: tuple[Instance, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Return what rules and callers of the namespace `default` may call it."""
        full = f"{self.name}.{self.namespace}.svc.cluster.local"
        return (*((self.name,) if self.namespace == "default" else ()), f"{self.name}.{self.namespace}", full)


class World(Struct, frozen=True):
    """All that decides: services, the caller, the objects."""

    services: tuple[Service, ...]
    caller: str
    """Service of the namespace `default`."""
    caller_labels: Mapping[str, str]
    documents: tuple[Document, ...]

    def service(self, name: str) -> Service | None:
        """Return the service of that name, None if there is none."""
        return next((service for service in self.services if name in service.names), None)

    def of_kind(self, kind: str) -> list[Document]:
        """Return the objects of a kind, by name."""
        found = (document for document in self.documents if document["kind"] == kind)
        return sorted(found, key=lambda document: str(document["metadata"]["name"]))

    def outcome(self, request: Request) -> Outcome:
        """Return what becomes of a request."""
        service = self.service(request.host.rpartition(":")[0].lower() if ":" in request.host else request.host.lower())
        if service is None or request.port not in service.ports:
            return Outcome(502)
        for document in self.of_kind("VirtualService"):
            if any(self.service(host) is service for host in document["spec"]["hosts"]) and self._leads_anywhere(
                document
            ):
                return self._by_virtual_service(service, document["spec"], request)
        return self._by_route_rules(service, request)

    # The first generation.

    def _by_route_rules(self, service: Service, request: Request) -> Outcome:
        rules = [rule for rule in self.of_kind("RouteRule") if self._named(rule["spec"]["destination"]) is service]
        for rule in sorted(rules, key=lambda rule: -int(rule["spec"].get("precedence", 0))):
            spec = rule["spec"]
            if not self._rule_holds(spec.get("match") or {}, request):
                continue
            if "redirect" in spec:
                return Outcome(301, location=_location(spec["redirect"], request))
            return self._by_routes(spec.get("route") or [{}], service)
        return _any_of(service.instances)

    def _rule_holds(self, match: Mapping[str, Any], request: Request) -> bool:
        source = match.get("source")
        if source is not None:
            own = source.get("name") == self.caller and source.get("namespace", "default") == "default"
            if not own or not _selects(source.get("labels") or {}, self.caller_labels):
                return False
        pseudo = {name: (value,) for name, value in request.parts.items()}
        headers = (match.get("request") or {}).get("headers") or {}
        return all(_holds(wanted, pseudo.get(name, request.header(name))) for name, wanted in headers.items())

    def _by_routes(self, routes: Sequence[Mapping[str, Any]], service: Service) -> Outcome:
        (route,) = [each for each in routes if len(routes) == 1 or each.get("weight")]
        target = self._named(route["destination"]) if "destination" in route else service
        assert target is not None
        return _any_of(each for each in target.instances if _selects(route.get("labels") or {}, each.labels))

    def _named(self, reference: Mapping[str, Any]) -> Service | None:
        if "service" in reference:
            return self.service(reference["service"])
        return self.service(f"{reference['name']}.{reference.get('namespace', 'default')}")

    # The second generation.

    def _leads_anywhere(self, document: Document) -> bool:
        """An object none of whose routes within the mesh leads anywhere is left out, also one that has none there."""
        routes = [
            route
            for route in document["spec"]["http"]
            if any("mesh" in match.get("gateways", ["mesh"]) for match in route.get("match") or [{}])
        ]
        return any("route" not in route or self._present(route) for route in routes)

    def _present(self, route: Mapping[str, Any]) -> list[tuple[Service, Mapping[str, str], int | None]]:
        """Return the destinations of a route that exist and have a share."""
        found = []
        for target in route["route"]:
            destination = target["destination"]
            service = self.service(destination["host"])
            labels = self._subset(service, destination.get("subset")) if service else None
            share = target.get("weight", 0) or len(route["route"]) == 1
            if service is not None and labels is not None and share:
                found.append((service, labels, (destination.get("port") or {}).get("number")))
        return found

    def _subset(self, service: Service, name: str | None) -> Mapping[str, str] | None:
        """Return the labels of a subset, None if no DestinationRule declares it."""
        if name is None:
            return {}
        for document in self.of_kind("DestinationRule"):
            if self.service(document["spec"]["host"]) is service:
                for subset in document["spec"].get("subsets") or ():
                    if subset["name"] == name:
                        labels: Mapping[str, str] = subset.get("labels") or {}
                        return labels
        return None

    def _by_virtual_service(self, service: Service, spec: Mapping[str, Any], request: Request) -> Outcome:
        routes = [(route, route.get("match") or [{}]) for route in spec["http"]]
        if not any(self._is_for_caller(match, request.port) for _, matches in routes for match in matches):
            return _any_of(service.instances)
        for route, matches in routes:
            if not any(self._match_holds(match, request) for match in matches):
                continue
            if "redirect" in route:
                return Outcome(
                    route["redirect"].get("redirectCode", 301), location=_location(route["redirect"], request)
                )
            if "directResponse" in route:
                return Outcome(route["directResponse"]["status"])
            for service, labels, port in self._present(route):
                reached = port or (request.port if len(service.ports) > 1 else service.ports[0])
                if reached in service.ports:
                    return _any_of(each for each in service.instances if _selects(labels, each.labels))
            return Outcome(503)
        return Outcome(404)

    def _is_for_caller(self, match: Mapping[str, Any], port: int) -> bool:
        return (
            match.get("port", port) == port
            and match.get("sourceNamespace", "default") == "default"
            and _selects(match.get("sourceLabels") or {}, self.caller_labels)
            and "mesh" in match.get("gateways", ["mesh"])
        )

    def _match_holds(self, match: Mapping[str, Any], request: Request) -> bool:
        if not self._is_for_caller(match, request.port):
            return False
        if "uri" in match and not _uri_holds(match["uri"], request.path, bool(match.get("ignoreUriCase"))):
            return False
        headers, without = match.get("headers") or {}, match.get("withoutHeaders") or {}
        return (
            all(
                _holds(match[name], (request.parts[name],))
                for name in ("method", "scheme", "authority")
                if name in match
            )
            and all(_holds(wanted, request.header(name)) for name, wanted in headers.items())
            and not any(
                _holds(wanted, request.header(name) or (("",) if wanted else ())) for name, wanted in without.items()
            )
            and all(
                _holds(wanted, request.parameter(name)) for name, wanted in (match.get("queryParams") or {}).items()
            )
        )


def _any_of(instances: Iterable[Instance]) -> Outcome:
    found = frozenset(instance.address for instance in instances)
    return Outcome(200, found) if found else Outcome(503)


def _selects(wanted: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in wanted.items())


def _holds(wanted: Mapping[str, str] | str, values: Iterable[str]) -> bool:
    """Tell whether one of the values is as wanted; nothing wanted at all asks whether there is one."""
    return any(_is(wanted, value) for value in values)


def _is(wanted: Mapping[str, str] | str, value: str) -> bool:
    """Compare a value; plain text is an exact comparison."""
    if isinstance(wanted, str):
        return value == wanted
    if "exact" in wanted:
        return value == wanted["exact"]
    if "prefix" in wanted:
        return value.startswith(wanted["prefix"])
    return "regex" not in wanted or re.fullmatch(wanted["regex"], value) is not None


def _uri_holds(wanted: Mapping[str, str], path: str, ignore_case: bool) -> bool:
    if ignore_case and "regex" not in wanted:
        return _is({kind: value.lower() for kind, value in wanted.items()}, path.lower())
    return _is(wanted, path)


def _location(redirect: Mapping[str, Any], request: Request) -> str:
    """Return where a redirection leads: its own path or the request's, with the request's query."""
    query = request.target.partition("?")[1:]
    return f"http://{redirect.get('authority', request.host)}{redirect.get('uri', request.path)}{''.join(query)}"
