"""
A whole control plane in the test's own process: a real directory, a real server on a free port, a real stream.

Waiting is polling with a deadline; nothing sleeps for a fixed time and hopes.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import grpc

from xds.app import ControlPlane, build_control_plane, read_directory, run_control_plane
from xds.flags import HostPort
from xds.gen.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node, Resource
from xds.resources import RESOURCE_TYPES, ResourceType
from xds.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

PATIENCE = 15.0
"""Seconds after which what is waited for counts as not happening."""

SETTINGS = Settings(
    listen=HostPort(host="127.0.0.1", port=0),
    admin_listen=HostPort(host="127.0.0.1", port=0),
    http_listen=HostPort(host="127.0.0.1", port=0),
    debounce_quiet=0.02,
    debounce_max=0.2,
    rescan_interval=0.5,
    resolv_conf=None,
    shutdown_grace=0.5,
)
"""Quick, and independent of the machine."""

_LONGEST = 4 * PATIENCE
"""Seconds that a test with a running control plane may take: each wait in it has a deadline of its own."""

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"


async def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds. Raises TimeoutError."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event of its own
            await asyncio.sleep(0.01)


@dataclass(frozen=True)
class Running:
    """A control plane that listens on `address`."""

    parts: ControlPlane
    address: str
    stop: asyncio.Event
    task: asyncio.Task[None]


@asynccontextmanager
async def running_control_plane(
    policies: Path, settings: Settings = SETTINGS, *, clock: Callable[[], float] | None = None
) -> AsyncIterator[Running]:
    """Serve `policies` until the block ends; `clock` is that of the running loop otherwise."""
    inputs = read_directory(policies, settings)
    parts = build_control_plane(inputs, settings, clock=clock or asyncio.get_running_loop().time)
    async with running(parts) as started:
        yield started


@asynccontextmanager
async def running(parts: ControlPlane) -> AsyncIterator[Running]:
    """Run a control plane that is built already until the block ends; it listens by the time that it begins."""
    stop, addresses = asyncio.Event(), asyncio.Queue[HostPort]()
    task = asyncio.create_task(run_control_plane(parts, stop, addresses.put_nowait))
    try:
        async with asyncio.timeout(_LONGEST):
            yield Running(parts, str(await addresses.get()), stop, task)
    finally:
        stop.set()
        await asyncio.wait([task])


@dataclass
class Stream:
    """What one node has been told on its open stream: resources by type and name, and how many responses."""

    resources: dict[tuple[ResourceType, str], Resource] = field(default_factory=dict)
    responses: int = 0

    def version(self, kind: ResourceType) -> str:
        """Return the versions of all resources of this type, in the order of their names; nothing if there is none."""
        found = {name: resource.version for (known, name), resource in self.resources.items() if known is kind}
        return " ".join(found[name] for name in sorted(found))

    def take(self, response: DeltaDiscoveryResponse) -> None:
        """Apply one response."""
        kind = next(known for url, known in RESOURCE_TYPES.items() if url == response.type_url)
        self.responses += 1
        for body in response.resources:
            resource = Resource.FromString(body)
            self.resources[kind, resource.name] = resource
        for name in response.removed_resources:
            self.resources.pop((kind, name), None)


@asynccontextmanager
async def open_stream(address: str, node: str) -> AsyncIterator[Stream]:
    """Subscribe to clusters and listeners as `node`, and acknowledge everything, until the block ends."""
    stream = Stream()

    async def talk() -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            call = channel.stream_stream(
                METHOD,
                request_serializer=DeltaDiscoveryRequest.SerializeToString,
                response_deserializer=DeltaDiscoveryResponse.FromString,
            )()
            for kind in (ResourceType.CLUSTER, ResourceType.LISTENER):
                await call.write(DeltaDiscoveryRequest(node=Node(id=node), type_url=kind.type_url))
            while isinstance(response := await call.read(), DeltaDiscoveryResponse):
                stream.take(response)
                await call.write(DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce))

    task = asyncio.create_task(talk())
    try:
        yield stream
    finally:
        task.cancel()
        await asyncio.wait([task])


def with_port(settings: Settings, address: str) -> Settings:
    """Return settings that listen on `address` (`host:port`)."""
    host, _, port = address.rpartition(":")
    return replace(settings, listen=HostPort(host=host, port=int(port)))
