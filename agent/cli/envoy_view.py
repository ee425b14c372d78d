"""Envoy's config dump and cluster list as short tables; pure. Private keys are taken out, whatever Envoy says."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator, Mapping
from typing import Any

from agent.adapters.proxy.redaction import REDACTED, SECRET_FIELDS

Row = tuple[str, ...]


def redact(value: Any) -> Any:
    """Return the data with every private key replaced (Envoy does so itself; this must not depend on it)."""
    if isinstance(value, dict):
        return {key: REDACTED if key in SECRET_FIELDS else redact(item) for key, item in value.items()}
    return [redact(item) for item in value] if isinstance(value, list) else value


def bootstrap(dump: Mapping[str, Any]) -> Any:
    """Return the bootstrap that Envoy was started with."""
    return next((one["bootstrap"] for one in _sections(dump, "BootstrapConfigDump")), {})


def listeners(dump: Mapping[str, Any]) -> list[Any]:
    """Return the active listeners."""
    found = []
    for section in _sections(dump, "ListenersConfigDump"):
        found += [item["listener"] for item in section.get("static_listeners", ())]
        found += [
            item["active_state"]["listener"] for item in section.get("dynamic_listeners", ()) if "active_state" in item
        ]
    return found


def clusters(dump: Mapping[str, Any]) -> list[Any]:
    """Return the active clusters."""
    found = []
    for section in _sections(dump, "ClustersConfigDump"):
        for key in ("static_clusters", "dynamic_active_clusters"):
            found += [item["cluster"] for item in section.get(key, ())]
    return found


def routes(dump: Mapping[str, Any]) -> list[Any]:
    """Return the route tables."""
    found = []
    for section in _sections(dump, "RoutesConfigDump"):
        for key in ("static_route_configs", "dynamic_route_configs"):
            found += [item["route_config"] for item in section.get(key, ())]
    return found


def secrets(dump: Mapping[str, Any]) -> list[Any]:
    """Return the certificates and trust bundles."""
    found = []
    for section in _sections(dump, "SecretsConfigDump"):
        for key in ("static_secrets", "dynamic_active_secrets"):
            found += [item["secret"] for item in section.get(key, ())]
    return found


def _sections(dump: Mapping[str, Any], kind: str) -> Iterator[Mapping[str, Any]]:
    for section in dump.get("configs", ()):
        if section.get("@type", "").endswith(f".{kind}"):
            yield section


def listener_rows(found: list[Any]) -> list[Row]:
    """Return name, address, port and where each listener leads to."""
    rows = []
    for one in found:
        address = one.get("address", {}).get("socket_address", {})
        port = str(address.get("port_value", "-"))
        rows.append((one.get("name", "-"), address.get("address", "-"), port, ", ".join(_leads_to(one)) or "-"))
    return sorted(rows)


def _leads_to(listener: Mapping[str, Any]) -> list[str]:
    targets = []
    default = [listener["default_filter_chain"]] if "default_filter_chain" in listener else []
    chains = [*listener.get("filter_chains", ()), *default]
    for chain in chains:
        for each in chain.get("filters", ()):
            config = each.get("typed_config", {})
            table = config.get("rds", {}).get("route_config_name") or config.get("route_config", {}).get("name")
            if table:
                targets.append(f"route table {table}")
            elif config.get("cluster"):
                targets.append(f"cluster {config['cluster']}")
            elif config.get("weighted_clusters"):
                targets.append("weighted clusters")
    return list(dict.fromkeys(targets))


def connection_rows(found: list[Any]) -> list[Row]:
    """Return listener, condition and destination of connections that pass whole."""
    rows: list[Row] = []
    for one in found:
        for chain in one.get("filter_chains", ()):
            for each in chain.get("filters", ()):
                if each.get("name") == "envoy.filters.network.tcp_proxy":
                    target = _destination({"route": each.get("typed_config", {})})
                    rows.append((one.get("name", "-"), _known_by(chain.get("filter_chain_match", {})), target))
    return rows


def _known_by(match: Mapping[str, Any]) -> str:
    """Return the condition of a filter chain in words."""
    ranges = {
        word: ", ".join(f"{one['address_prefix']}/{one.get('prefix_len', 0)}" for one in match.get(key, ()))
        for word, key in (("to", "prefix_ranges"), ("from", "source_prefix_ranges"))
    }
    parts = [", ".join(match.get("server_names", ())), *(f"{word} {text}" for word, text in ranges.items() if text)]
    return " ".join(part for part in parts if part) or "*"


def cluster_rows(found: list[Any]) -> list[Row]:
    """Return name, type and load balancing of each cluster."""
    return sorted((one["name"], one.get("type", "STATIC"), one.get("lb_policy", "ROUND_ROBIN")) for one in found)


def route_rows(found: list[Any]) -> list[Row]:
    """Return table, virtual host, condition and destination of each route."""
    rows: list[Row] = []
    for table in found:
        for host in table.get("virtual_hosts", ()):
            for route in host.get("routes", ()):
                rows.append((table.get("name", "-"), host.get("name", "-"), _condition(route), _destination(route)))
    return rows


def _condition(route: Mapping[str, Any]) -> str:
    match = route.get("match", {})
    path = match.get("path") or f"{match.get('prefix') or match.get('path_separated_prefix') or ''}*"
    if "safe_regex" in match:
        path = f"~{match['safe_regex'].get('regex', '')}"
    others = [item.get("name", "?") for key in ("headers", "query_parameters") for item in match.get(key, ())]
    return path + (f" [{', '.join(others)}]" if others else "")


def _destination(route: Mapping[str, Any]) -> str:
    if "redirect" in route:
        return "redirect"
    if "direct_response" in route:
        return f"answer {route['direct_response'].get('status', '')}"
    action = route.get("route", {})
    weighted = action.get("weighted_clusters", {}).get("clusters", ())
    return action.get("cluster") or ", ".join(f"{one['name']} ({one.get('weight', 0)})" for one in weighted) or "-"


def endpoint_rows(answer: Mapping[str, Any]) -> list[Row]:
    """Return address, health and cluster of each endpoint, from /clusters."""
    rows = []
    for cluster in answer.get("cluster_statuses", ()):
        for host in cluster.get("host_statuses", ()):
            place = host.get("address", {}).get("socket_address")
            pipe = host.get("address", {}).get("pipe", {}).get("path", "-")
            address = f"{place['address']}:{place['port_value']}" if place else pipe
            rows.append((address, _health(host.get("health_status", {})), cluster["name"]))
    return sorted(rows, key=lambda row: (row[2], row[0]))


def _health(status: Mapping[str, Any]) -> str:
    failed = [key.removeprefix("failed_") for key, value in status.items() if key.startswith("failed_") and value]
    return f"unhealthy ({', '.join(failed)})" if failed else str(status.get("eds_health_status", "HEALTHY")).lower()


def secret_rows(found: list[Any]) -> list[Row]:
    """Return name, kind, serial and end of each certificate; never a key."""
    rows = []
    for one in found:
        for field, kind in (("tls_certificate", "certificate"), ("validation_context", "trust bundle")):
            if field in one:
                inner = one[field].get("certificate_chain") or one[field].get("trusted_ca") or {}
                serial, end = _certificate(inner.get("inline_bytes", ""))
                rows.append((one.get("name", "-"), kind, serial, end))
    return sorted(rows)


def _certificate(encoded: str) -> tuple[str, str]:
    from cryptography import x509

    try:
        first = x509.load_pem_x509_certificates(b64decode(encoded))[0]
    except ValueError:
        return "-", "-"
    return f"{first.serial_number:x}", first.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ")
