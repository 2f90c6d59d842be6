"""
A small xDS client: asks a server for what one node gets, once, and returns the bytes.

It speaks delta ADS, because there every resource comes with its name and version, and a name that does not
exist is answered too. Clusters and listeners are asked for as a whole, everything else by the names that they
refer to. Each response is acknowledged, as an Envoy would. No exception of grpc leaves this module.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
from google.protobuf.any_pb2 import Any as ProtoAny
from google.protobuf.message import DecodeError

from xds.errors import UnreachableError
from xds.gen.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse, Node
from xds.gen.discovery_pb2 import Resource as WireResource
from xds.names import NodeId, TypeUrl, Version
from xds.protocol.wire import PERISHABLE_SUFFIX
from xds.render import render_resource
from xds.resources import RESOURCE_TYPES, Resource, ResourceType

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

_METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
_OPTIONS = (("grpc.max_receive_message_length", -1),)
_ENDED_UNREAD = "Internal error from Core"
"""What grpc.aio says if the server ended the call while the client was still writing; the status is lost then."""
_WILDCARDS = (ResourceType.CLUSTER, ResourceType.LISTENER)

Name = tuple[ResourceType, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Whom the client asks for: what an Envoy says of itself in its bootstrap."""

    node_id: NodeId
    labels: tuple[tuple[str, str], ...] = ()
    service_account: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What the client proves, and whom it believes; nothing without TLS but a token."""

    server_ca: bytes | None = None
    """PEM; None: no TLS."""
    server_name: str = ""
    """What the server's certificate is for; empty: its host."""
    token: str = field(default="", repr=False)
    certificate: bytes | None = None
    key: bytes | None = field(default=None, repr=False)
    """PEM."""

    def open(self, server: str) -> grpc.aio.Channel:
        """Return a channel to `server`."""
        if self.server_ca is None:
            return grpc.aio.insecure_channel(server, options=_OPTIONS)
        name = [("grpc.ssl_target_name_override", self.server_name)] if self.server_name else []
        credentials = grpc.ssl_channel_credentials(self.server_ca, self.key, self.certificate)
        return grpc.aio.secure_channel(server, credentials, options=[*_OPTIONS, *name])

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What each call carries."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()


async def fetch_resources(
    server: str, identity: Identity, *, within: float, credentials: Credentials | None = None
) -> tuple[Resource, ...]:
    """
    Return everything that `server` (`host:port`) serves to the node, by type and name.

    Raises UnreachableError if it can't be reached, refuses the node, or has not answered `within` that many seconds.
    """
    credentials = credentials or Credentials()
    fetch = _Fetch(identity, credentials.metadata)
    try:
        async with asyncio.timeout(within), credentials.open(server) as channel:
            await fetch.run(channel)
    except TimeoutError as error:
        raise UnreachableError(
            f"{server} did not answer completely within {within:g} s: {fetch.describe_gap()}"
        ) from error
    except grpc.aio.AioRpcError as error:
        raise _translate(server, error) from error
    except DecodeError as error:
        raise UnreachableError(f"{server} does not speak xDS; is this the address of `xds serve`?") from error
    return fetch.resources


@dataclass(slots=True)
class _Fetch:
    """One exchange: what was asked, and what has come."""

    identity: Identity
    metadata: tuple[tuple[str, str], ...]
    _found: dict[Name, Resource] = field(default_factory=dict)
    _answered: set[ResourceType | Name] = field(default_factory=set)
    _asked: set[ResourceType | Name] = field(default_factory=set)

    @property
    def resources(self) -> tuple[Resource, ...]:
        order = list(ResourceType)
        return tuple(sorted(self._found.values(), key=lambda item: (order.index(item.kind), item.name)))

    def describe_gap(self) -> str:
        """Say what is missing, and why that may be."""
        if not self._asked:
            return "no connection"
        if not self._answered:
            return (
                f"it says nothing to {self.identity.node_id}, as it does while the policy in force for that pod can't "
                "be used, and in a cluster without such a pod; see its log, or try: xds validate DIR"
            )
        missing = sorted(_describe(item) for item in self._asked - self._answered)
        return f"missing are {', '.join(missing)}"

    async def run(self, channel: grpc.aio.Channel) -> None:
        requests: asyncio.Queue[DeltaDiscoveryRequest] = asyncio.Queue()
        # One after the other, as an Envoy does: a server that refuses the node does so before anything else is
        # written, since a write that meets the end of the call would hide the status.
        self._subscribe(requests, _WILDCARDS[:1])
        call = channel.stream_stream(
            _METHOD,
            request_serializer=DeltaDiscoveryRequest.SerializeToString,
            response_deserializer=DeltaDiscoveryResponse.FromString,
        )(_drain(requests), metadata=self.metadata)
        try:
            async for response in call:
                requests.put_nowait(DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce))
                self._subscribe(requests, self._receive(response))
                self._subscribe(requests, _WILDCARDS)
                if self._asked <= self._answered:
                    return
        finally:
            call.cancel()
        raise UnreachableError("the server ended the stream before it had sent everything; try again")

    def _subscribe(self, requests: asyncio.Queue[DeltaDiscoveryRequest], items: Iterable[ResourceType | Name]) -> None:
        """Ask for what was not asked for yet; the first request of the stream says who is asking."""
        for item in items:
            if item in self._asked:
                continue
            kind, names = (item, ()) if isinstance(item, ResourceType) else (item[0], (item[1],))
            node = None if self._asked else _build_node(self.identity)
            requests.put_nowait(
                DeltaDiscoveryRequest(node=node, type_url=kind.type_url, resource_names_subscribe=names)
            )
            self._asked.add(item)

    def _receive(self, response: DeltaDiscoveryResponse) -> tuple[Name, ...]:
        """Take over one response; return the names that it refers to."""
        kind = RESOURCE_TYPES.get(TypeUrl(response.type_url))
        if kind is None:
            return ()
        self._answered.add(kind)
        self._answered.update((kind, name) for name in response.removed_resources)
        references: set[Name] = set()
        for body in response.resources:
            wire = WireResource.FromString(body)
            if not wire.resource:
                continue  # a heartbeat
            resource = _decode_resource(kind, wire)
            self._found[kind, resource.name] = resource
            self._answered.add((kind, resource.name))
            references.update(find_references(render_resource(resource)))
        return tuple(sorted(references, key=_describe))


