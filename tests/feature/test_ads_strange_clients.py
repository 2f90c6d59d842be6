"""Whatever a client does, it gets a clear answer or silence, and nobody else notices."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import h2.connection
import h2.events
import h2.exceptions
import pytest
from structlog.testing import capture_logs

from tests.feature.ads_peer import DELTA, NODE_ID, SOTW, request, serving, world
from tests.support.control_plane import PATIENCE, wait_until
from tests.unit.protocol.values import CDS, LDS, RDS, resource
from xds.cache import SnapshotCache
from xds.clients import Clients
from xds.errors import ListenError
from xds.gen import discovery_pb2 as pb
from xds.server import ads, session
from xds.server.ads import SERVICE, AdsServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.feature.ads_peer import Call

A1, A2, L1 = resource(CDS, "a", "1"), resource(CDS, "a", "2"), resource(LDS, "l", "1")
MEGABYTE = 1024 * 1024

both = pytest.mark.parametrize(
    "variant", [pytest.param(SOTW, id="state of the world"), pytest.param(DELTA, id="incremental")]
)


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    with capture_logs():
        yield


@both
@pytest.mark.parametrize(
    ("node", "text"),
    [
        pytest.param(None, "must carry a node with an id <pod>.<namespace>", id="no node"),
        pytest.param("", "must be <pod>.<namespace>, not ''", id="a node without an id"),
        pytest.param("web-0", "must be <pod>.<namespace>, not 'web-0'", id="an id without a namespace"),
        pytest.param("Web_0.shop", "must be <pod>.<namespace>, not 'Web_0.shop'", id="an id that is no pod's name"),
    ],
)
async def test_a_first_request_that_does_not_say_who_asks_is_refused(variant: str, node: str | None, text: str) -> None:
    async with serving() as served, served.connect(variant) as peer:
        served.cache.publish(world(A1))
        await peer.ask(CDS, node=node)

        code, details = await peer.end()

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text in details


@both
async def test_a_stream_whose_node_changes_is_refused(variant: str) -> None:
    async with serving() as served, served.connect(variant) as peer:
        served.cache.publish(world(A1))
        await peer.ask(CDS)
        await peer.hear()
        await peer.ask(LDS, node="web-1.shop")

        code, details = await peer.end()

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "the stream belongs to node web-0.shop" in details


@both
@pytest.mark.parametrize("node", [pytest.param(None, id="no node"), pytest.param(NODE_ID, id="the same node")])
async def test_later_requests_may_repeat_the_node_or_leave_it_out(variant: str, node: str | None) -> None:
    async with serving() as served, served.connect(variant) as peer:
        served.cache.publish(world(A1, L1))
        await peer.ask(CDS)
        await peer.hear()
        await peer.ask(LDS, node=node)

        assert (await peer.hear()).resources == ("l=1",)


@both
async def test_bytes_that_are_no_request_end_their_stream_and_no_other(variant: str) -> None:
    async with serving() as served, served.connect(variant) as other, served.connect(variant) as peer:
        served.cache.publish(world(A1))
        await other.ask(CDS)
        await other.hear()
        await peer.send(b"\xff\xfe garbage")

        assert await peer.end() == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "the request is not a discovery request",
        )
        served.cache.publish(world(A2))
        assert (await other.hear()).resources == ("a=2",)


@both
async def test_a_body_over_the_limit_ends_its_stream_and_no_other(variant: str) -> None:
    async with (
        serving(max_receive_bytes=MEGABYTE) as served,
        served.connect(variant) as other,
        served.connect(variant) as peer,
    ):
        served.cache.publish(world(A1))
        await other.ask(CDS)
        await other.hear()
        await peer.send(request(variant, CDS.type_url, ["x" * 2 * MEGABYTE]))

        code, details = await peer.end()
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in details
        served.cache.publish(world(A2))
        assert (await other.hear()).resources == ("a=2",)


@both
async def test_a_body_of_five_megabytes_is_served(variant: str) -> None:
    """More than gRPC's own limit: a client that comes back lists everything that it has."""
    names = [f"{number:050d}" for number in range(98_000)]
    body = request(variant, RDS.type_url, ["r", *names])
    assert len(body) > 5_000_000
    async with serving() as served, served.connect(variant) as peer:
        served.cache.publish(world(resource(RDS, "r")))
        await peer.send(body)

        assert (await peer.hear()).resources == ("r=1",)


@both
async def test_a_client_that_asks_for_too_many_names_is_refused(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "MAX_NAMES", 3)
    async with serving() as served, served.connect(variant) as peer:
        await peer.ask(RDS, "a", "b", "c", "d")

        assert await peer.end() == (grpc.StatusCode.RESOURCE_EXHAUSTED, "more than 3 subscribed names")


