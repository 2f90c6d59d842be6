"""
A small xDS client: asks a server for what one node gets, once, and returns the bytes.

It speaks delta ADS, because there every resource comes with its name and version, and a name that does not
exist is answered too; a server that serves only the state of the world is asked for that. Clusters and listeners are
asked for as a whole, everything else by the names that they refer to. Each response is acknowledged, as an Envoy would.
The server may be anybody's: types and messages that are not known here are no failure. No exception of grpc leaves this
module.
"""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

import grpc
from google.protobuf.any_pb2 import Any as ProtoAny
from google.protobuf.message import DecodeError

from xds.errors import UnreachableError, redact_logins
from xds.gen.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
    Node,
)
from xds.gen.discovery_pb2 import Resource as WireResource
from xds.names import NodeId, TypeUrl, Version
from xds.protocol.wire import PERISHABLE_SUFFIX
from xds.render import redact_text, render_resource
from xds.resources import RESOURCE_TYPES, Resource, ResourceType

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from google.protobuf.message import Message

_SERVICE = "/envoy.service.discovery.v3.AggregatedDiscoveryService"
_OPTIONS = (("grpc.max_receive_message_length", 256 << 20), ("grpc.enable_http_proxy", 0))
"""Far larger responses than the usual 4 MiB, and no proxy of the environment: it is for what leaves the company."""
_ENDED_UNREAD = "Internal error from Core"
"""What grpc.aio says if the server ended the call while the client was still writing; the status is lost then."""
_NOT_SERVED = re.compile(r"unimplemented|not (?:yet )?(?:implemented|supported)", re.IGNORECASE)
"""What servers say of a variant that they have no use for, whatever the status."""
_HARMLESS = "/grpc.health.v1.Health/Check"
"""A method that any server of gRPC may be asked for, and most have not."""
_PROBE = 1.0
"""Seconds for that."""
_NO_GRPC = re.compile(r"http2 header with status|parsing HTTP/2", re.IGNORECASE)
"""What gRPC says if the answer is one of plain HTTP, of version 2 or before."""
_WRAPPER = "type.googleapis.com/envoy.service.discovery.v3.Resource"
_WILDCARDS = (ResourceType.CLUSTER, ResourceType.LISTENER)

Name = tuple[ResourceType, str]
_Request = TypeVar("_Request", DeltaDiscoveryRequest, DiscoveryRequest)
_Response = TypeVar("_Response", DeltaDiscoveryResponse, DiscoveryResponse)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Whom the client asks for: what an Envoy says of itself in its bootstrap."""

    node_id: NodeId
    labels: tuple[tuple[str, str], ...] = ()
    service_account: str = ""
    cluster: str = "xds-dump"
    """`node.cluster`, by which other control planes may choose what to send."""


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


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a server sent."""

    resources: tuple[Resource, ...]
    """By type and name."""
    is_delta: bool
    """Whether versions are those of single resources, and not those of whole answers."""
    missing: tuple[str, ...] = ()
    """What resources refer to and the server did not speak of in time, such as `route http`; an Envoy waits for it."""


async def fetch_resources(
    server: str, identity: Identity, *, within: float, credentials: Credentials | None = None
) -> Fetched:
    """
    Return everything that `server` (`host:port`) serves to the node, as far as it comes `within` that many seconds.

    What it costs to read what came is not the server's time, but it is never more than `within` again.
    Raises UnreachableError if it can't be reached, refuses the node, or has not told by then of clusters and listeners.
    """
    credentials = credentials or Credentials()
    fetches: list[_Fetch[DeltaDiscoveryRequest, DeltaDiscoveryResponse] | _Fetch[DiscoveryRequest, DiscoveryResponse]]
    fetches = [_DeltaFetch(identity, credentials.metadata)]
    try:
        async with asyncio.timeout(within) as timeout, credentials.open(server) as channel:
            limit = _Limit(timeout, asyncio.get_running_loop().time() + 2 * within)
            try:
                await fetches[-1].run(channel, limit)
            except grpc.aio.AioRpcError as error:
                if not _is_unserved(error):
                    raise
                fetches.append(_SotwFetch(identity, credentials.metadata))
                await fetches[-1].run(channel, limit)
    except TimeoutError as error:
        if fetches[-1].is_silent and not await _speaks_grpc(server, credentials):
            raise _refuse_http(server) from error
        if not fetches[-1].is_usable:
            raise UnreachableError(
                f"{server} did not answer completely within {within:g} s: {fetches[-1].describe_gap()}"
            ) from error
    except grpc.aio.AioRpcError as error:
        raise _translate(server, error) from error
    except DecodeError as error:
        raise UnreachableError(f"{server} does not speak xDS; is this the address of `xds serve`?") from error
    return fetches[-1].outcome