def find_references(rendered: object) -> frozenset[Name]:
    """Return what a rendered resource makes an Envoy ask for: route configurations, endpoints and secrets."""
    match rendered:
        case dict():
            return _own_references(rendered).union(*map(find_references, rendered.values()))
        case list():
            return frozenset[Name]().union(*map(find_references, rendered))
        case _:
            return frozenset()


def _own_references(message: Mapping[str, object]) -> frozenset[Name]:
    found: set[Name] = set()
    match message:
        case {"rds": {"route_config_name": str(name)}}:
            found.add((ResourceType.ROUTE, name))
        case {"sds_config": dict(), "name": str(name)}:
            found.add((ResourceType.SECRET, name))
        case {"eds_cluster_config": {"service_name": str(name)}} | {"eds_cluster_config": dict(), "name": str(name)}:
            found.add((ResourceType.ENDPOINT, name))
        case _:
            pass
    return frozenset(found)


async def _drain(requests: asyncio.Queue[DeltaDiscoveryRequest]) -> AsyncIterator[DeltaDiscoveryRequest]:
    while True:
        yield await requests.get()


def _build_node(identity: Identity) -> Node:
    node = Node(id=identity.node_id, cluster="xds-dump", user_agent_name="xds-dump")
    if identity.labels:
        node.metadata.update({"labels": dict(identity.labels)})
    if identity.service_account:
        node.metadata.update({"serviceAccount": identity.service_account})
    return node


def _decode_resource(kind: ResourceType, wire: WireResource) -> Resource:
    """Decode what is in one resource of a response. Raises DecodeError."""
    content = ProtoAny.FromString(wire.resource)
    version = Version(wire.version.removesuffix(PERISHABLE_SUFFIX))
    return Resource(kind=kind, name=wire.name, version=version, body=content.value, any_body=wire.resource)


def _describe(item: ResourceType | Name) -> str:
    return item.name.lower() if isinstance(item, ResourceType) else f"{item[0].name.lower()} {item[1]}"


def _translate(server: str, error: grpc.aio.AioRpcError) -> UnreachableError:
    details = (error.details() or "").partition("\n")[0]
    match error.code():
        case grpc.StatusCode.UNAVAILABLE:
            return UnreachableError(
                f"{server} can't be reached ({details}); is `xds serve` running there, and does it speak TLS "
                "(--server-ca)?"
            )
        case grpc.StatusCode.UNAUTHENTICATED:
            return UnreachableError(
                f"{server} does not believe the caller; add --token-file, or --client-certificate and --client-key, of "
                "that pod; why it does not is in its log"
            )
        case grpc.StatusCode.PERMISSION_DENIED:
            return UnreachableError(f"{server} says that {details}; give --node of the pod that the token is for")
        case grpc.StatusCode.UNIMPLEMENTED:
            return UnreachableError(f"{server} does not serve delta ADS; is this the address of `xds serve`?")
        case grpc.StatusCode.INTERNAL if details == _ENDED_UNREAD:
            return UnreachableError(f"{server} ended the call unread; does it serve delta ADS? See its log")
        case grpc.StatusCode.INVALID_ARGUMENT:
            return UnreachableError(f"{server} refuses the request: {details}; check --node, --label")
        case code:
            return UnreachableError(f"{server} broke off with {code.name}: {details}; see its log")
