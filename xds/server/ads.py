"""
The gRPC edge: aggregated discovery, SotW and delta, over grpc.aio.

Bytes go through as they are: requests are decoded by the session, responses are already encoded. This
module owns the socket and the life of the streams; it knows neither policies nor what is sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import structlog

from xds.errors import ListenError
from xds.protocol.wire import CONTROL_PLANE
from xds.server.services import build_handlers
from xds.server.session import DELTA, SOTW, Common, Method, Session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from xds.cache import SnapshotCache
    from xds.clients import Clients
    from xds.protocol.stream import RequestT
    from xds.server.session import Context

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"

MAX_RECEIVE_BYTES = 8 * 1024 * 1024
"""
Largest request that is accepted, in bytes. gRPC's own 4 MiB is too little for a reconnecting delta client, whose
first request lists every resource that it has; above the limit gRPC answers RESOURCE_EXHAUSTED.
"""

_OPTIONS: tuple[tuple[str, int], ...] = (
    # Two servers on one port would share the connections and serve different worlds.
    ("grpc.so_reuseport", 0),
    ("grpc.max_send_message_length", -1),
    # All Envoys of a cluster connect at once after a restart; gRPC's defaults would refuse most of them.
    ("grpc.server.max_pending_requests", 20_000),
    ("grpc.server.max_pending_requests_hard_limit", 50_000),
    # A peer that vanished without a word is found within 40 s, even on an idle stream.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Clients may ping too; an idle ADS stream is normal.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)

_log = structlog.stdlib.get_logger(__name__)


class AdsServer:
    """
    Serves snapshots to Envoys.

    `clock` tells the time of connections in seconds, for the registry only. `identifier` is told to clients as
    `control_plane.identifier`. Create it inside a running loop.
    """

    def __init__(
        self,
        cache: SnapshotCache,
        clients: Clients,
        *,
        clock: Callable[[], float],
        max_receive_bytes: int = MAX_RECEIVE_BYTES,
        identifier: str = CONTROL_PLANE,
    ) -> None:
        self._identifier = identifier
        self._cache = cache
        self._clients = clients
        self._clock = clock
        self._closers: set[Callable[[], None]] = set()
        self._is_closing = False
        self._server = grpc.aio.server(options=(*_OPTIONS, ("grpc.max_receive_message_length", max_receive_bytes)))
        self._server.add_generic_rpc_handlers((self._handlers(), *build_handlers(self._serve)))

    @property
    def grpc_server(self) -> grpc.aio.Server:
        """The server itself, for those who offer a service beside discovery before it starts."""
        return self._server

    async def start(self, address: str) -> int:
        """Listen on `address` (`host:port`, port 0 for any) and return the port. Raises ListenError."""
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise ListenError(f"can't listen on {address}: choose another address, or stop what uses it") from error
        await self._server.start()
        _log.info("listening", address=address, port=port)
        return port

    async def stop(self, grace: float) -> None:
        """
        Stop accepting, end every stream with UNAVAILABLE, and cut what has not ended after `grace` seconds.

        An Envoy keeps its configuration and reconnects, to another replica if there is one.
        """
        self._is_closing = True
        for close in tuple(self._closers):
            close()
        await self._server.stop(grace)
        _log.info("stopped")

    def _handlers(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "StreamAggregatedResources": grpc.stream_stream_rpc_method_handler(self._serve(SOTW)),
                "DeltaAggregatedResources": grpc.stream_stream_rpc_method_handler(self._serve(DELTA)),
            },
        )

    def _serve(self, method: Method[RequestT]) -> Callable[[AsyncIterator[bytes], Context], Awaitable[None]]:
        common = Common(method, self._identifier)
        # Before any stream subscribes, so that each finds it fit for the world that it is woken for.
        self._cache.subscribe(common.forget)

        async def serve(requests: AsyncIterator[bytes], context: Context) -> None:
            session = Session(method, self._cache, self._clients, self._clock, common)
            self._closers.add(session.close)
            if self._is_closing:
                session.close()
            try:
                await session.run(requests, context)
            finally:
                self._closers.discard(session.close)

        return serve