@dataclass(frozen=True, slots=True)
class _Limit:
    """Until when a server has time; `latest` is the end, however long it takes to read what it sends."""

    timeout: asyncio.Timeout
    latest: float

    def extend(self, seconds: float) -> None:
        """Give the server so much more time."""
        self.timeout.reschedule(min((self.timeout.when() or self.latest) + seconds, self.latest))


@dataclass(slots=True)
class _Fetch(ABC, Generic[_Request, _Response]):
    """One exchange: what was asked, and what has come."""

    is_delta: ClassVar[bool]

    identity: Identity
    metadata: tuple[tuple[str, str], ...]
    _found: dict[Name, Resource] = field(default_factory=dict)
    _answered: set[ResourceType | Name] = field(default_factory=set)
    _asked: dict[ResourceType | Name, None] = field(default_factory=dict)

    @property
    def outcome(self) -> Fetched:
        order = list(ResourceType)
        found = sorted(self._found.values(), key=lambda item: (order.index(item.kind), item.name))
        return Fetched(tuple(found), self.is_delta, tuple(self._missing()))

    @property
    def is_usable(self) -> bool:
        """Whether all that is missing is what resources refer to."""
        return self._answered.issuperset(_WILDCARDS)

    @property
    def is_silent(self) -> bool:
        """Whether there was no answer at all, though there was a connection."""
        return bool(self._asked) and not self._answered

    def describe_gap(self) -> str:
        """Say what is missing, and why that may be."""
        if not self._asked:
            return "no connection"
        if not self._answered:
            return (
                f"it says nothing to {redact_logins(self.identity.node_id)}, as it does while the policy in force for "
                "that pod can't be used, and in a cluster without such a pod; see its log, or try: xds validate DIR"
            )
        return f"missing are {', '.join(self._missing())}"

    def _missing(self) -> list[str]:
        return sorted(_describe(item) for item in self._asked.keys() - self._answered)

    async def run(self, channel: grpc.aio.Channel, limit: _Limit) -> None:
        requests: asyncio.Queue[_Request] = asyncio.Queue()
        # One after the other, as an Envoy does: a server that refuses the node does so before anything else is
        # written, since a write that meets the end of the call would hide the status.
        self._subscribe(requests, _WILDCARDS[:1])
        call = self._open(channel, _drain(requests))
        try:
            async for response in call:
                references = self._receive_untimed(response, limit)
                self._acknowledge(requests, response)
                self._subscribe(requests, references)
                self._subscribe(requests, _WILDCARDS)
                if self._asked.keys() <= self._answered:
                    return
        finally:
            call.cancel()
        raise UnreachableError("the server ended the stream before it had sent everything; try again")

    def _receive_untimed(self, response: _Response, limit: _Limit) -> tuple[Name, ...]:
        """Receive without taking it from the server's time: messages are imported when one is met first."""
        clock = asyncio.get_running_loop().time
        started = clock()
        references = self._receive(response)
        limit.extend(clock() - started)
        return references

    def _subscribe(self, requests: asyncio.Queue[_Request], items: Iterable[ResourceType | Name]) -> None:
        """Ask for what was not asked for yet; the first request of the stream says who is asking."""
        wanted: dict[ResourceType, list[str]] = {}
        for item in items:
            if item not in self._asked:
                kind = item if isinstance(item, ResourceType) else item[0]
                wanted.setdefault(kind, []).extend(() if isinstance(item, ResourceType) else (item[1],))
        for kind, names in wanted.items():
            node = None if self._asked else _build_node(self.identity)
            asked: list[ResourceType | Name] = [(kind, name) for name in names]
            self._asked.update(dict.fromkeys(asked or [kind]))
            requests.put_nowait(self._build_request(node, kind, names))

    def _keep(self, kind: ResourceType, resource: Resource) -> frozenset[Name]:
        """Take over one resource; return the names that it refers to."""
        self._found[kind, resource.name] = resource
        self._answered.add((kind, resource.name))
        return find_references(render_resource(resource))

    @abstractmethod
    def _open(
        self, channel: grpc.aio.Channel, requests: AsyncIterator[_Request]
    ) -> grpc.aio.StreamStreamCall[Message, _Response]: ...

    @abstractmethod
    def _build_request(self, node: Node | None, kind: ResourceType, names: Iterable[str]) -> _Request: ...

    @abstractmethod
    def _acknowledge(self, requests: asyncio.Queue[_Request], response: _Response) -> None: ...

    @abstractmethod
    def _receive(self, response: _Response) -> tuple[Name, ...]:
        """Take over one response; return the names that it refers to."""


