"""Outcomes of calls as gRPC statuses with one line, as lines of the audit log and as metrics. Decides nothing.

Whatever goes wrong, the caller gets a status and one line; what is ours to know stays in the log.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

import grpc

from node_ca.audit import audit
from node_ca.errors import EntryFault, InventoryError, Refusal, RefusalKind, SigningFault
from node_ca.issuer import Issued
from node_ca.jwt_issuer import JwtSvid
from node_ca.metrics import Metrics
from node_ca.proto.clock import CLOCK

_LOG = logging.getLogger("hostmesh.ca")
_STATUS = {
    RefusalKind.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    RefusalKind.PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    RefusalKind.INVALID_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
    RefusalKind.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    RefusalKind.RESOURCE_EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    RefusalKind.FAILED_PRECONDITION: grpc.StatusCode.FAILED_PRECONDITION,
    RefusalKind.UNIMPLEMENTED: grpc.StatusCode.UNIMPLEMENTED,
}


class Outcomes:
    """Turns what the CA's parts return and raise into answers."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    @asynccontextmanager
    async def of(self, context: grpc.aio.ServicerContext, call: str) -> AsyncIterator[None]:
        """Answer whatever the body raises on purpose."""
        try:
            yield
        except Refusal as error:
            await self._refuse(context, call, _STATUS[error.kind], str(error))
        except (InventoryError, EntryFault) as error:
            _LOG.error("%s", error)
            what = "record it" if isinstance(error, InventoryError) else "find out who you are"
            await self._refuse(
                context, call, grpc.StatusCode.UNAVAILABLE, f"the CA cannot {what} now; nothing was done"
            )
        except SigningFault as error:
            _LOG.critical("%s", error)
            await self._refuse(context, call, grpc.StatusCode.INTERNAL, "the CA's own check failed; nothing was issued")

    def issued(self, issued: Issued, context: grpc.aio.ServicerContext) -> Issued:
        """Write down an issue; return it."""
        record = issued.record
        context.set_trailing_metadata(((CLOCK, f"{time.time():.3f}"),))
        self._metrics.issued(record.issued_by)
        audit(
            "issued late" if record.issued_by.startswith("expired:") else "issued",
            identity=record.name,
            serial=record.serial,
            by=record.issued_by,
            peer=context.peer(),
            notAfter=record.not_after,
        )
        return issued

    def issued_jwt(self, svid: JwtSvid, context: grpc.aio.ServicerContext) -> None:
        """Write down a token, without what makes it one."""
        context.set_trailing_metadata(((CLOCK, f"{time.time():.3f}"),))
        self._metrics.issued_jwt()
        audit(
            "jwt issued",
            identity=str(svid.identity),
            id=svid.id,
            audience=" ".join(svid.audience),
            by=svid.by,
            peer=context.peer(),
            expiresAt=svid.expires_at,
        )

    def revoked(self, number: int) -> None:
        """Count revoked certificates."""
        self._metrics.revoked(number)

    async def _refuse(
        self, context: grpc.aio.ServicerContext, call: str, status: grpc.StatusCode, reason: str
    ) -> NoReturn:
        self._metrics.refused(call, status.name)
        audit("refused", call=call, peer=context.peer(), status=status.name, reason=reason)
        await context.abort(status, reason)
        raise AssertionError("abort() always raises")
