"""What the client says of servers that are not what it was told."""

from __future__ import annotations

import asyncio
import json
import struct
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import grpc
import pytest
from envoy_data_plane.envoy.config.cluster.v3 import Cluster, ClusterDiscoveryType, ClusterEdsClusterConfig
from envoy_data_plane.envoy.config.core.v3 import AggregatedConfigSource, ConfigSource
from envoy_data_plane.envoy.config.endpoint.v3 import ClusterLoadAssignment
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, Listener
from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpConnectionManager, Rds
from envoy_data_plane.google.protobuf import Any
from google.protobuf.any_pb2 import Any as ProtoAny

from tests.support.command_line import Runner
from tests.support.control_plane import PATIENCE
from tests.support.other_control_plane import SERVICE, VERSION, OtherControlPlane
from xds.client import Credentials, Fetched, Identity, fetch_resources
from xds.errors import UnreachableError
from xds.gen.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource
from xds.names import NodeId
from xds.render import render_resource
from xds.resources import ResourceType

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from betterproto2 import Message

    Context = grpc.aio.ServicerContext[DeltaDiscoveryRequest, DeltaDiscoveryResponse]
    Handler = Callable[[AsyncIterator[DeltaDiscoveryRequest], Context], Awaitable[None]]

WHO = Identity(node_id=NodeId("web-0.shop"))
CLUSTER = ResourceType.CLUSTER.type_url
CA = b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"


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


async def refuse_delta_in_words(requests: AsyncIterator[DeltaDiscoveryRequest], context: Context) -> None:
    await anext(requests)
    await context.abort(grpc.StatusCode.UNKNOWN, "delta xDS is not implemented, ask https://me:canary@example/")


async def never_stop(requests: AsyncIterator[DeltaDiscoveryRequest], context: Context) -> None:
    """Have the next response ready whenever the last one was read; never one of listeners."""
    await anext(requests)
    body = bytes(Any.pack(Cluster(name="c")))
    resources = [Resource(name=f"c{number}", resource=body).SerializeToString() for number in range(100)]
    while True:
        await context.write(DeltaDiscoveryResponse(type_url=CLUSTER, resources=resources))


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
        pytest.param(refuse_delta_in_words, 10, "does not serve ADS", id="one that refuses delta and has nothing else"),
        pytest.param(break_off, 10, "RESOURCE_EXHAUSTED: too many", id="one that is overloaded"),
        pytest.param(send_damage, 10, "does not speak xDS", id="one that sends damage"),
        pytest.param(answer_half, 0.5, "missing are listener$", id="one that answers in part"),
    ],
)
async def test_a_strange_server_is_described(handler: Handler | None, within: float, message: str) -> None:
    async with serving(handler) as address:
        with pytest.raises(UnreachableError, match=message):
            await fetch_resources(address, WHO, within=within)