class _DeltaFetch(_Fetch[DeltaDiscoveryRequest, DeltaDiscoveryResponse]):
    is_delta = True

    def _open(
        self, channel: grpc.aio.Channel, requests: AsyncIterator[DeltaDiscoveryRequest]
    ) -> grpc.aio.StreamStreamCall[Message, DeltaDiscoveryResponse]:
        return channel.stream_stream(
            f"{_SERVICE}/DeltaAggregatedResources",
            request_serializer=DeltaDiscoveryRequest.SerializeToString,
            response_deserializer=DeltaDiscoveryResponse.FromString,
        )(requests, metadata=self.metadata)

    def _build_request(self, node: Node | None, kind: ResourceType, names: Iterable[str]) -> DeltaDiscoveryRequest:
        return DeltaDiscoveryRequest(node=node, type_url=kind.type_url, resource_names_subscribe=names)

    def _acknowledge(self, requests: asyncio.Queue[DeltaDiscoveryRequest], response: DeltaDiscoveryResponse) -> None:
        requests.put_nowait(DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce))

    def _receive(self, response: DeltaDiscoveryResponse) -> tuple[Name, ...]:
        kind = RESOURCE_TYPES.get(TypeUrl(response.type_url))
        if kind is None:
            return ()
        self._answered.add(kind)
        self._answered.update((kind, name) for name in response.removed_resources)
        references: set[Name] = set()
        for body in response.resources:
            wire = WireResource.FromString(body)
            if wire.resource:  # the others are heartbeats
                references |= self._keep(kind, _decode_resource(kind, wire))
        return tuple(sorted(references, key=_describe))


class _SotwFetch(_Fetch[DiscoveryRequest, DiscoveryResponse]):
    """
    The same with the state of the world.

    Each request of a type holds all its names and, once there was one, repeats the last answer's version and nonce (xDS
    protocol, "Basic Protocol Overview"). A name that does not exist is never answered.
    """

    is_delta = False

    def __init__(self, identity: Identity, metadata: tuple[tuple[str, str], ...]) -> None:
        super().__init__(identity, metadata)
        self._last: dict[ResourceType, DiscoveryResponse] = {}

    def _open(
        self, channel: grpc.aio.Channel, requests: AsyncIterator[DiscoveryRequest]
    ) -> grpc.aio.StreamStreamCall[Message, DiscoveryResponse]:
        return channel.stream_stream(
            f"{_SERVICE}/StreamAggregatedResources",
            request_serializer=DiscoveryRequest.SerializeToString,
            response_deserializer=DiscoveryResponse.FromString,
        )(requests, metadata=self.metadata)

    def _build_request(self, node: Node | None, kind: ResourceType, names: Iterable[str]) -> DiscoveryRequest:
        del names  # all of the type are asked for, with those of before
        last = self._last.get(kind, DiscoveryResponse())
        return DiscoveryRequest(
            node=node,
            type_url=kind.type_url,
            resource_names=[item[1] for item in self._asked if isinstance(item, tuple) and item[0] is kind],
            version_info=last.version_info,
            response_nonce=last.nonce,
        )

    def _acknowledge(self, requests: asyncio.Queue[DiscoveryRequest], response: DiscoveryResponse) -> None:
        kind = RESOURCE_TYPES.get(TypeUrl(response.type_url))
        if kind is not None:
            requests.put_nowait(self._build_request(None, kind, ()))

    def _receive(self, response: DiscoveryResponse) -> tuple[Name, ...]:
        kind = RESOURCE_TYPES.get(TypeUrl(response.type_url))
        if kind is None:
            return ()
        self._last[kind] = response
        self._answered.add(kind)
        references: set[Name] = set()
        for body in response.resources:
            wire = WireResource(version=response.version_info, resource=body)
            references |= self._keep(kind, _decode_resource(kind, wire))
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


