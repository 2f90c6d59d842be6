"""What a socket can't be made to do on purpose: break under a write, or open a stream too late."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import pytest
from structlog.testing import capture_logs

from tests.support.control_plane import PATIENCE
from tests.unit.protocol.values import CDS, resource, snapshot
from xds.cache import SnapshotCache, World
from xds.clients import Clients
from xds.gen import discovery_pb2 as pb
from xds.server.ads import AdsServer
from xds.server.session import SOTW, Session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from xds.protocol.sotw import SotwRequest

WORLD = World(candidates=(), snapshots={}, refuse_all=snapshot(resource(CDS, "a")))
REQUEST = pb.DiscoveryRequest(node=pb.Node(id="web-0.shop"), type_url=CDS.type_url).SerializeToString()


class AbortedError(Exception):
    """What `abort` raises, as grpc's own does."""


class Context:
    """The part of `grpc.aio.ServicerContext` that a session uses."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.written: list[bytes] = []
        self.ended: tuple[grpc.StatusCode, str] | None = None

    async def send_initial_metadata(self, _: tuple[()]) -> None:
        assert not self.written

    async def write(self, body: bytes) -> None:
        if self.failure is not None:
            raise self.failure
        self.written.append(body)

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        self.ended = (code, details)
        raise AbortedError


async def requests(*bodies: bytes) -> AsyncIterator[bytes]:
    """Send `bodies`, then nothing, for ever."""
    for body in bodies:
        yield body
    await asyncio.Event().wait()


async def run(session: Session[SotwRequest], context: Context, *bodies: bytes) -> None:
    """Run a session to its end, which is an abort."""
    with pytest.raises(AbortedError):
        async with asyncio.timeout(PATIENCE):
            await session.run(requests(*bodies), context)  # type: ignore[arg-type]  # only the part that is used


async def take_turns() -> None:
    """Let every task run until it waits; nothing here waits for the outside."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    with capture_logs():
        yield


async def test_a_connection_that_breaks_under_a_write_ends_its_stream() -> None:
    cache, clients, context = SnapshotCache(), Clients(), Context(grpc.aio.InternalError())
    cache.publish(WORLD)

    await run(Session(SOTW, cache, clients, lambda: 0.0), context, REQUEST)

    assert context.ended == (grpc.StatusCode.CANCELLED, "")
    assert not clients.connected()


async def test_a_stream_that_is_closed_before_it_began_is_told_so() -> None:
    context = Context()
    session = Session(SOTW, SnapshotCache(), Clients(), lambda: 0.0)
    session.close()

    await run(session, context)

    assert context.ended == (grpc.StatusCode.UNAVAILABLE, "the control plane is shutting down")


async def test_a_world_that_comes_before_the_first_request_is_not_spoken_of() -> None:
    """Nobody knows yet who is there."""
    cache, context = SnapshotCache(), Context()
    session = Session(SOTW, cache, Clients(), lambda: 0.0)
    ended = asyncio.create_task(run(session, context))
    await take_turns()
    cache.publish(WORLD)
    await take_turns()
    session.close()

    await ended
    assert context.written == []
    assert context.ended == (grpc.StatusCode.UNAVAILABLE, "the control plane is shutting down")


async def test_a_bug_under_a_write_is_not_hidden() -> None:
    """It reaches grpc, which ends this stream with UNKNOWN; the registry is clean all the same."""
    cache, clients = SnapshotCache(), Clients()
    cache.publish(WORLD)
    session = Session(SOTW, cache, clients, lambda: 0.0)
    context = Context(ZeroDivisionError())

    with pytest.raises(ZeroDivisionError):
        async with asyncio.timeout(PATIENCE):
            await session.run(requests(REQUEST), context)  # type: ignore[arg-type]  # only the part that is used
    assert not clients.connected()


async def test_a_stream_that_opens_while_the_server_stops_is_told_so() -> None:
    """It was accepted before the stop, and its handler begins after it."""
    server, context = AdsServer(SnapshotCache(), Clients(), clock=lambda: 0.0), Context()
    serve = server._serve(SOTW)
    await server.start("127.0.0.1:0")
    await server.stop(0)

    with pytest.raises(AbortedError):
        async with asyncio.timeout(PATIENCE):
            await serve(requests(), context)  # type: ignore[arg-type]  # only the part that is used

    assert context.ended == (grpc.StatusCode.UNAVAILABLE, "the control plane is shutting down")


async def test_an_envoy_that_is_too_old_is_refused_in_words_that_both_sides_log() -> None:
    cache, clients, context = SnapshotCache(), Clients(), Context()
    cache.publish(WORLD)
    node = pb.Node(id="web-0.shop", user_agent_name="envoy")
    node.user_agent_build_version.version.CopyFrom(pb.SemanticVersion(major_number=1, minor_number=30, patch=4))
    request = pb.DiscoveryRequest(node=node, type_url=CDS.type_url).SerializeToString()

    with capture_logs() as logs:
        await run(Session(SOTW, cache, clients, lambda: 0.0), context, request)

    assert context.written == []
    assert context.ended is not None
    assert context.ended[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert "web-0.shop runs Envoy 1.30.4" in context.ended[1]
    assert [(entry["event"], entry["reason"]) for entry in logs] == [("stream refused", context.ended[1])]
