"""The Workload API's server: streams of what a local user may have, again after each change. Decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NoReturn

import grpc

from agent.adapters.clock import Clock
from agent.adapters.workload_api import workload_api_pb2 as pb
from agent.adapters.workload_api.door import Door, uid_of
from agent.adapters.workload_api.jwt_svid import validated
from agent.adapters.workload_api.messages import (
    LocalIdentities,
    bundles_response,
    jwt_bundles_response,
    svid_response,
)
from agent.adapters.workload_api.tokens import Ask, Tokens, TooMany
from agent.errors import CaRefused, CaUnavailable, HostError

_SERVICE = "SpiffeWorkloadAPI"
_HEADER = ("workload.spiffe.io", "true")
"""The standard wants it: a program that is talked into a request by somebody else doesn't send it."""
_MAX_MESSAGE = 64 * 1024
_NO_JWT = "this mesh issues no JWT-SVIDs: hostmesh-ca has no JWT key (ca.yaml: jwt.keyFile); use X.509-SVIDs"

Respond = Callable[[LocalIdentities, int], Any]


class WorkloadApi:
    """Serves on a Unix socket; `offer` replaces what there is."""

    def __init__(self, socket: Path, ask: Ask, clock: Clock) -> None:
        """Take what gets a JWT-SVID from the CA."""
        self._socket = socket
        self._tokens = Tokens(ask, clock.monotonic)
        self._clock = clock
        self._inner = socket.parent / "workload" / "grpc.sock"
        self._known = LocalIdentities()
        self._changed = asyncio.Event()

    @property
    def known(self) -> LocalIdentities:
        """Return what there is."""
        return self._known

    def offer(self, known: LocalIdentities) -> None:
        """Replace what local programs can have; those that listen are told what is new to them."""
        if known != self._known:
            self._known = known
            self._tokens.forget()
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
            "FetchJWTBundles": _stream(
                pb.JWTBundlesRequest, pb.JWTBundlesResponse, self._follow(jwt_bundles_response, needs_jwt=True)
            ),
            "FetchJWTSVID": _single(pb.JWTSVIDRequest, pb.JWTSVIDResponse, self._fetch_jwt),
            "ValidateJWTSVID": _single(pb.ValidateJWTSVIDRequest, pb.ValidateJWTSVIDResponse, self._validate_jwt),
        }

    def _follow(self, respond: Respond, *, needs_jwt: bool = False) -> Callable[[Any, Any], AsyncIterator[Any]]:
        async def follow(_request: Any, context: Any) -> AsyncIterator[Any]:
            await _check_header(context)
            uid, last = uid_of(context.peer()), None
            while True:
                changed = self._changed
                if needs_jwt:
                    await self._check_jwt(context)
                response = respond(self._known, uid) if uid is not None else None
                if response is None:
                    await _abort_unknown(context, uid)
                if response != last:
                    last = response
                    yield response
                await changed.wait()

        return follow

    async def _fetch_jwt(self, request: pb.JWTSVIDRequest, context: Any) -> pb.JWTSVIDResponse:
        """Return a token for each of the user's identities, or for the one that he names."""
        await _check_header(context)
        await self._check_jwt(context)
        if not all(request.audience) or not request.audience:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "audience: say whom the token is for")
        uid = uid_of(context.peer())
        svids = self._known.by_uid.get(uid, ()) if uid is not None else ()
        wanted = [svid.spiffe_id for svid in svids if request.spiffe_id in ("", svid.spiffe_id)]
        if uid is None or not svids:
            await _abort_unknown(context, uid)
        if not wanted:
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED, f"the Unix user {uid} has no identity {request.spiffe_id[:120]!r}"
            )
        try:
            tokens = [await self._tokens.get(uid, name, tuple(request.audience)) for name in wanted]
        except TooMany as error:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        except CaUnavailable as error:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        except CaRefused as error:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        svid_messages = [pb.JWTSVID(spiffe_id=name, svid=token) for name, token in zip(wanted, tokens, strict=True)]
        return pb.JWTSVIDResponse(svids=svid_messages)

    async def _validate_jwt(self, request: pb.ValidateJWTSVIDRequest, context: Any) -> pb.ValidateJWTSVIDResponse:
        """Return whose a token is and its claims; anybody may ask, as the keys are public."""
        await _check_header(context)
        await self._check_jwt(context)
        known = self._known
        if not request.audience:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "audience: say whom the token must be for")
        try:
            claims = validated(request.svid, known.jwks, known.trust_domain, request.audience, self._clock.now())
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"the JWT-SVID is refused: {error}")
        response = pb.ValidateJWTSVIDResponse(spiffe_id=claims["sub"])
        response.claims.update(claims)
        return response

    async def _check_jwt(self, context: Any) -> None:
        if not self._known.jwks or not self._known.trust_domain:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, _NO_JWT)


def _stream(request: Any, response: Any, behaviour: Any) -> Any:
    return grpc.unary_stream_rpc_method_handler(behaviour, request.FromString, response.SerializeToString)


def _single(request: Any, response: Any, behaviour: Any) -> Any:
    return grpc.unary_unary_rpc_method_handler(behaviour, request.FromString, response.SerializeToString)


async def _abort_unknown(context: Any, uid: int | None) -> NoReturn:
    await context.abort(
        grpc.StatusCode.PERMISSION_DENIED,
        f"no identity for the Unix user {uid} (a file in services.d with `user`, and its certificate)",
    )
    raise AssertionError("abort() always raises")


async def _check_header(context: Any) -> None:
    if _HEADER not in ((key, value) for key, value in context.invocation_metadata() or ()):
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the metadata workload.spiffe.io: true is missing")