async def answer_http1(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")


async def answer_http2(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each request with a 404 once it has ended, as the admin interface of an Envoy does."""
    data, headers, settings, ends, ends_headers, not_found = 0, 1, 4, 1, 4, b"\x8d"
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        await reader.readexactly(len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
        writer.write(struct.pack("!xHBBI", 0, settings, 0, 0))
        while True:
            length, kind, flags, stream = struct.unpack("!xHBBI", await reader.readexactly(9))
            await reader.readexactly(length)
            if kind == settings and not flags:
                writer.write(struct.pack("!xHBBI", 0, settings, 1, 0))
            elif kind in {data, headers} and flags & ends:
                writer.write(struct.pack("!xHBBI", 1, headers, ends | ends_headers, stream) + not_found)


@pytest.mark.parametrize("answer", [answer_http1, answer_http2], ids=["HTTP/1", "HTTP/2"])
async def test_a_server_of_plain_http_is_told_from_one_that_has_nothing_to_say(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> None:
    connections: list[asyncio.Task[None] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(asyncio.current_task())
        await answer(reader, writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = "127.0.0.1:{1}".format(*server.sockets[0].getsockname())
    try:
        with pytest.raises(UnreachableError, match=f"does not speak gRPC.*xds dump --admin {address}"):
            await fetch_resources(address, WHO, within=1)
    finally:
        server.close()
        await asyncio.gather(*filter(None, connections))


async def test_a_server_that_never_stops_gets_at_most_as_much_time_again() -> None:
    async with serving(never_stop) as address, asyncio.timeout(PATIENCE):
        with pytest.raises(UnreachableError, match="missing are listener"):
            await fetch_resources(address, WHO, within=1)


@pytest.mark.parametrize("credentials", [Credentials(), Credentials(server_ca=CA)], ids=["plain", "TLS"])
async def test_a_response_has_a_limit_to_its_size(credentials: Credentials, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[dict[str, object]] = []

    def open_channel(*_: object, options: Sequence[tuple[str, object]]) -> None:
        opened.append(dict(options))

    monkeypatch.setattr(grpc.aio, "insecure_channel", open_channel)
    monkeypatch.setattr(grpc.aio, "secure_channel", open_channel)
    credentials.open("127.0.0.1:1")

    assert [options["grpc.max_receive_message_length"] for options in opened] == [256 << 20]


ADS = ConfigSource(ads=AggregatedConfigSource())
UNKNOWN = Any(type_url="type.googleapis.com/example.v1.Filter", value=b"\x0a\x06canary")


def build_resources(*, has_routes: bool = True) -> dict[ResourceType, dict[str, bytes]]:
    """Build what refers to each other: a listener with routes and a filter that nobody knows, a cluster, endpoints."""
    eds = ClusterEdsClusterConfig(eds_config=ADS, service_name="endpoints-of-c")
    cluster = Cluster(name="c", type=ClusterDiscoveryType.EDS, eds_cluster_config=eds)
    manager = HttpConnectionManager(stat_prefix="x", rds=Rds(route_config_name="r", config_source=ADS))
    filters = [Filter(name="odd", typed_config=UNKNOWN), Filter(name="http", typed_config=Any.pack(manager))]
    listener = Listener(name="l", filter_chains=[FilterChain(filters=filters)])
    routes = {"r": RouteConfiguration(name="r")} if has_routes else {}
    packed: dict[ResourceType, Mapping[str, Message]] = {
        ResourceType.CLUSTER: {"c": cluster},
        ResourceType.ENDPOINT: {"endpoints-of-c": ClusterLoadAssignment(cluster_name="endpoints-of-c")},
        ResourceType.LISTENER: {"l": listener},
        ResourceType.ROUTE: routes,
    }
    return {kind: {name: bytes(Any.pack(item)) for name, item in table.items()} for kind, table in packed.items()}


def describe(fetched: Fetched) -> list[tuple[str, str, str]]:
    return [(item.kind.name.lower(), item.name, item.version) for item in fetched.resources]


ALL = [
    ("cluster", "c", VERSION), ("endpoint", "endpoints-of-c", VERSION), ("listener", "l", VERSION),
    ("route", "r", VERSION),
]  # fmt: skip


@pytest.mark.parametrize(
    ("server", "is_delta"),
    [
        pytest.param(OtherControlPlane(build_resources()), True, id="delta"),
        pytest.param(OtherControlPlane(build_resources(), names_resources=False), True, id="delta without names"),
        pytest.param(OtherControlPlane(build_resources(), wraps=True), True, id="delta, wrapped once more"),
        pytest.param(OtherControlPlane(build_resources(), says_more=True), True, id="delta, and what nobody asked for"),
        pytest.param(OtherControlPlane(build_resources(), speaks_delta=False), False, id="the state of the world"),
        pytest.param(
            OtherControlPlane(build_resources(), speaks_delta=False, says_more=True), False, id="the same, and more"
        ),
        pytest.param(
            OtherControlPlane(build_resources(), speaks_delta=False, wraps=True), False, id="the same, wrapped"
        ),
    ],
)
async def test_everything_of_another_control_plane_is_fetched(server: OtherControlPlane, is_delta: bool) -> None:
    who = Identity(node_id=NodeId("sidecar~192.0.2.1~web-0.shop~cluster.local"), cluster="gateways")
    async with server.serving() as address:
        fetched = await fetch_resources(address, who, within=10)

    assert describe(fetched) == ALL
    assert (fetched.is_delta, fetched.missing) == (is_delta, ())
    assert [(node.id, node.cluster) for node in server.nodes] == [(who.node_id, "gateways")]
    for resource in fetched.resources:
        assert resource.any_body == server.resources[resource.kind][resource.name]


async def test_a_filter_that_is_not_known_is_shown_by_its_type_and_size() -> None:
    async with OtherControlPlane(build_resources()).serving() as address:
        fetched = await fetch_resources(address, WHO, within=10)

    shown = str([render_resource(resource) for resource in fetched.resources])
    assert "{'@type': 'type.googleapis.com/example.v1.Filter', 'value': '[8 bytes that are not known here]'}" in shown
    assert "canary" not in shown


@pytest.mark.parametrize("speaks_delta", [True, False], ids=["delta", "sotw"])
async def test_what_is_referred_to_and_not_sent_is_named_beside_what_was_sent(speaks_delta: bool) -> None:
    server = OtherControlPlane(build_resources(has_routes=False), speaks_delta=speaks_delta)
    async with server.serving() as address:
        fetched = await fetch_resources(address, WHO, within=0.7)

    assert describe(fetched) == ALL[:-1]
    assert fetched.missing == ("route r",)


async def test_what_is_referred_to_and_not_sent_is_a_finding_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    server = OtherControlPlane(build_resources(has_routes=False))
    async with server.serving() as address:
        command = ("dump", "--server", address, "--node", "any-id", "--node-cluster", "gateways", "--timeout", "500ms")
        outcome = await asyncio.to_thread(Runner(capsys), *command, "-o", "json")

    assert outcome.code == 1
    assert [(item["type"], item["name"]) for item in json.loads(outcome.out)] == [name[:2] for name in ALL[:-1]]
    assert "did not send within 0.5 s what these resources refer to: route r; an Envoy would wait" in outcome.err
    assert [(node.id, node.cluster) for node in server.nodes] == [("any-id", "gateways")]


async def test_a_resource_that_nobody_can_read_has_no_name_and_is_shown() -> None:
    damaged = ProtoAny(type_url=CLUSTER, value=b"\x0a\x01\xff").SerializeToString()
    resources = {**build_resources(), ResourceType.CLUSTER: {"x": damaged}}
    async with OtherControlPlane(resources, speaks_delta=False).serving() as address:
        fetched = await fetch_resources(address, WHO, within=10)

    assert describe(fetched)[0] == ("cluster", "", VERSION)
    assert render_resource(fetched.resources[0]) == {"@type": CLUSTER, "value": "[3 bytes that are not known here]"}


async def test_what_a_server_says_is_repeated_without_logins() -> None:
    async def refuse(requests: AsyncIterator[DeltaDiscoveryRequest], context: Context) -> None:
        await anext(requests)
        await context.abort(
            grpc.StatusCode.INTERNAL, "no answer from https://me:canary@example/ for Basic bWU6Y2FuYXJ5"
        )

    async with serving(refuse) as address:
        with pytest.raises(UnreachableError, match="INTERNAL") as raised:
            await fetch_resources(address, WHO, within=10)

    assert "canary" not in str(raised.value)
    assert "bWU6" not in str(raised.value)
