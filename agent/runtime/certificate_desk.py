"""The agent's certificates on its own socket, for root and the user hostmesh: list, renew now, export with the key.

Answers only what `hostmesh cert` asks; may not be reached from another host.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import msgspec
from aiohttp import web
from msgspec import Struct

from agent.errors import HostmeshError, UserError
from agent.mesh.service import Identity
from agent.mesh.status import CertificateStatus
from agent.runtime.rotator import Rotator

_RENEWAL_SECONDS = 30.0


class ExportedCertificate(Struct, frozen=True, rename="camel"):
    """A certificate with its key, PEM."""

    key: str
    chain: str
    roots: str


class CertificateDesk:
    """Routes under /certificates."""

    def __init__(
        self, rotator: Rotator, listed: Callable[[], tuple[CertificateStatus, ...]], roots: Callable[[], bytes]
    ) -> None:
        self._rotator = rotator
        self._listed = listed
        self._roots = roots

    def routes(self) -> Iterable[web.RouteDef]:
        """Return the routes."""
        return (
            web.get("/certificates", self._list),
            web.post("/certificates/renew", self._renew),
            web.get("/certificates/export", self._export),
        )

    async def _list(self, _request: web.Request) -> web.Response:
        return _json(self._listed())

    async def _renew(self, request: web.Request) -> web.Response:
        """Renew one identity's certificate, or all, and answer when that is done."""
        try:
            wanted = self._wanted(request.query.get("identity", ""))
            async with asyncio.timeout(_RENEWAL_SECONDS):
                await asyncio.gather(*(self._rotator.renew(identity) for identity in wanted))
        except TimeoutError:
            return web.Response(status=504, text=f"no new certificate within {_RENEWAL_SECONDS:g} s\n")
        except HostmeshError as error:
            return web.Response(status=409, text=f"{error}\n")
        return _json([status for status in self._listed() if any(status.identity.endswith(i.path) for i in wanted)])

    async def _export(self, request: web.Request) -> web.Response:
        try:
            wanted = self._wanted(request.query.get("identity", ""))
        except UserError as error:
            return web.Response(status=409, text=f"{error}\n")
        if len(wanted) > 1:
            names = ", ".join(identity.path for identity in wanted)
            return web.Response(status=409, text=f"this host has several identities: name one of {names}\n")
        stored = self._rotator.held()[wanted[0]]
        roots = self._roots() or stored.trust_bundle_pem
        pair = stored.certificate
        return _json(ExportedCertificate(pair.key_pem.decode(), pair.chain_pem.decode(), roots.decode()))

    def _wanted(self, path: str) -> list[Identity]:
        """Return the identities that are meant; raises UserError if this host holds none such."""
        held = sorted(self._rotator.held())
        wanted = [identity for identity in held if not path or identity.path == path]
        if not wanted:
            names = ", ".join(identity.path for identity in held) or "none"
            raise UserError(f"this host holds no certificate {path or 'at all'} (it holds: {names})")
        return wanted


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
