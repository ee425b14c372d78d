"""The Workload API's server: streams of what a local user may have, again after each change. Decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc

from agent.adapters.workload_api import workload_api_pb2 as pb
from agent.adapters.workload_api.door import Door, uid_of
from agent.adapters.workload_api.messages import LocalIdentities, bundles_response, svid_response
from agent.errors import HostError

_SERVICE = "SpiffeWorkloadAPI"
_HEADER = ("workload.spiffe.io", "true")
"""The standard wants it: a program that is talked into a request by somebody else doesn't send it."""
_MAX_MESSAGE = 64 * 1024
_NO_JWT = "this mesh issues no JWT-SVIDs: hostmesh-ca has no JWT key (use X.509-SVIDs)"

Respond = Callable[[LocalIdentities, int], Any]


class WorkloadApi:
    """Serves on a Unix socket; `offer` replaces what there is."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._inner = socket.parent / "workload" / "grpc.sock"
        self._known = LocalIdentities()
        self._changed = asyncio.Event()

    def offer(self, known: LocalIdentities) -> None:
        """Replace what local programs can have; those that listen are told what is new to them."""
        if known != self._known:
            self._known = known
            woken, self._changed = self._changed, asyncio.Event()
            woken.set()

    async def run(self) -> None:
        """Serve until cancelled; raises HostError if it can't be listened on."""
        server = grpc.aio.server(options=(("grpc.max_receive_message_length", _MAX_MESSAGE),))
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, self._handlers()),))
        door = Door(self._socket, self._inner)
        try:
            self._inner.parent.mkdir(mode=0o700, exist_ok=True)
            self._inner.parent.chmod(0o700)
            self._inner.unlink(missing_ok=True)
            server.add_insecure_port(f"unix:{self._inner}")
        except (OSError, RuntimeError) as error:
            raise HostError(f"{self._inner}: cannot be listened on: {error}") from error
        try:
            await server.start()
            await door.start()
            await asyncio.Event().wait()
        finally:
            await door.stop()
            await server.stop(None)

    def _handlers(self) -> dict[str, Any]:
        return {
            "FetchX509SVID": _stream(pb.X509SVIDRequest, pb.X509SVIDResponse, self._follow(svid_response)),
            "FetchX509Bundles": _stream(pb.X509BundlesRequest, pb.X509BundlesResponse, self._follow(bundles_response)),
            "FetchJWTSVID": _single(pb.JWTSVIDRequest, pb.JWTSVIDResponse),
            "ValidateJWTSVID": _single(pb.ValidateJWTSVIDRequest, pb.ValidateJWTSVIDResponse),
            "FetchJWTBundles": _stream(pb.JWTBundlesRequest, pb.JWTBundlesResponse, _refuse_stream),
        }

    def _follow(self, respond: Respond) -> Callable[[Any, Any], AsyncIterator[Any]]:
        async def follow(_request: Any, context: Any) -> AsyncIterator[Any]:
            await _check_header(context)
            uid, last = uid_of(context.peer()), None
            while True:
                changed = self._changed
                response = respond(self._known, uid) if uid is not None else None
                if response is None:
                    await context.abort(
                        grpc.StatusCode.PERMISSION_DENIED,
                        f"no identity for the Unix user {uid} (a file in services.d with `user`, and its certificate)",
                    )
                if response != last:
                    last = response
                    yield response
                await changed.wait()

        return follow


def _stream(request: Any, response: Any, behaviour: Any) -> Any:
    return grpc.unary_stream_rpc_method_handler(behaviour, request.FromString, response.SerializeToString)


def _single(request: Any, response: Any) -> Any:
    return grpc.unary_unary_rpc_method_handler(_refuse, request.FromString, response.SerializeToString)


async def _check_header(context: Any) -> None:
    if _HEADER not in ((key, value) for key, value in context.invocation_metadata() or ()):
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the metadata workload.spiffe.io: true is missing")


async def _refuse(_request: Any, context: Any) -> Any:
    await _check_header(context)
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, _NO_JWT)


async def _refuse_stream(request: Any, context: Any) -> AsyncIterator[Any]:
    yield await _refuse(request, context)
