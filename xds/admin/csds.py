"""
Client status discovery: what each connected client was sent, and what it made of it.

Source: envoy/service/status/v3/csds.proto, read as a management server. One `ClientConfig` per node, also while it has
several streams, with the node's id as `client_scope`, since that is what tools print beside each resource.
`config_status` says it in the server's words, `client_status` in the client's; tools read the second. What there is no
field for stands in the node's metadata under one key, see `xds.admin.own_status`.

This shows configuration, so it must be served to operators only. Invariant: of a secret nothing but its name is shown.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, assert_never

import grpc
from google.protobuf.any_pb2 import Any as ProtoAny
from google.protobuf.timestamp_pb2 import Timestamp

from xds.admin.matching import MatcherError, matches_any
from xds.admin.own_status import OwnStatus
from xds.clients import OWN_METADATA
from xds.gen.discovery_pb2 import Node
from xds.gen.status_pb2 import (
    ACKED,
    DOES_NOT_EXIST,
    ERROR,
    NACKED,
    NOT_SENT,
    REQUESTED,
    STALE,
    SYNCED,
    ClientConfig,
    ClientStatusRequest,
    ClientStatusResponse,
    UpdateFailureState,
)
from xds.policy.model import Mode
from xds.render.said import redact_said
from xds.resources import ResourceStatus, ResourceType, Standing, encode_varint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    from xds.cache import SnapshotCache
    from xds.clients import Client, Clients, Nack
    from xds.gen.status_pb2 import ClientResourceStatus, ConfigStatus
    from xds.resources import Resource

    Context = grpc.aio.ServicerContext[ClientStatusRequest, ClientStatusResponse]

_Status = tuple[ResourceStatus, "Client"]

SERVICE = "envoy.service.status.v3.ClientStatusDiscoveryService"

MAX_RESPONSE_BYTES = 7 << 19
"""
Bytes up to which the content of resources is put into a response; their status is never left out.

gRPC clients refuse responses above 4 MiB unless told otherwise, and a thousand sidecars have a thousand times the same
listener. Who wants to see one names its node.
"""

_CLIENTS_PER_TURN = 50
"""Clients that are described before the streams get a turn: an answer about thousands takes a while."""


class ClientStatus:
    """The service: `fetch` answers once, `stream` every request of a stream."""

    def __init__(self, clients: Clients, cache: SnapshotCache, *, replica: str = "") -> None:
        self._clients = clients
        self._cache = cache
        self._own = OwnStatus(cache, replica)

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what a gRPC server needs to serve this."""
        decode, encode = ClientStatusRequest.FromString, ClientStatusResponse.SerializeToString
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "FetchClientStatus": grpc.unary_unary_rpc_method_handler(self.fetch, decode, encode),
                "StreamClientStatus": grpc.stream_stream_rpc_method_handler(self.stream, decode, encode),
            },
        )

    async def fetch(self, request: ClientStatusRequest, context: Context) -> ClientStatusResponse:
        """Answer one request; ends with INVALID_ARGUMENT if a matcher can't be honoured."""
        try:
            return await self.describe(request)
        except MatcherError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    async def stream(
        self, requests: AsyncIterator[ClientStatusRequest], context: Context
    ) -> AsyncIterator[ClientStatusResponse]:
        """Answer each request in turn."""
        async for request in requests:
            yield await self.fetch(request, context)

    async def describe(self, request: ClientStatusRequest) -> ClientStatusResponse:
        """Describe the clients that `request` asks about, by node id. Raises MatcherError."""
        matches_any(request.node_matchers, Node())  # refused whether somebody is connected or not
        response = ClientStatusResponse()
        contents: list[tuple[ClientConfig.GenericXdsConfig, Resource]] = []
        is_brief = OWN_METADATA in request.node.metadata.fields
        by_node: dict[str, list[Client]] = {}
        for client in sorted(self._clients, key=lambda client: client.node_id):
            by_node.setdefault(client.node_id, []).append(client)
        for count, streams in enumerate(by_node.values(), start=1):
            node = _describe_node(streams[-1])
            if matches_any(request.node_matchers, node):
                config = response.config.add(node=node, client_scope=node.id)
                statuses = _statuses(streams)
                entries = () if is_brief else _describe(config, statuses)
                if not request.exclude_resource_contents:
                    contents += self._find_contents(entries, statuses)
                self._own.describe(config.node.metadata, streams, Counter(status.kind for status, _ in statuses))
            if count % _CLIENTS_PER_TURN == 0:
                await asyncio.sleep(0)
        _fill(contents, MAX_RESPONSE_BYTES - response.ByteSize())
        return response

    def _find_contents(
        self, entries: Iterable[ClientConfig.GenericXdsConfig], statuses: Iterable[_Status]
    ) -> Iterator[tuple[ClientConfig.GenericXdsConfig, Resource]]:
        """Yield those entries whose content is known; it is not filled in yet."""
        for entry, (status, client) in zip(entries, statuses, strict=False):
            resource = self._find(client, status)
            if resource is not None:
                yield entry, resource

    def _find(self, client: Client, status: ResourceStatus) -> Resource | None:
        """Return the content that the client runs, if it is what is served now; older content is not kept."""
        snapshot = self._cache.snapshot_for(client.workload)
        resource = None if snapshot is None else snapshot.of(status.kind).get(status.name)
        is_same = resource is not None and resource.version == status.version
        return resource if is_same and status.standing is Standing.APPLIED else None


