"""A gRPC application and a client of it, without generated code: messages are bytes (JSON)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import grpc

SERVICE = "shop.Cart"
CALL_SECONDS = 20.0


class Mood:
    """What a gRPC application says of its health."""

    def __init__(self) -> None:
        self.is_serving = True


@contextmanager
def grpc_application(name: str, address: str, port: int) -> Iterator[Mood]:
    """Serve shop.Cart until the block ends: Get, Fail (unary), Count (a stream of answers), Echo (both ways).

    And grpc.health.v1.Health, for that service alone.
    """
    mood = Mood()

    def get(request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("x-trailer", name),))
        headers = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        return json.dumps({"name": name, "request": request.decode(), "headers": headers}).encode()

    def fail(request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("x-trailer", name),))
        context.abort(grpc.StatusCode.NOT_FOUND, f"no {request.decode()} here")
        raise AssertionError("abort raises")

    def count(request: bytes, context: Any) -> Iterator[bytes]:
        for number in range(int(request)):
            yield f"{name}-{number}".encode()

    def echo(requests: Iterable[bytes], context: Any) -> Iterator[bytes]:
        for request in requests:
            yield name.encode() + b":" + request

    def health(request: bytes, context: Any) -> bytes:
        # HealthCheckRequest{service = 1}, HealthCheckResponse{status = 1: SERVING 1, NOT_SERVING 2}
        assert request == bytes([0x0A, len(SERVICE)]) + SERVICE.encode()
        return bytes([0x08, 1 if mood.is_serving else 2])

    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    methods = {
        "Get": grpc.unary_unary_rpc_method_handler(get),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
        "Count": grpc.unary_stream_rpc_method_handler(count),
        "Echo": grpc.stream_stream_rpc_method_handler(echo),
    }
    check = {"Check": grpc.unary_unary_rpc_method_handler(health)}
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(SERVICE, methods),
            grpc.method_handlers_generic_handler("grpc.health.v1.Health", check),
        )
    )
    assert server.add_insecure_port(f"{address}:{port}") == port
    server.start()
    try:
        yield mood
    finally:
        server.stop(0).wait()


class GrpcClient:
    """Calls of shop.Cart over one channel."""

    def __init__(self, address: str, port: int, authority: str) -> None:
        options = [("grpc.default_authority", authority), ("grpc.enable_retries", 0)]
        self._channel = grpc.insecure_channel(f"{address}:{port}", options=options)

    def get(self, request: str = "", **metadata: str) -> dict[str, Any]:
        """Call Get; underscores in metadata keys stand for dashes. Raises grpc.RpcError."""
        answer, _ = self._unary("Get").with_call(request.encode(), CALL_SECONDS, _metadata(metadata))
        found: dict[str, Any] = json.loads(answer)
        return found

    def trailers(self) -> dict[str, str]:
        """Call Get and return its trailers."""
        _, call = self._unary("Get").with_call(b"", CALL_SECONDS)
        return {pair.key: pair.value for pair in call.trailing_metadata()}

    def error(self, method: str, request: str = "", **metadata: str) -> Any:
        """Call a method that must fail; returns the grpc.RpcError, which is the call too."""
        try:
            self._unary(method)(request.encode(), CALL_SECONDS, _metadata(metadata))
        except grpc.RpcError as error:
            return error
        raise AssertionError(f"{method} did not fail")

    def count(self, number: int, **metadata: str) -> list[str]:
        """Return all answers of Count."""
        stream = self._channel.unary_stream(f"/{SERVICE}/Count")
        return [answer.decode() for answer in stream(str(number).encode(), CALL_SECONDS, _metadata(metadata))]

    def ping_pong(self, rounds: int) -> list[str]:
        """Send a message of Echo only when the answer to the one before it has come; returns the answers."""
        waiting: SimpleQueue[bytes | None] = SimpleQueue()
        call = self._channel.stream_stream(f"/{SERVICE}/Echo")(iter(waiting.get, None), CALL_SECONDS)
        answers = []
        for number in range(rounds):
            waiting.put(str(number).encode())
            answers.append(next(call).decode())
        waiting.put(None)
        assert list(call) == []
        return answers

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _unary(self, method: str) -> Any:
        return self._channel.unary_unary(f"/{SERVICE}/{method}")


def _metadata(given: dict[str, str]) -> list[tuple[str, str]]:
    return [(key.replace("_", "-"), value) for key, value in given.items()]
