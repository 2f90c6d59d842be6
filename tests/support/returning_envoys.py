"""
Many clients that come back as Envoys do: with what they have, and under the names that they had.

Each has a connection of its own. It asks for all clusters and all listeners, for the routes that its listeners name,
and for one secret that does not exist; it accepts everything. When its stream ends, it opens another one and says there
what an Envoy says: SotW, the last version of each type; delta, the version of each resource.

Invariant: a client writes down what it is told and forgets nothing that it has.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc

from xds.gen import discovery_pb2 as pb
from xds.resources import ResourceType

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    Call = grpc.aio.StreamStreamCall[bytes, bytes]

CDS, LDS, RDS, SDS = ResourceType.CLUSTER, ResourceType.LISTENER, ResourceType.ROUTE, ResourceType.SECRET
MISSING = "a-secret-that-is-not-there"
SOTW, DELTA = "sotw", "delta"
METHODS = {
    variant: f"/envoy.service.discovery.v3.AggregatedDiscoveryService/{name}AggregatedResources"
    for variant, name in ((SOTW, "Stream"), (DELTA, "Delta"))
}
_OPTIONS = (
    # Otherwise all channels of a process share one connection.
    ("grpc.use_local_subchannel_pool", 1),
    # A server that is gone is looked for again and again, soon.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.max_receive_message_length", -1),
)


@dataclass(frozen=True, slots=True)
class Told:
    """One response: what it says of each resource that is there, and the names that are not."""

    type_url: str
    version: str
    nonce: str
    bodies: dict[str, bytes]
    """By name; SotW does not tell names, so there it is by place."""
    versions: dict[str, str]
    removed: tuple[str, ...] = ()


@dataclass(slots=True)
class ReturningEnvoy:
    """One client. `routes` are the names that its listeners refer to."""

    variant: str
    node: str
    routes: Sequence[str]
    bodies: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """What it runs, by type and name (SotW: by type and place)."""
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    """Delta: the version of each resource, by type and name."""
    states: dict[str, str] = field(default_factory=dict)
    """The last version of each type."""
    streams: list[list[Told]] = field(default_factory=list)
    """What each of its streams was told, oldest first."""
    ends: list[tuple[grpc.StatusCode, str]] = field(default_factory=list)
    """How its streams ended; where the end met a write, the library tells of an error of its own instead."""
    owes_answer: bool = False
    """Whether it was told something that it has not acknowledged yet."""

    async def live(self, address: str) -> None:
        """Hold a stream; when it ends, open another one, for ever."""
        async with grpc.aio.insecure_channel(address, options=_OPTIONS) as channel:
            while True:
                call: Call = channel.stream_stream(METHODS[self.variant])(wait_for_ready=True)
                # A write to a stream that has ended is an InvalidStateError.
                with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    await self._talk(call)
                end = await call.code(), await call.details() or ""
                # What never reached a server was no stream.
                if len(self.ends) < len(self.streams):
                    self.ends.append(end)

    @property
    def told(self) -> list[Told]:
        """What the newest stream was told."""
        return self.streams[-1] if self.streams else []

    async def _talk(self, call: Call) -> None:
        # The server sends its own at once; `wait_for_connection` would be content with a connection that is dying.
        await call.initial_metadata()
        if call.done():
            return
        self.streams.append([])
        self.owes_answer = False
        for number, request in enumerate(self._first_requests()):
            if not number:
                request.node.CopyFrom(pb.Node(id=self.node))
            await call.write(request.SerializeToString())
        while isinstance(body := await call.read(), bytes):
            told = self._decode(body)
            self._apply(told)
            self.told.append(told)
            self.owes_answer = True
            await call.write(self._acknowledge(told).SerializeToString())
            self.owes_answer = False

    def _names(self, type_url: str) -> Sequence[str]:
        """An empty list means everything of clusters and listeners."""
        match type_url:
            case RDS.type_url:
                return self.routes
            case SDS.type_url:
                return (MISSING,)
            case _:
                return ()

    def _first_requests(self) -> Iterator[pb.DiscoveryRequest | pb.DeltaDiscoveryRequest]:
        for kind in (CDS, LDS, RDS, SDS):
            url = kind.type_url
            if self.variant == SOTW:
                names, version = self._names(url), self.states.get(url, "")
                yield pb.DiscoveryRequest(type_url=url, resource_names=names, version_info=version)
            else:
                yield pb.DeltaDiscoveryRequest(
                    type_url=url,
                    resource_names_subscribe=self._names(url),
                    initial_resource_versions=self.versions.get(url, {}),
                )

    def _acknowledge(self, told: Told) -> pb.DiscoveryRequest | pb.DeltaDiscoveryRequest:
        if self.variant == SOTW:
            return pb.DiscoveryRequest(
                type_url=told.type_url,
                resource_names=self._names(told.type_url),
                version_info=told.version,
                response_nonce=told.nonce,
            )
        return pb.DeltaDiscoveryRequest(type_url=told.type_url, response_nonce=told.nonce)

    def _decode(self, body: bytes) -> Told:
        if self.variant == SOTW:
            state = pb.DiscoveryResponse.FromString(body)
            bodies = {str(place): bytes(item) for place, item in enumerate(state.resources)}
            return Told(state.type_url, state.version_info, state.nonce, bodies, {})
        change = pb.DeltaDiscoveryResponse.FromString(body)
        resources = [pb.Resource.FromString(item) for item in change.resources]
        return Told(
            change.type_url,
            change.system_version_info,
            change.nonce,
            {item.name: bytes(item.resource) for item in resources},
            {item.name: item.version for item in resources},
            tuple(change.removed_resources),
        )

    def _apply(self, told: Told) -> None:
        self.states[told.type_url] = told.version
        if self.variant == SOTW:
            self.bodies[told.type_url] = told.bodies
            return
        bodies = self.bodies.setdefault(told.type_url, {})
        versions = self.versions.setdefault(told.type_url, {})
        bodies.update(told.bodies)
        versions.update(told.versions)
        for name in told.removed:
            bodies.pop(name, None)
            versions.pop(name, None)


@asynccontextmanager
async def living(envoys: Sequence[ReturningEnvoy], address: str) -> AsyncIterator[None]:
    """Have all of them live until the block ends."""
    tasks = [asyncio.create_task(envoy.live(address)) for envoy in envoys]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in tasks:
        assert task.cancelled(), "a client failed by itself"
