"""Which services and callers a rule is for, on real traffic: wildcard hosts, exportTo."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.integration.rendered_mesh import Client, http_application, loopback_network, rendered_envoy
from tests.ports import free_port

RULES = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: all, namespace: shop}
spec:
  hosts: ["*.svc.cluster.local"]
  http: [{headers: {response: {set: {x-rule: all}}}, route: [{destination: {host: stock}}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: team, namespace: team}
spec:
  hosts: ["*.team.svc.cluster.local"]
  http: [{headers: {response: {set: {x-rule: team}}}, route: [{destination: {host: prices}}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: one, namespace: team}
spec:
  hosts: [rates]
  exportTo: [.]
  http: [{headers: {response: {set: {x-rule: one}}}, route: [{destination: {host: rates}}]}]
"""


@pytest.fixture(scope="module")
def callers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Client]]:
    """Envoys of a caller in the namespace shop and of one in team."""
    net = loopback_network()
    port = free_port(f"{net}.11")
    services = {"stock": "shop", "prices": "team", "rates": "team"}
    homes = {name: f"{net}.{number}" for number, name in enumerate(services, 11)}
    found: dict[str, Client] = {}
    with ExitStack() as stack:
        for name, home in homes.items():
            stack.enter_context(http_application(name, home, port))
        for number, namespace in enumerate(("shop", "team"), 1):
            address = f"{net}.{number}"
            catalog = f"mesh: {{mtls: disabled}}\nnodes: [{{name: page, address: {address}}}]\nservices:\n"
            catalog += f"- {{name: page, namespace: {namespace}, ports: [{{name: http, port: 1}}],"
            catalog += " instances: [{node: page}]}\n"
            for name, whose in services.items():
                instances = f"[{{node: page, address: {homes[name]}}}]"
                ports = f"[{{name: http, port: {port}}}]"
                catalog += f"- {{name: {name}, namespace: {whose}, ports: {ports}, instances: {instances}}}\n"
            folder = tmp_path_factory.mktemp(namespace)
            stack.enter_context(rendered_envoy(folder, "page", catalog, RULES, (address, port), bind_outbound=address))
            found[namespace] = Client(address, port)
            stack.callback(found[namespace].close)
        yield found


@pytest.mark.parametrize(
    ("caller", "host", "rule", "answers"),
    [
        ("shop", "stock", "all", "stock"),
        ("shop", "prices.team", "team", "prices"),
        ("shop", "rates.team", "team", "prices"),
        ("team", "rates", "one", "rates"),
        ("team", "prices", "team", "prices"),
        ("team", "stock.shop.svc.cluster.local", "all", "stock"),
    ],
)
def test_the_most_specific_rule_that_the_caller_sees_counts(
    callers: dict[str, Client], caller: str, host: str, rule: str, answers: str
) -> None:
    answer = callers[caller].get(host)
    assert (answer.status, answer.headers.get("x-rule"), answer.name) == (200, rule, answers)
