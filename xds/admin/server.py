"""
The gRPC side of administration: client status, health and reflection, on an address of their own.

Client status shows every client's configuration, so this address is for operators: it is loopback unless they say
otherwise, and no sidecar has business there. Health is offered to the main server, too, because load balancers ask
the address that they send clients to.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import structlog
from grpc_health.v1 import health
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from xds.admin import csds, reflection
from xds.errors import ListenError

if TYPE_CHECKING:
    from xds.admin.readiness import Readiness

_ADS = "envoy.service.discovery.v3.AggregatedDiscoveryService"
_OPTIONS = (("grpc.so_reuseport", 0), ("grpc.max_send_message_length", -1))

_log = structlog.stdlib.get_logger(__name__)


class Health:
    """The health service: it follows readiness, for the server as a whole and for aggregated discovery."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness
        self._servicer = health.aio.HealthServicer()
        self._changed = asyncio.Event()
        self._changed.set()
        readiness.subscribe(self._changed.set)

    def register(self, server: grpc.aio.Server, *, watches: bool = True) -> None:
        """Offer the service on `server`; without `watches` nobody can hold a stream of it open."""
        methods: dict[str, grpc.RpcMethodHandler[HealthCheckRequest, HealthCheckResponse]] = {
            "Check": grpc.unary_unary_rpc_method_handler(
                self._servicer.Check,
                request_deserializer=HealthCheckRequest.FromString,
                response_serializer=HealthCheckResponse.SerializeToString,
            )
        }
        if watches:
            methods["Watch"] = grpc.unary_stream_rpc_method_handler(
                self._servicer.Watch,
                request_deserializer=HealthCheckRequest.FromString,
                response_serializer=HealthCheckResponse.SerializeToString,
            )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(health.SERVICE_NAME, methods),))

    async def update(self) -> None:
        """Tell the present state to those who ask and those who watch."""
        self._changed.clear()
        is_ready = self._readiness.reason is None
        state = HealthCheckResponse.SERVING if is_ready else HealthCheckResponse.NOT_SERVING
        for service in ("", _ADS):
            await self._servicer.set(service, state)

    async def run(self) -> None:
        """Follow readiness until cancelled."""
        while True:
            await self._changed.wait()
            await self.update()


class AdminServer:
    """Serves operators' tools. Create it inside a running loop."""

    def __init__(self, status: csds.ClientStatus, health_service: Health) -> None:
        self._server = grpc.aio.server(options=_OPTIONS)
        handlers = (status.handler(), *reflection.reflection_handlers(reflection.SERVICES))
        self._server.add_generic_rpc_handlers(handlers)
        health_service.register(self._server)

    async def start(self, address: str) -> int:
        """Listen on `address` (`host:port`, port 0 for any) and return the port. Raises ListenError."""
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise ListenError(f"can't listen on {address}: choose another --admin-listen, or none") from error
        await self._server.start()
        _log.info("client status, health and reflection", address=address, port=port)
        return port

    async def stop(self) -> None:
        """End at once; nobody's configuration depends on it."""
        await self._server.stop(None)
