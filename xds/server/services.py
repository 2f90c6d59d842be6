"""
The separate discovery services, one per resource type, beside the aggregated one.

Each of their streams is an ordinary session that speaks of one type only. A request's `type_url` is implied here and
may be left out (discovery.proto, `type_url`); naming another type is the client's mistake and ends its stream.

Streams of one node are consistent: all look at the same published world. Their order among each other is up to the
network, which is why ADS exists (xDS protocol, "Aggregated Discovery Service").

Nothing here decides what to send. Invariant: a stream of one service never carries another's type.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import grpc

from xds.resources import ResourceType
from xds.server.session import DELTA, SOTW, Method, RequestError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
    from typing import Protocol

    from xds.gen.discovery_pb2 import Node
    from xds.protocol.stream import RequestT
    from xds.server.session import Context

    class Serve(Protocol):
        """Makes what answers the streams of one RPC."""

        def __call__(self, method: Method[RequestT], /) -> Callable[[AsyncIterator[bytes], Context], Awaitable[None]]:
            """Return the behaviour of `method`."""


_SHOWN = 200
"""Characters of a client's type URL that are told back."""


@dataclass(frozen=True, slots=True)
class Service:
    """A discovery service of one type: its full name, and the last part of its RPCs' names."""

    name: str
    noun: str
    kind: ResourceType


SERVICES = (
    Service("envoy.service.cluster.v3.ClusterDiscoveryService", "Clusters", ResourceType.CLUSTER),
    Service("envoy.service.endpoint.v3.EndpointDiscoveryService", "Endpoints", ResourceType.ENDPOINT),
    Service("envoy.service.listener.v3.ListenerDiscoveryService", "Listeners", ResourceType.LISTENER),
    Service("envoy.service.route.v3.RouteDiscoveryService", "Routes", ResourceType.ROUTE),
    Service("envoy.service.secret.v3.SecretDiscoveryService", "Secrets", ResourceType.SECRET),
)


def build_handlers(serve: Serve) -> Iterable[grpc.GenericRpcHandler]:
    """Return the handlers of all separate services; `serve` answers their streams."""
    return tuple(
        grpc.method_handlers_generic_handler(
            service.name,
            {
                f"Stream{service.noun}": grpc.stream_stream_rpc_method_handler(serve(restrict(SOTW, service.kind))),
                f"Delta{service.noun}": grpc.stream_stream_rpc_method_handler(serve(restrict(DELTA, service.kind))),
                f"Fetch{service.noun}": grpc.unary_unary_rpc_method_handler(_refuse_fetch),
            },
        )
        for service in SERVICES
    )


def restrict(method: Method[RequestT], kind: ResourceType) -> Method[RequestT]:
    """Return `method` for requests of `kind` alone; decoding any other raises RequestError."""

    def decode(body: bytes) -> tuple[Node | None, RequestT]:
        node, request = method.decode(body)
        if request.type_url not in {"", kind.type_url}:
            raise RequestError(f"this service is for {kind.type_url}, not for {request.type_url[:_SHOWN]}")
        return node, replace(request, type_url=kind.type_url)

    return replace(method, decode=decode, kind=kind)


async def _refuse_fetch(_: bytes, context: Context) -> None:
    await context.abort(
        grpc.StatusCode.UNIMPLEMENTED, "configuration is served on streams only; call Stream… or Delta…"
    )
