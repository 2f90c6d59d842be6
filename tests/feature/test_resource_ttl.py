"""A time to live over real streams: content once, then heartbeats, then a change; and who gets none of it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import pytest
from structlog.testing import capture_logs

from tests.feature.ads_peer import METHODS, request, world
from tests.support.control_plane import PATIENCE, wait_until
from tests.unit.protocol.values import CDS, LDS, resource
from xds.cache import SnapshotCache
from xds.clients import Clients
from xds.gen import discovery_pb2 as pb
from xds.protocol.wire import PERISHABLE_SUFFIX
from xds.server.ads import AdsServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

TTL = 0.6
A1, A2, B1, L1 = resource(CDS, "a", "1"), resource(CDS, "a", "2"), resource(CDS, "b", "1"), resource(LDS, "l", "1")
NAMES = "/envoy.service.cluster.v3.ClusterDiscoveryService/DeltaClusters"
SOTW_NAMES = "/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters"
delta_methods = pytest.mark.parametrize(
    "method", [pytest.param(METHODS["delta"], id="aggregated"), pytest.param(NAMES, id="separate")]
)
sotw_methods = pytest.mark.parametrize(
    "method", [pytest.param(METHODS["sotw"], id="aggregated"), pytest.param(SOTW_NAMES, id="separate")]
)


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[dict[str, object]]]:
    with capture_logs() as entries:
        yield entries  # type: ignore[misc]  # structlog's event dictionaries are mutable mappings


@dataclass(frozen=True)
class Mortal:
    """A server that gives a time to live, and what it serves from."""

    cache: SnapshotCache
    clients: Clients
    address: str

    @asynccontextmanager
    async def connect(self, method: str) -> AsyncIterator[Line]:
        """Open a stream."""
        async with grpc.aio.insecure_channel(self.address) as channel:
            call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(method)()
            try:
                yield Line(call)
            finally:
                call.cancel()


@dataclass(frozen=True)
class Line:
    """An open incremental stream."""

    call: grpc.aio.StreamStreamCall[bytes, bytes]

    async def ask(self, nonce: str = "", error: str | None = None, initial: dict[str, str] | None = None) -> None:
        """Ask for all clusters, or answer."""
        await self.call.write(request("delta", CDS.type_url, nonce=nonce, error=error, initial=initial))

    async def hear(self) -> pb.DeltaDiscoveryResponse:
        """Return the next response."""
        async with asyncio.timeout(PATIENCE):
            body = await self.call.read()
        assert isinstance(body, bytes), f"the stream ended: {await self.call.code()}"
        return pb.DeltaDiscoveryResponse.FromString(body)


@asynccontextmanager
async def serving(ttl: float | None = TTL) -> AsyncIterator[Mortal]:
    """Serve a world of one cluster and one listener."""
    cache, clients = SnapshotCache(), Clients()
    server = AdsServer(cache, clients, clock=lambda: 0.0, resource_ttl=ttl)
    cache.publish(world(A1, L1))
    port = await server.start("127.0.0.1:0")
    try:
        yield Mortal(cache, clients, f"127.0.0.1:{port}")
    finally:
        await server.stop(0)


def opened(response: pb.DeltaDiscoveryResponse) -> list[pb.Resource]:
    return [pb.Resource.FromString(item) for item in response.resources]


@delta_methods
async def test_content_comes_once_then_heartbeats_then_a_change(method: str) -> None:
    async with serving() as mortal, mortal.connect(method) as line:
        await line.ask()
        first = await line.hear()
        (content,) = opened(first)
        assert content.resource == A1.any_body
        assert content.ttl.ToTimedelta().total_seconds() == TTL
        nonce = first.nonce
        for _ in range(4):
            await line.ask(nonce=nonce)
            heartbeat = await line.hear()
            (beat,) = opened(heartbeat)
            assert (beat.name, beat.version, beat.resource) == (content.name, content.version, b"")
            assert beat.ttl == content.ttl
            assert (heartbeat.system_version_info, list(heartbeat.removed_resources)) == (first.system_version_info, [])
            nonce = heartbeat.nonce
        await line.ask(nonce=nonce)

        mortal.cache.publish(world(A2, L1))

        change = await line.hear()
        while not opened(change)[0].resource:  # a heartbeat may have been quicker
            await line.ask(nonce=change.nonce)
            change = await line.hear()
        assert opened(change)[0].resource == A2.any_body


async def test_what_was_not_answered_is_not_renewed() -> None:
    """Nobody knows yet whether the client has it."""
    async with serving() as mortal, mortal.connect(NAMES) as line:
        await line.ask()
        assert opened(await line.hear())[0].resource == A1.any_body

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(TTL):
                await line.call.read()


async def test_heartbeats_leave_no_trace_in_the_registry() -> None:
    """What they tell is no news: the status of the last content stays, refused or not."""
    async with serving() as mortal, mortal.connect(NAMES) as line:
        await line.ask()
        await line.ask(nonce=(await line.hear()).nonce)
        mortal.cache.publish(world(A2, L1))
        while not opened(change := await line.hear())[0].resource:
            await line.ask(nonce=change.nonce)
        await line.ask(nonce=change.nonce, error="no")
        await wait_until(lambda: mortal.clients.connected()[0].is_rejecting)
        before = mortal.clients.connected()[0].types[CDS]
        heartbeat = await line.hear()
        assert opened(heartbeat)[0].version == A1.version + PERISHABLE_SUFFIX, "it still runs the first"
        await line.ask(nonce=heartbeat.nonce)
        await line.ask(nonce=(await line.hear()).nonce)

        assert mortal.clients.connected()[0].types[CDS] == before
        totals = mortal.clients.totals["delta", CDS]
        assert (totals.responses, totals.acks, totals.nacks) == (2, 1, 1)


async def test_a_heartbeat_that_comes_too_late_is_followed_by_content(logs: list[dict[str, object]]) -> None:
    async with serving() as mortal, mortal.connect(NAMES) as line:
        await line.ask()
        await line.ask(nonce=(await line.hear()).nonce)
        heartbeat = await line.hear()
        await line.ask(nonce=heartbeat.nonce, error="what is a?")

        assert opened(await line.hear())[0].resource == A1.any_body
        assert not mortal.clients.connected()[0].is_rejecting
    (warning,) = (entry for entry in logs if entry["log_level"] == "warning")
    assert (warning["type"], warning["resources"], warning["text"]) == ("cluster", 1, "what is a?")


async def test_whoever_comes_back_hears_a_heartbeat_at_once() -> None:
    """The life of what it has may be about to end: nothing waits for a timer."""
    async with serving(ttl=3600) as mortal, mortal.connect(NAMES) as line:
        await line.ask(initial={"a": A1.version + PERISHABLE_SUFFIX})

        (beat,) = opened(await line.hear())
        assert (beat.name, beat.resource) == ("a", b"")


@pytest.mark.parametrize(
    ("ttl", "had"),
    [
        pytest.param(3600, A1.version, id="lasting content becomes perishable"),
        pytest.param(None, A1.version + PERISHABLE_SUFFIX, id="perishable content becomes lasting"),
    ],
)
async def test_what_was_sent_under_another_setting_is_sent_anew(ttl: float | None, had: str) -> None:
    """Else what has no time to live would never end, and what has one would, without heartbeats."""
    async with serving(ttl) as mortal, mortal.connect(NAMES) as line:
        await line.ask(initial={"a": had, "gone": had})
        response = await line.hear()

        assert [item.resource for item in opened(response)] == [A1.any_body]
        assert opened(response)[0].HasField("ttl") is (ttl is not None)
        await line.ask(nonce=response.nonce)
        if not response.removed_resources:  # held back until no listener can refer to it: here nobody asks for any
            response = await line.hear()
        assert list(response.removed_resources) == ["gone"]


@sotw_methods
async def test_state_of_the_world_clients_get_neither(method: str) -> None:
    """An Envoy would take a heartbeat for an empty world."""
    async with serving(ttl=0.1) as mortal, mortal.connect(method) as line:
        await line.call.write(request("sotw", CDS.type_url))
        async with asyncio.timeout(PATIENCE):
            body = await line.call.read()
        assert isinstance(body, bytes)
        response = pb.DiscoveryResponse.FromString(body)
        assert list(response.resources) == [A1.any_body]
        await line.call.write(request("sotw", CDS.type_url, nonce=response.nonce))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await line.call.read()
