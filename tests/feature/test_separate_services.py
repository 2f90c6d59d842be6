"""The services of one type each: what they imply, what they refuse, and that streams of one node agree."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.feature.ads_peer import DELTA, NODE_ID, OPTIONS, SOTW, Peer, serving, world
from tests.support.control_plane import PATIENCE, wait_until
from tests.unit.protocol.values import CDS, EDS, LDS, RDS, SDS, resource, snapshot
from xds.gen import discovery_pb2 as pb
from xds.server.services import SERVICES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.feature.ads_peer import Call, Served
    from xds.resources import ResourceType
    from xds.server.services import Service

    Fetch = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]

VARIANTS = pytest.mark.parametrize("variant", [SOTW, DELTA])
EACH = pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.noun.lower())
OF = {service.kind: service for service in SERVICES}
EVERYTHING = tuple(resource(kind, "a") for kind in (CDS, EDS, LDS, RDS, SDS))


@asynccontextmanager
async def connect(served: Served, service: Service, variant: str) -> AsyncIterator[Peer]:
    """Open a stream of a separate service."""
    rpc = f"/{service.name}/{'Stream' if variant == SOTW else 'Delta'}{service.noun}"
    async with grpc.aio.insecure_channel(served.address, options=OPTIONS) as channel:
        call: Call = channel.stream_stream(rpc)()
        try:
            yield Peer(variant, call)
        finally:
            call.cancel()


@EACH
@VARIANTS
async def test_a_request_without_a_type_means_that_of_the_service(service: Service, variant: str) -> None:
    async with serving() as served, connect(served, service, variant) as peer:
        served.cache.publish(world(*EVERYTHING))
        await peer.ask("", "a")
        told = await peer.hear()

    assert (told.type_url, told.resources) == (service.kind.type_url, ("a=1",))


@EACH
@VARIANTS
async def test_a_request_with_the_type_of_the_service_is_answered(service: Service, variant: str) -> None:
    async with serving() as served, connect(served, service, variant) as peer:
        served.cache.publish(world(*EVERYTHING))
        await peer.ask(service.kind, "a")
        told = await peer.hear()

    assert (told.type_url, told.resources) == (service.kind.type_url, ("a=1",))


@EACH
@VARIANTS
async def test_another_type_ends_the_stream_and_tells_nothing(service: Service, variant: str) -> None:
    other = CDS if service.kind is SDS else SDS
    async with serving() as served, connect(served, service, variant) as peer:
        served.cache.publish(world(*EVERYTHING))
        await peer.ask(other, "a")
        code, details = await peer.end()

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details == f"this service is for {service.kind.type_url}, not for {other.type_url}"


@VARIANTS
async def test_streams_of_one_node_speak_of_the_same_world(variant: str) -> None:
    async with (
        serving() as served,
        connect(served, OF[CDS], variant) as clusters,
        connect(served, OF[LDS], variant) as listeners,
        served.connect(variant) as aggregated,
    ):
        served.cache.publish(world(*EVERYTHING))
        asked: tuple[tuple[Peer, ResourceType], ...] = ((clusters, CDS), (listeners, LDS), (aggregated, CDS))
        for peer, kind in asked:
            await peer.ask(kind)
            first = await peer.hear()
            await peer.acknowledge(first)
        served.cache.publish(world(resource(CDS, "a", "2"), resource(LDS, "a", "2")))
        told = [(await peer.hear()) for peer, _ in asked]

        assert [(item.type_url, item.resources) for item in told] == [(kind.type_url, ("a=2",)) for _, kind in asked]
        assert told[0].version == told[2].version
        assert [client.node_id for client in served.clients.connected()] == [NODE_ID] * 3


@VARIANTS
async def test_a_stream_of_one_type_is_in_step_without_the_others(variant: str) -> None:
    """A canary waits for what a stream can have, and for no more."""
    async with serving() as served, connect(served, OF[CDS], variant) as peer:
        served.cache.publish(world(*EVERYTHING))
        await peer.ask(CDS)
        told = await peer.hear()
        (client,) = served.clients.connected()
        new = snapshot(*EVERYTHING)
        before = client.is_in_step(CDS, new)
        await peer.acknowledge(told)
        await wait_until(lambda: client.is_in_step(CDS, new))

        assert not before
        assert all(client.is_in_step(kind, new) for kind in (EDS, LDS, RDS, SDS))


@EACH
async def test_fetching_is_refused_in_words(service: Service) -> None:
    body = pb.DiscoveryRequest(node=pb.Node(id=NODE_ID)).SerializeToString()
    async with serving() as served, grpc.aio.insecure_channel(served.address, options=OPTIONS) as channel:
        served.cache.publish(world(*EVERYTHING))
        fetch: Fetch = channel.unary_unary(f"/{service.name}/Fetch{service.noun}")
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await fetch(body, timeout=PATIENCE)

    assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "streams only" in (refusal.value.details() or "")
