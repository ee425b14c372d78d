"""What a hostmesh-ca stands: callers who say nothing, and too many calls."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from agent.adapters.identity import CaClient, new_key
from agent.mesh.service import Identity
from node_ca.door import MAX_STREAMS_EACH
from node_ca.proto import ca_pb2, ca_pb2_grpc
from tests.integration.ca_process import CaProcess
from tests.waiting import eventually

REVIEWS = Identity("default", "reviews")
Code = grpc.StatusCode
_ENROL = "/hostmesh.ca.v1.Enrolment/Enrol"
_OWN = (("grpc.use_local_subchannel_pool", 1),)


def channel(ca: CaProcess) -> Any:
    credentials = grpc.ssl_channel_credentials(ca.root_path.read_bytes())
    return grpc.aio.secure_channel(f"127.0.0.1:{ca.enrolment_port}", credentials, options=_OWN)


async def code_of(call: Any) -> grpc.StatusCode:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return Code.OK


async def test_callers_who_say_nothing_are_given_up_on_and_hold_up_nobody(tmp_path: Path) -> None:
    many = {"perSecond": 10_000, "burst": 10_000}
    with CaProcess(tmp_path / "ca", limits={"perCaller": many}) as ca, ExitStack() as stack:
        for _ in range(300):  # no TLS either
            stack.enter_context(socket.create_connection(("127.0.0.1", ca.enrolment_port)))
        channels = [channel(ca) for _ in range(10)]
        silent = [each.stream_unary(_ENROL)() for each in channels for _ in range(90)]
        await asyncio.gather(*(call.wait_for_connection() for call in silent))
        client = CaClient("127.0.0.1", ca.enrolment_port, ca.renewal_port, timeout=30)
        issued = await client.enrol(REVIEWS, new_key(), ca.token())
        await client.renew(REVIEWS, new_key(), issued.certificate, issued.trust_bundle_pem)
        codes = await asyncio.wait_for(asyncio.gather(*(code_of(call) for call in silent)), 60)
        assert set(codes) == {Code.DEADLINE_EXCEEDED}
        await asyncio.gather(*(each.close() for each in channels))
        lines = [line for line in ca.log() if line.get("status") == "DEADLINE_EXCEEDED"]
        assert len(lines) < 30, "a flood of calls is not one of lines"


async def test_one_call_too_many(tmp_path: Path) -> None:
    with CaProcess(tmp_path / "ca", limits={"perCaller": {"perSecond": 5, "burst": 20}}) as ca:
        async with channel(ca) as opened:
            stub = ca_pb2_grpc.BundleStub(opened)
            calls = [code_of(stub.Get(ca_pb2.GetBundleRequest(), timeout=10)) for _ in range(60)]
            codes = await asyncio.gather(*calls)
            assert set(codes) == {Code.OK, Code.RESOURCE_EXHAUSTED}
            assert 20 <= codes.count(Code.OK) <= 40
            await eventually(partial(_served, stub))  # calls are earned again
        ca.token()  # the operator's socket has no limits


async def _served(stub: ca_pb2_grpc.BundleStub) -> bool:
    return await code_of(stub.Get(ca_pb2.GetBundleRequest(), timeout=10)) is Code.OK


async def test_one_caller_may_follow_the_bundle_so_often_and_no_more(tmp_path: Path) -> None:
    many = {"perSecond": 10_000, "burst": 10_000}
    with CaProcess(tmp_path / "ca", limits={"perCaller": many}) as ca:
        channels = [channel(ca) for _ in range(12)]
        request = ca_pb2.WatchBundleRequest()
        calls = [ca_pb2_grpc.BundleStub(each).Watch(request) for each in channels for _ in range(90)]
        codes = await asyncio.gather(*(code_of(call.read()) for call in calls))
        assert codes.count(Code.OK) == MAX_STREAMS_EACH
        # Some may not even come to the CA: gRPC itself bounds what one connection has open.
        assert set(codes) - {Code.UNAVAILABLE, Code.CANCELLED} == {Code.OK, Code.RESOURCE_EXHAUSTED}
        await asyncio.gather(*(each.close() for each in channels))  # and their places are free again, soon
        async with channel(ca) as opened, asyncio.timeout(30):
            while await code_of(ca_pb2_grpc.BundleStub(opened).Watch(request).read()) is not Code.OK:
                pass
        await CaClient("127.0.0.1", ca.enrolment_port, ca.renewal_port, timeout=30).enrol(
            REVIEWS, new_key(), ca.token()
        )