def _statuses(streams: Iterable[Client]) -> tuple[_Status, ...]:
    """Return where one node stands with every resource, and who says so: of two streams, the newer one counts."""
    found = {(status.kind, status.name): (status, client) for client in streams for status in client.resources()}
    return tuple(found.values())


def _describe(config: ClientConfig, statuses: Iterable[_Status]) -> list[ClientConfig.GenericXdsConfig]:
    """Describe every resource of one node, but for its content."""
    entries = []
    for status, client in statuses:
        entry = config.generic_xds_configs.add(
            type_url=status.kind.type_url,
            name=status.name,
            version_info=status.version or "",
            # Tools take it for granted that it is there; it is not known by resource, so it says nothing.
            last_updated=Timestamp(),
            config_status=_config_status(status.standing),
            client_status=_client_status(status.standing),
        )
        if status.standing is Standing.REFUSED:
            _explain(entry, status, client)
        entries.append(entry)
    return entries


def _fill(contents: Iterable[tuple[ClientConfig.GenericXdsConfig, Resource]], budget: int) -> None:
    for entry, resource in contents:
        if len(resource.any_body) <= budget:
            entry.xds_config.CopyFrom(_redact(resource))
            budget -= len(resource.any_body)


def _describe_node(client: Client) -> Node:
    """Build the part of the client's node that is kept: who it is, what selectors look at, and an unusual mode."""
    node = Node(id=client.node_id)
    node.metadata.update({"labels": dict(client.workload.labels)})
    if client.workload.service_account:
        node.metadata.update({"serviceAccount": client.workload.service_account})
    if client.workload.mode is not Mode.TRANSPARENT:
        node.metadata.update({"mode": client.workload.mode.value})
    return node


def _explain(entry: ClientConfig.GenericXdsConfig, status: ResourceStatus, client: Client) -> None:
    known = client.types.get(status.kind)
    nack: Nack | None = None if known is None else known.nack
    state = UpdateFailureState(version_info=status.version or "")
    if nack is not None:
        state.details = redact_said(nack.text)
        state.last_update_attempt.FromMilliseconds(int(nack.at * 1000))
    entry.error_state.CopyFrom(state)


def _redact(resource: Resource) -> ProtoAny:
    """Return the resource for people: field 1 of a `Secret` is its name, and nothing else of it is shown."""
    body = resource.body
    if resource.kind is ResourceType.SECRET:
        name = resource.name.encode()
        body = b"\x0a" + encode_varint(len(name)) + name
    return ProtoAny(type_url=resource.kind.type_url, value=body)


def _config_status(standing: Standing) -> ConfigStatus:
    match standing:
        case Standing.ASKED:
            return NOT_SENT
        case Standing.SENT:
            return STALE
        case Standing.APPLIED | Standing.ABSENT:
            return SYNCED
        case Standing.REFUSED:
            return ERROR
        case _:
            assert_never(standing)


def _client_status(standing: Standing) -> ClientResourceStatus:
    match standing:
        case Standing.ASKED | Standing.SENT:
            return REQUESTED
        case Standing.APPLIED:
            return ACKED
        case Standing.REFUSED:
            return NACKED
        case Standing.ABSENT:
            return DOES_NOT_EXIST
        case _:
            assert_never(standing)
