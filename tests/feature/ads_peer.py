"""
A real AdsServer on a free loopback port, and a plain gRPC client that says exactly what a test tells it to.

Bodies are bytes on both sides, so that a test can send anything. Every wait has a deadline.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from tests.support.control_plane import PATIENCE
from tests.unit.protocol.values import snapshot
from xds.cache import SnapshotCache, World
from xds.clients import Clients
from xds.gen import discovery_pb2 as pb
from xds.server.ads import MAX_RECEIVE_BYTES, SERVICE, AdsServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from xds.resources import Resource, ResourceType

    Call = grpc.aio.StreamStreamCall[bytes, bytes]

NODE_ID = "web-0.shop"
SOTW, DELTA = "sotw", "delta"
METHODS = {SOTW: f"/{SERVICE}/StreamAggregatedResources", DELTA: f"/{SERVICE}/DeltaAggregatedResources"}
OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
NOW = 1234.5
"""What the server's clock says."""


def world(*resources: Resource) -> World:
    """A world without policies: every pod gets these."""
    return World(candidates=(), snapshots={}, refuse_all=snapshot(*resources))


@dataclass(frozen=True)
class Told:
    """A response: its type, nonce and version, `name=content` of each resource, and the names removed."""

    type_url: str
    nonce: str
    version: str
    resources: tuple[str, ...]
    removed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Peer:
    """One open stream, of either variant."""

    variant: str
    call: Call

    async def send(self, body: bytes) -> None:
        """Send any bytes at all."""
        async with asyncio.timeout(PATIENCE):
            await self.call.write(body)

    async def ask(
        self,
        kind: ResourceType | str,
        *names: str,
        node: str | None = NODE_ID,
        nonce: str = "",
        error: str | None = None,
        initial: Mapping[str, str] | None = None,
    ) -> None:
        """Send a request; `kind` may be any type URL, `node` None leaves the node out."""
        type_url = kind if isinstance(kind, str) else kind.type_url
        await self.send(request(self.variant, type_url, names, node=node, nonce=nonce, error=error, initial=initial))

    async def acknowledge(self, told: Told, *names: str) -> None:
        """ACK a response; `names` are the subscription that a SotW request must repeat."""
        await self.ask(told.type_url, *names, node=None, nonce=told.nonce)

    async def hear(self) -> Told:
        """Return the next response, whole."""
        async with asyncio.timeout(PATIENCE):
            body = await self.call.read()
        assert isinstance(body, bytes), f"the stream ended: {await self.call.code()}"
        return decode(self.variant, body)

    async def end(self) -> tuple[grpc.StatusCode, str]:
        """Wait for the end of the stream and return its status and details."""
        async with asyncio.timeout(PATIENCE):
            return await self.call.code(), await self.call.details() or ""


def request(
    variant: str,
    type_url: str,
    names: Sequence[str] = (),
    *,
    node: str | None = NODE_ID,
    nonce: str = "",
    error: str | None = None,
    initial: Mapping[str, str] | None = None,
) -> bytes:
    """Encode a request of either variant."""
    who = None if node is None else pb.Node(id=node)
    status = None if error is None else pb.Status(code=13, message=error)
    if variant == SOTW:
        return pb.DiscoveryRequest(
            type_url=type_url, resource_names=names, node=who, response_nonce=nonce, error_detail=status
        ).SerializeToString()
    return pb.DeltaDiscoveryRequest(
        type_url=type_url,
        resource_names_subscribe=names,
        node=who,
        response_nonce=nonce,
        error_detail=status,
        initial_resource_versions=initial or {},
    ).SerializeToString()


def decode(variant: str, body: bytes) -> Told:
    """Decode a response of either variant."""
    if variant == SOTW:
        state = pb.DiscoveryResponse.FromString(body)
        return Told(state.type_url, state.nonce, state.version_info, _words(state.resources))
    change = pb.DeltaDiscoveryResponse.FromString(body)
    bodies = [pb.Resource.FromString(item).resource for item in change.resources]
    return Told(
        change.type_url, change.nonce, change.system_version_info, _words(bodies), tuple(change.removed_resources)
    )


def _words(bodies: Sequence[bytes]) -> tuple[str, ...]:
    """Field 2 of `google.protobuf.Any` is what the test's resources serialised to."""
    return tuple(pb.Resource.FromString(body).resource.decode() for body in bodies)


@dataclass(frozen=True)
class Served:
    """A server that listens on `address`, and what it serves from and reports to."""

    server: AdsServer
    cache: SnapshotCache
    clients: Clients
    address: str

    @asynccontextmanager
    async def connect(self, variant: str) -> AsyncIterator[Peer]:
        """Open a stream on a connection of its own."""
        async with grpc.aio.insecure_channel(self.address, options=OPTIONS) as channel:
            call: Call = channel.stream_stream(METHODS[variant])()
            try:
                yield Peer(variant, call)
            finally:
                call.cancel()


@asynccontextmanager
async def serving(*, max_receive_bytes: int = MAX_RECEIVE_BYTES) -> AsyncIterator[Served]:
    """Serve until the block ends."""
    cache, clients = SnapshotCache(), Clients()
    server = AdsServer(cache, clients, clock=lambda: NOW, max_receive_bytes=max_receive_bytes)
    port = await server.start("127.0.0.1:0")
    try:
        yield Served(server, cache, clients, f"127.0.0.1:{port}")
    finally:
        await server.stop(0)
