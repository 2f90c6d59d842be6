"""
A control plane of somebody else: it serves what it was given, to everybody, in one variant of ADS or in both.

It behaves as go-control-plane does where servers may differ: versions are those of the whole, SotW is answered only
once all resources of a type are asked for, and nothing is said of names that do not exist.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.any_pb2 import Any as ProtoAny

from xds.gen.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
    Node,
    Resource,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from xds.resources import ResourceType

    DeltaContext = grpc.aio.ServicerContext[DeltaDiscoveryRequest, DeltaDiscoveryResponse]
    SotwContext = grpc.aio.ServicerContext[DiscoveryRequest, DiscoveryResponse]

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
VERSION = "7"
UNASKED = "type.googleapis.com/example.v1.Unasked"


@dataclass
class OtherControlPlane:
    """What it serves, and whom it met."""

    resources: Mapping[ResourceType, Mapping[str, bytes]]
    """By name: each the serialised `Any`."""
    speaks_delta: bool = True
    names_resources: bool = True
    """Whether delta tells names, which are inside the resources, too."""
    wraps: bool = False
    """Whether each resource is sent inside another message that names it."""
    says_more: bool = False
    """Whether it begins with a type that nobody asked for."""
    nodes: list[Node] = field(default_factory=list)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Listen until the block ends."""
        server = grpc.aio.server()
        sotw = grpc.stream_stream_rpc_method_handler(
            self._serve_sotw,
            request_deserializer=DiscoveryRequest.FromString,
            response_serializer=DiscoveryResponse.SerializeToString,
        )
        delta = grpc.stream_stream_rpc_method_handler(
            self._serve_delta,
            request_deserializer=DeltaDiscoveryRequest.FromString,
            response_serializer=DeltaDiscoveryResponse.SerializeToString,
        )
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {"StreamAggregatedResources": sotw}
        if self.speaks_delta:
            methods["DeltaAggregatedResources"] = delta
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(None)

    async def _serve_delta(self, requests: AsyncIterator[DeltaDiscoveryRequest], context: DeltaContext) -> None:
        asked: set[str] = set()
        if self.says_more:
            await context.write(DeltaDiscoveryResponse(type_url=UNASKED, nonce="n", resources=[b"\xff"]))
        async for request in requests:
            self._meet(request)
            wanted = list(request.resource_names_subscribe)
            if request.type_url not in asked or wanted:
                asked.add(request.type_url)
                names = wanted or self._of(request.type_url)
                await context.write(
                    DeltaDiscoveryResponse(
                        type_url=request.type_url,
                        nonce="n",
                        resources=[
                            Resource(
                                name=name if self.names_resources else "",
                                version=VERSION,
                                resource=self._wrap(name, body),
                            ).SerializeToString()
                            for name, body in self._pick(request.type_url, names)
                        ],
                    )
                )

    async def _serve_sotw(self, requests: AsyncIterator[DiscoveryRequest], context: SotwContext) -> None:
        told: dict[str, tuple[str, ...]] = {}
        if self.says_more:
            await context.write(DiscoveryResponse(type_url=UNASKED, nonce="n", resources=[b"\xff"]))
        async for request in requests:
            self._meet(request)
            names = tuple(request.resource_names)
            served = self._of(request.type_url)
            is_answer = told.get(request.type_url) == names
            if is_answer or (names and not set(served) <= set(names)):
                continue
            assert request.response_nonce == (f"n{request.type_url}" if request.type_url in told else "")
            told[request.type_url] = names
            await context.write(
                DiscoveryResponse(
                    type_url=request.type_url,
                    version_info=VERSION,
                    nonce=f"n{request.type_url}",
                    resources=[self._wrap(name, body) for name, body in self._pick(request.type_url, names or served)],
                )
            )

    def _meet(self, request: DeltaDiscoveryRequest | DiscoveryRequest) -> None:
        if request.HasField("node"):
            self.nodes.append(request.node)

    def _of(self, type_url: str) -> Mapping[str, bytes]:
        return next((table for kind, table in self.resources.items() if kind.type_url == type_url), {})

    def _pick(self, type_url: str, names: Iterable[str]) -> list[tuple[str, bytes]]:
        table = self._of(type_url)
        return [(name, table[name]) for name in names if name in table]

    def _wrap(self, name: str, body: bytes) -> bytes:
        if not self.wraps:
            return body
        inside = Resource(name=name, version=VERSION, resource=body).SerializeToString()
        return ProtoAny(
            type_url="type.googleapis.com/envoy.service.discovery.v3.Resource", value=inside
        ).SerializeToString()