@both
async def test_a_client_that_never_reads_delays_nobody_and_is_told_only_the_newest(variant: str) -> None:
    """A megabyte per push fills every buffer between the two long before the last push."""
    async with (
        serving() as served,
        served.connect(variant) as deaf,
        served.connect(variant) as first,
        served.connect(variant) as second,
    ):
        served.cache.publish(world(resource(CDS, "a", "0" * MEGABYTE)))
        await deaf.ask(CDS)
        for peer in (first, second):
            await peer.ask(CDS)
            await peer.hear()
        async with asyncio.timeout(PATIENCE):
            for number in range(1, 21):
                served.cache.publish(world(resource(CDS, "a", f"{number}" + "0" * MEGABYTE)))
                for peer in (first, second):
                    (told,) = (await peer.hear()).resources
                    assert told.startswith(f"a={number}0")

        heard = [await deaf.hear()]
        while not heard[-1].resources[0].startswith("a=200"):
            heard.append(await deaf.hear())
        assert len(heard) < 21


@both
async def test_a_server_that_stops_says_so_to_every_stream_and_leaves_nothing_running(variant: str) -> None:
    before = asyncio.all_tasks()
    async with serving() as served, served.connect(variant) as idle, served.connect(variant) as told:
        served.cache.publish(world(A1))
        await told.ask(CDS)
        await told.hear()
        await idle.ask("type.googleapis.com/example.Unheard")
        await wait_until(lambda: len(served.clients) == 2)

        await served.server.stop(PATIENCE)

        expected = (grpc.StatusCode.UNAVAILABLE, "the control plane is shutting down")
        assert [await told.end(), await idle.end()] == [expected, expected]
        assert len(served.clients) == 0
    await wait_until(lambda: asyncio.all_tasks() <= before)


@both
async def test_a_client_that_says_goodbye_is_let_go_with_ok(variant: str) -> None:
    async with serving() as served, served.connect(variant) as peer:
        served.cache.publish(world(A1))
        await peer.ask(CDS)
        await peer.hear()
        await peer.call.done_writing()

        assert await peer.end() == (grpc.StatusCode.OK, "")
        await wait_until(lambda: len(served.clients) == 0)


async def test_an_address_that_is_taken_is_named() -> None:
    async with serving() as served:
        second = AdsServer(SnapshotCache(), Clients(), clock=lambda: 0.0)

        with pytest.raises(ListenError, match=f"can't listen on {served.address}: choose another address"):
            await second.start(served.address)

        await second.stop(0)


async def test_a_method_that_is_not_served_is_said_to_be_unimplemented() -> None:
    async with serving() as served, grpc.aio.insecure_channel(served.address) as channel:
        call: Call = channel.stream_stream(f"/{SERVICE}/Nothing")()
        await call.write(pb.DiscoveryRequest().SerializeToString())

        assert await call.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(("interval", "survives"), [(10, True), (60_000, False)], ids=["patient", "impatient"])
async def test_a_client_that_pings_on_an_idle_stream_is_not_sent_away(
    monkeypatch: pytest.MonkeyPatch, interval: int, survives: bool
) -> None:
    """Envoys ping every 30 s, which gRPC takes for an attack unless it knows better; here everything is quicker."""
    name = "grpc.http2.min_ping_interval_without_data_ms"
    assert dict(ads._OPTIONS)[name] <= 15_000
    options = tuple((key, interval if key == name else value) for key, value in ads._OPTIONS)
    monkeypatch.setattr(ads, "_OPTIONS", options)
    path = f"/{SERVICE}/DeltaAggregatedResources"
    head = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "xds"), ("te", "trailers")]
    body = pb.DeltaDiscoveryRequest(node=pb.Node(id=NODE_ID), type_url=CDS.type_url).SerializeToString()
    async with serving() as served:
        host, _, port = served.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        peer = h2.connection.H2Connection()
        peer.initiate_connection()
        peer.send_headers(1, [*head, ("content-type", "application/grpc")])
        peer.send_data(1, b"\0" + len(body).to_bytes(4, "big") + body)
        pings = 0
        while pings < 20 and await _is_answered(reader, writer, peer):
            pings += 1
            await asyncio.sleep(0.03)  # the interval between pings is what this is about
        writer.close()

    assert (pings == 20) is survives


async def _is_answered(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: h2.connection.H2Connection
) -> bool:
    """Ping, and read until the answer; False if the server ends the connection instead."""
    peer.ping(bytes(8))
    writer.write(peer.data_to_send())
    try:
        while data := await reader.read(65536):
            events = peer.receive_data(data)
            if any(isinstance(event, h2.events.ConnectionTerminated) for event in events):
                return False
            if any(isinstance(event, h2.events.PingAckReceived) for event in events):
                return True
    except (h2.exceptions.ProtocolError, ConnectionError):
        return False
    return False


async def test_a_client_that_comes_back_for_clusters_only_is_told_of_those_that_are_gone() -> None:
    """For a moment the server expects it to ask for listeners, too, as an Envoy does; then it goes on without."""
    async with serving() as served:
        served.cache.publish(world(resource(CDS, "new")))
        async with served.connect(DELTA) as peer:
            await peer.ask(CDS, initial={"old": "1"})
            first = await peer.hear()
            await peer.acknowledge(first)
            second = await peer.hear()

    assert first.resources
    assert not first.removed
    assert second.removed == ("old",)
