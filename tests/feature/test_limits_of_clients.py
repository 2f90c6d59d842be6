"""What one client may cost: streams, silence, haste and age have an end, and the others do not notice."""

from __future__ import annotations

import asyncio
import contextlib
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.feature.ads_peer import DELTA, METHODS, NODE_ID, Peer, Served, world
from tests.support.control_plane import PATIENCE, wait_until
from tests.unit.protocol.values import CDS, LDS, resource
from xds.cache import SnapshotCache
from xds.clients import Clients
from xds.server.ads import AdsServer
from xds.server.limits import Limits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.feature.ads_peer import Call


@asynccontextmanager
async def limited(limits: Limits) -> AsyncIterator[Served]:
    """Serve one cluster and one listener within these limits."""
    cache, clients = SnapshotCache(), Clients()
    cache.publish(world(resource(CDS, "a"), resource(LDS, "l")))
    server = AdsServer(cache, clients, clock=time.time, limits=limits)
    port = await server.start("127.0.0.1:0")
    try:
        yield Served(server, cache, clients, f"127.0.0.1:{port}")
    finally:
        await server.stop(0)


@pytest.mark.parametrize("variant", sorted(METHODS))
async def test_a_stream_that_says_nothing_ends(variant: str) -> None:
    async with limited(Limits(first_request=0.2)) as served, served.connect(variant) as peer:
        status, details = await peer.end()

    assert status is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "first request" in details


async def test_a_stream_that_spoke_may_be_silent_for_as_long_as_it_likes() -> None:
    async with limited(Limits(first_request=0.2)) as served, served.connect(DELTA) as peer:
        await peer.ask(CDS)
        await peer.hear()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await peer.call.read()
        assert len(served.clients) == 1


async def test_a_node_has_so_many_streams_and_no_more() -> None:
    """The next one is refused, those that are open go on, others are not concerned, and an ended one makes room."""
    async with limited(Limits(streams_per_node=2)) as served:
        async with served.connect(DELTA) as first, served.connect(DELTA) as second:
            for peer in (first, second):
                await peer.ask(CDS)
                await peer.hear()
            async with served.connect(DELTA) as third, served.connect(DELTA) as other:
                await third.ask(CDS)
                status, details = await third.end()
                assert status is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert NODE_ID in details
                await other.ask(CDS, node="other-0.shop")
                assert (await other.hear()).resources
            await first.ask(LDS, node=None)
            assert (await first.hear()).resources
        await wait_until(lambda: not len(served.clients))
        async with served.connect(DELTA) as late:
            await late.ask(CDS)
            assert (await late.hear()).resources


async def test_haste_is_slowed_and_nobody_else_is() -> None:
    """A client that asks without end is answered at the rate; all that it asked is answered in the end."""
    async with (
        limited(Limits(requests_per_second=50, request_burst=10)) as served,
        served.connect(DELTA) as hasty,
        served.connect(DELTA) as calm,
    ):
        started = time.monotonic()
        await hasty.ask(CDS)
        for number in range(40):
            await hasty.ask(LDS, f"unknown-{number}", node=None)
        await calm.ask(CDS, node="calm-0.shop")
        assert (await calm.hear()).resources
        removed: set[str] = set()
        while len(removed) < 40:
            told = await hasty.hear()
            removed.update(told.removed)
            await hasty.ask(told.type_url, node=None, nonce=told.nonce)

    assert time.monotonic() - started > 31 / 50 * 0.9


async def test_a_connection_ends_at_its_age_and_a_new_one_is_served() -> None:
    async with limited(Limits(connection_age=0.3)) as served:
        async with served.connect(DELTA) as peer:
            await peer.ask(CDS)
            await peer.hear()
            async with asyncio.timeout(PATIENCE):
                assert not isinstance(await _read(peer), bytes)
            assert await peer.call.code() is grpc.StatusCode.UNAVAILABLE
        await wait_until(lambda: not len(served.clients))
        async with served.connect(DELTA) as peer:
            await peer.ask(CDS)
            assert (await peer.hear()).resources


async def _read(peer: Peer) -> object:
    try:
        return await peer.call.read()
    except grpc.aio.AioRpcError as error:
        return error


async def test_a_server_that_stops_ends_streams_one_after_the_other() -> None:
    """All of them end well within the grace, but not at once: the other replicas are spared the crowd."""
    ends: list[float] = []
    async with (
        limited(Limits(streams_per_node=100)) as served,
        grpc.aio.insecure_channel(served.address) as channel,
    ):
        calls: list[Call] = [channel.stream_stream(METHODS[DELTA])() for _ in range(60)]
        peers = [Peer(DELTA, call) for call in calls]
        for peer in peers:
            await peer.ask(CDS)
            await peer.hear()

        async def end_of(peer: Peer) -> grpc.StatusCode:
            status, _ = await peer.end()
            ends.append(time.monotonic())
            return status

        waits = [asyncio.create_task(end_of(peer)) for peer in peers]
        started = time.monotonic()
        await served.server.stop(PATIENCE)
        statuses = await asyncio.gather(*waits)

    assert set(statuses) == {grpc.StatusCode.UNAVAILABLE}
    assert max(ends) - min(ends) > 0.1
    assert max(ends) - started < PATIENCE


@pytest.mark.parametrize("said", [b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"], ids=["nothing", "hello"])
async def test_a_connection_that_asks_for_nothing_is_closed(said: bytes) -> None:
    """Neither one that never greets nor one that only does holds a file descriptor for long."""
    async with limited(Limits(handshake=0.3, idle_connection=0.5)) as served:
        host, _, port = served.address.partition(":")
        started = time.monotonic()
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(said)
            with contextlib.suppress(ConnectionResetError):
                while await reader.read(65536):
                    pass
            writer.close()

    assert time.monotonic() - started >= 0.25, "it had no time to ask"
