"""The policies of `hostmesh consul-policy` in a real Consul that denies by default: what they allow, and no more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from click.testing import CliRunner

from agent.cli.main import cli
from tests.integration.consul_process import ConsulProcess
from tests.integration.operator_mesh import DENYING, ROOT, token

SERVICE = "/v1/agent/service/register"
NODE = "/v1/catalog/register"
RULE = "hostmesh/config/shop/route-rule/x"
OTHER_RULE = "hostmesh/config/bank/route-rule/x"

ROLES = {
    "agent": ("agent", "--node", "web-1", "--service", "reviews"),
    "ca": ("ca",),
    "viewer": ("viewer",),
    "operator": ("operator", "--namespace", "shop"),
    "prying operator": ("operator", "--namespace", "shop", "--proxies"),
    "administrator": ("administrator",),
}
MAY_WRITE = {
    RULE: {"operator", "prying operator", "administrator"},
    OTHER_RULE: {"administrator"},
    "hostmesh/config/shopping/route-rule/x": {"administrator"},
    "hostmesh/mesh": {"administrator"},
    "hostmesh/status/web-1": {"agent"},
    "hostmesh/status/web-2": set(),
    "hostmesh/tickets/web-1/x": {"agent", "prying operator", "administrator"},
    "hostmesh/tickets/web-2/x": {"prying operator", "administrator"},
    "hostmesh/ca/tokens/x": {"ca"},
    "something/else": set(),
}
EVERYBODY = set(ROLES)
MAY_READ = {
    RULE: EVERYBODY - {"ca"},
    OTHER_RULE: EVERYBODY - {"ca"},
    "hostmesh/mesh": EVERYBODY - {"ca"},
    "hostmesh/status/web-2": EVERYBODY - {"ca", "agent"},
    "hostmesh/tickets/web-2/x": {"prying operator", "administrator"},
    "hostmesh/ca/tokens/x": {"ca"},
    "something/else": set(),
}
MAY_REGISTER = {"reviews": {"agent", "administrator"}, "ratings": {"administrator"}}


def policy(*arguments: str) -> str:
    result = CliRunner().invoke(cli, ["consul-policy", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


@asynccontextmanager
async def consul_with_roles() -> AsyncIterator[tuple[ConsulProcess, dict[str, str]]]:
    async with ConsulProcess(settings=DENYING) as consul:
        yield consul, {role: await token(consul, policy(*arguments)) for role, arguments in ROLES.items()}


async def status(consul: ConsulProcess, secret: str, method: str, path: str, body: object = None) -> int:
    headers = {"X-Consul-Token": secret}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.request(method, f"{consul.http_address}{path}", json=body) as answer,
    ):
        return answer.status


async def test_each_role_may_do_its_work_and_nothing_else() -> None:
    async with consul_with_roles() as (consul, tokens):
        for key in {*MAY_WRITE, *MAY_READ}:
            assert await status(consul, ROOT, "PUT", f"/v1/kv/{key}", {}) == 200
        for role, secret in tokens.items():
            allowed = {key for key in MAY_WRITE if await status(consul, secret, "PUT", f"/v1/kv/{key}", {}) == 200}
            assert allowed == {key for key, roles in MAY_WRITE.items() if role in roles}, role
            readable = {key for key in MAY_READ if await status(consul, secret, "GET", f"/v1/kv/{key}") == 200}
            assert readable == {key for key, roles in MAY_READ.items() if role in roles}, role
            for service, roles in MAY_REGISTER.items():
                body = {"Node": "hostmesh-external-1", "Address": "10.0.0.1", "Service": {"Service": service}}
                local = {"Name": service, "Port": 1}
                may = await status(consul, secret, "PUT", SERVICE, local) == 200
                assert may == (role in roles), (role, service)
                outside = await status(consul, secret, "PUT", NODE, body) == 200
                assert outside == (role == "administrator"), (role, service)


@pytest.mark.parametrize(
    "arguments",
    [
        ("agent", "--node", 'x" { policy = "write" } key_prefix "'),
        ("agent", "--node", "web-1", "--service", "a\nb"),
        ("agent", "--node", ""),
        ("operator",),
        ("operator", "--namespace", "a/b"),
    ],
)
def test_what_is_not_a_name_makes_no_policy(arguments: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, ["consul-policy", *arguments])
    assert result.exit_code != 0
    assert "policy =" not in result.stdout.replace("policy = \\", "")
