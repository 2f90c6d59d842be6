"""What the client says of servers that are not what it was told."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc
import pytest

from xds.client import Identity, fetch_resources
from xds.errors import UnreachableError
from xds.gen.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource
from xds.names import NodeId
from xds.resources import ResourceType

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Context = grpc.aio.ServicerContext[DeltaDiscoveryRequest, DeltaDiscoveryResponse]
    Handler = Callable[[AsyncIterator[DeltaDiscoveryRequest], Context], Awaitable[None]]

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
WHO = Identity(node_id=NodeId("web-0.shop"))
CLUSTER = ResourceType.CLUSTER.type_url


async def end_at_once(requests: AsyncIterator[DeltaDiscoveryRequest], context: Context) -> None:
    del context
    await anext(requests)


async def break_off(requests: AsyncIterator[DeltaDiscoveryRequest], context: Context) -> None:
    await anext(requests)
    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many")


async def send_damage(requests: AsyncIterator[DeltaDiscoveryRequest], context: Context) -> None:
    await anext(requests)
    await context.write(DeltaDiscoveryResponse(type_url=CLUSTER, resources=[b"\xff\xff"]))
    await anext(requests)


async def answer_half(requests: AsyncIterator[DeltaDiscoveryRequest], context: Context) -> None:
    """Answer for clusters, and with a type that nobody asked for; never for listeners."""
    await context.write(DeltaDiscoveryResponse(type_url="type.googleapis.com/other", resources=[b""]))
    cluster = Resource(name="c", version="1").SerializeToString()
    await context.write(DeltaDiscoveryResponse(type_url=CLUSTER, resources=[cluster]))
    async for _ in requests:
        pass


@asynccontextmanager
async def serving(handler: Handler | None) -> AsyncIterator[str]:
    server = grpc.aio.server()
    if handler is not None:
        method = grpc.stream_stream_rpc_method_handler(
            handler,
            request_deserializer=DeltaDiscoveryRequest.FromString,
            response_serializer=DeltaDiscoveryResponse.SerializeToString,
        )
        methods = {"DeltaAggregatedResources": method}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@pytest.mark.parametrize(
    ("handler", "within", "message"),
    [
        pytest.param(None, 10, "does not serve ADS", id="no xDS server"),
        pytest.param(end_at_once, 10, "ended the stream", id="one that ends the stream"),
        pytest.param(break_off, 10, "RESOURCE_EXHAUSTED: too many", id="one that is overloaded"),
        pytest.param(send_damage, 10, "does not speak xDS", id="one that sends damage"),
        pytest.param(answer_half, 0.5, "missing are listener$", id="one that answers in part"),
    ],
)
async def test_a_strange_server_is_described(handler: Handler | None, within: float, message: str) -> None:
    async with serving(handler) as address:
        with pytest.raises(UnreachableError, match=message):
            await fetch_resources(address, WHO, within=within)