async def _drain(requests: asyncio.Queue[_Request]) -> AsyncIterator[_Request]:
    while True:
        yield await requests.get()


def _build_node(identity: Identity) -> Node:
    node = Node(id=identity.node_id, cluster=identity.cluster, user_agent_name="xds-dump")
    if identity.labels:
        node.metadata.update({"labels": dict(identity.labels)})
    if identity.service_account:
        node.metadata.update({"serviceAccount": identity.service_account})
    return node


def _decode_resource(kind: ResourceType, wire: WireResource) -> Resource:
    """
    Decode what is in one resource of a response. Raises DecodeError.

    Either variant may send it wrapped once more (xDS protocol, "TTL"), and without a name; the name is the first field
    of every message that is a resource.
    """
    name, version, any_body = wire.name, wire.version, wire.resource
    content = ProtoAny.FromString(any_body)
    if content.type_url == _WRAPPER:
        inner = WireResource.FromString(content.value)
        name, version, any_body = inner.name or name, inner.version or version, inner.resource
        content = ProtoAny.FromString(any_body)
    return Resource(
        kind=kind,
        name=name or _read_first_text(content.value),
        version=Version(version.removesuffix(PERISHABLE_SUFFIX)),
        body=content.value,
        any_body=any_body,
    )


def _read_first_text(body: bytes) -> str:
    """Read field 1 as text; empty if it is none. An `Any` has one there, too."""
    try:
        return ProtoAny.FromString(body).type_url
    except DecodeError:
        return ""


def _describe(item: ResourceType | Name) -> str:
    return item.name.lower() if isinstance(item, ResourceType) else f"{item[0].name.lower()} {item[1]}"


def _is_unserved(error: grpc.aio.AioRpcError) -> bool:
    """Whether a server may be without delta: each says it in its own way."""
    details = error.details() or ""
    match error.code():
        case grpc.StatusCode.UNIMPLEMENTED:
            return True
        case grpc.StatusCode.INTERNAL:
            return details == _ENDED_UNREAD
        case grpc.StatusCode.UNAVAILABLE:
            return False
        case _:
            return bool(_NOT_SERVED.search(details))


async def _speaks_grpc(server: str, credentials: Credentials) -> bool:
    """
    Whether who says nothing on a stream answers a single request as a server of gRPC does.

    Envoy's admin interface takes HTTP/2, and waits for the end of whatever it is asked.
    """
    try:
        async with credentials.open(server) as channel:
            ask: grpc.aio.UnaryUnaryMultiCallable[Node, bytes] = channel.unary_unary(
                _HARMLESS, request_serializer=Node.SerializeToString
            )
            # Empty messages are alike.
            await ask(Node(), timeout=_PROBE)
    except grpc.aio.AioRpcError as error:
        return not _NO_GRPC.search(error.details() or "")
    return True


def _refuse_http(server: str) -> UnreachableError:
    return UnreachableError(
        f"{server} does not speak gRPC, but plain HTTP; is this the address of `xds serve`, and not an Envoy's admin "
        f"interface? What that has: xds dump --admin {server}"
    )


def _translate(server: str, error: grpc.aio.AioRpcError) -> UnreachableError:
    details = redact_text((error.details() or "").partition("\n")[0])
    match error.code():
        case grpc.StatusCode.UNAVAILABLE if _NO_GRPC.search(details):
            return _refuse_http(server)
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
            return UnreachableError(f"{server} does not serve ADS; is this the address of `xds serve`?")
        case grpc.StatusCode.INTERNAL if details == _ENDED_UNREAD:
            return UnreachableError(f"{server} ended the call unread; does it serve ADS? See its log")
        case grpc.StatusCode.INVALID_ARGUMENT:
            return UnreachableError(f"{server} refuses the request: {details}; check --node, --label")
        case code:
            return UnreachableError(f"{server} broke off with {code.name}: {details}; see its log")
