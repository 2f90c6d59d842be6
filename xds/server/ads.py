"""
The gRPC edge: aggregated discovery, SotW and delta, over grpc.aio.

Bytes go through as they are: requests are decoded by the session, responses are already encoded. This
module owns the socket and the life of the streams; it knows neither policies nor what is sent.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NoReturn

import grpc
import structlog

from xds.errors import ListenError
from xds.protocol.wire import CONTROL_PLANE
from xds.server.identity import IdentityError, UndecidedError
from xds.server.lifetime import limit_life
from xds.server.limits import Limits, StreamCounter
from xds.server.services import build_handlers
from xds.server.session import DELTA, SOTW, Common, End, Guard, Method, Session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from xds.cache import SnapshotCache
    from xds.clients import Clients
    from xds.protocol.stream import RequestT
    from xds.server.authentication import Authentication
    from xds.server.identity import Caller
    from xds.server.session import Context
    from xds.workloads import Workloads

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
    ("grpc.max_concurrent_streams", 100),
    # A connection that has reached its age lets its streams end, and gets little time for it: they never do.
    ("grpc.max_connection_age_grace_ms", 1_000),
)

_CLOSING_INTERVAL = 0.01
"""Seconds from one group of streams that a server ends when it stops to the next."""
_CLOSING_TIME = 0.0025
"""Seconds per stream that a server takes for that, if it has them."""

_log = structlog.stdlib.get_logger(__name__)


class AdsServer:
    """
    Serves snapshots to Envoys.

    `clock` gives seconds since the epoch. `identifier` is told to clients as `control_plane.identifier`. Without
    `authentication` everybody is believed to be the node that they name; with `workloads`, a node is served as the pod
    that the cluster tells of, and without as what it claims to be. `resource_ttl` is how long an incremental client may
    keep what it is sent, in seconds, once it hears nothing from here. Create it inside a running loop.
    """

    def __init__(  # noqa: PLR0913  # its parts, and options that all have defaults
        self,
        cache: SnapshotCache,
        clients: Clients,
        *,
        clock: Callable[[], float],
        max_receive_bytes: int = MAX_RECEIVE_BYTES,
        identifier: str = CONTROL_PLANE,
        authentication: Authentication | None = None,
        workloads: Workloads | None = None,
        limits: Limits | None = None,
        resource_ttl: float | None = None,
    ) -> None:
        self._identifier = identifier
        self._resource_ttl = resource_ttl
        self._authentication = authentication
        self._workloads = workloads
        limits = limits or Limits()
        self._guard = Guard(limits, StreamCounter(limits.streams_per_node))
        self._cache = cache
        self._clients = clients
        self._clock = clock
        self._closers: set[Callable[[], None]] = set()
        self._is_closing = False
        options = [
            *_OPTIONS,
            ("grpc.max_receive_message_length", max_receive_bytes),
            ("grpc.server_handshake_timeout_ms", int(limits.handshake * 1000)),
            ("grpc.max_connection_idle_ms", int(limits.idle_connection * 1000)),
        ]
        if limits.connection_age is not None:
            options.append(("grpc.max_connection_age_ms", int(limits.connection_age * 1000)))
        self._server = grpc.aio.server(options=options)
        self._server.add_generic_rpc_handlers((self._handlers(), *build_handlers(self._serve)))

    @property
    def grpc_server(self) -> grpc.aio.Server:
        """The server itself, for those who offer a service beside discovery before it starts."""
        return self._server

    async def start(self, address: str) -> int:
        """Listen on `address` (`host:port`, port 0 for any) and return the port. Raises ListenError."""
        credentials = None if self._authentication is None else self._authentication.credentials()
        try:
            if credentials is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise ListenError(f"can't listen on {address}: choose another address, or stop what uses it") from error
        await self._server.start()
        _log.info("listening", address=address, port=port)
        return port

    async def stop(self, grace: float) -> None:
        """
        Stop accepting, end every stream with UNAVAILABLE, and cut what has not ended after `grace` seconds.

        An Envoy keeps its configuration and reconnects, to another replica if there is one. Streams end one after the
        other within the first half of `grace`, so that the other replicas do not get all of them at once.
        """
        self._is_closing = True
        stopping = asyncio.create_task(self._server.stop(grace))
        await self._close_all(min(grace / 2, len(self._closers) * _CLOSING_TIME))
        await stopping
        _log.info("stopped")

    async def _close_all(self, duration: float) -> None:
        """End all streams, evenly over so many seconds, however long each sleep really takes."""
        loop, closers, closed = asyncio.get_running_loop(), tuple(self._closers), 0
        start = loop.time()
        while closed < len(closers):
            share = (loop.time() - start) / duration if duration else 1.0
            due = min(len(closers), max(closed + 1, int(len(closers) * share)))
            for close in closers[closed:due]:
                close()
            closed = due
            if closed < len(closers):
                await asyncio.sleep(_CLOSING_INTERVAL)

    def _handlers(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "StreamAggregatedResources": grpc.stream_stream_rpc_method_handler(self._serve(SOTW)),
                "DeltaAggregatedResources": grpc.stream_stream_rpc_method_handler(self._serve(DELTA)),
            },
        )

    def _serve(self, method: Method[RequestT]) -> Callable[[AsyncIterator[bytes], Context], Awaitable[None]]:
        method = limit_life(method, self._resource_ttl)
        common = Common(method, self._identifier)
        # Before any stream subscribes, so that each finds it fit for the world that it is woken for.
        self._cache.subscribe(common.forget)

        async def serve(requests: AsyncIterator[bytes], context: Context) -> None:
            callers = await self._authenticate(context)
            session = Session(
                method,
                self._cache,
                self._clients,
                self._clock,
                common,
                guard=self._guard,
                callers=callers,
                workloads=self._workloads,
            )
            self._closers.add(session.close)
            if self._is_closing:
                session.close()
            try:
                await session.run(requests, context)
            finally:
                self._closers.discard(session.close)

        return serve

    async def _authenticate(self, context: Context) -> tuple[Caller, ...]:
        if self._authentication is None:
            return ()
        try:
            return await self._authentication.authenticate(context)
        except IdentityError as error:
            end = End(grpc.StatusCode.UNAUTHENTICATED, "the caller is not authenticated")
            await self._turn_away(context, end, error)
        except UndecidedError as error:
            told = "the caller can't be authenticated at the moment; try again"
            await self._turn_away(context, End(grpc.StatusCode.UNAVAILABLE, told), error)

    async def _turn_away(self, context: Context, end: End, reason: Exception) -> NoReturn:
        if self._guard.may_log():
            _log.warning("caller refused", peer=context.peer(), reason=str(reason))
        self._clients.note_refused(end.code.name.lower())
        await context.abort(end.code, end.details)
