"""Join tokens for the lab's hosts, from hostmesh-ca's administration socket."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from agent.errors import HostError


def create_tokens(socket: Path, identities: Iterable[str], timeout: float = 10.0) -> list[tuple[str, str]]:
    """Return a new single-use token for each identity (`ns/NAMESPACE/sa/ACCOUNT`), in pairs; raises HostError."""
    import grpc  # 0.1 s to import: only where a lab comes up

    from node_ca.proto import ca_pb2, ca_pb2_grpc

    with grpc.insecure_channel(f"unix:{socket}") as channel:
        stub = ca_pb2_grpc.AdministrationStub(channel)
        try:
            return [
                (
                    identity,
                    stub.CreateToken(ca_pb2.CreateTokenRequest(identity=identity, uses=1), timeout=timeout).token,
                )
                for identity in identities
            ]
        except grpc.RpcError as error:
            raise HostError(f"lab: hostmesh-ca gives no join token: {error.details()}") from error
