"""
Bytes to requests and responses to bytes, with google protobuf and the subset in `protos/`.

A response is assembled from resources that were serialised once, long before; nothing is parsed or
serialised again here. All but the nonce is the same for every stream that is told the same, so an
`Encoder` keeps it: concatenated protobuf encodings merge (protobuf encoding guide, "Last one wins"),
and `encode_nonce` completes them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from google.protobuf.duration_pb2 import Duration

from xds.gen import discovery_pb2
from xds.protocol.delta import DeltaRequest
from xds.protocol.sotw import SotwRequest
from xds.protocol.subscription import LASTING_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Callable

    from xds.names import Nonce
    from xds.protocol.stream import RequestT, Response
    from xds.protocol.subscription import Content

CONTROL_PLANE = "egress-xds"
"""
`control_plane.identifier` of a server that was given no other; an Envoy shows it. It stands beside what is sent and
is no part of any version: replicas tell the same under names of their own.
"""

PERISHABLE_SUFFIX = "+ttl"
"""
Ends each version that is sent with a time to live, and is not part of it here. So resources with and without one have
different versions: a server that gives none sends anew, without one, what a client has from a server that gives one.
Otherwise it would take the resource for current, send no heartbeats, and the client would drop it.
"""


@dataclass(slots=True)
class _Encoded:
    content: Content
    body: bytes
    nonce: Nonce
    whole: bytes


class Encoder:
    """
    Encodes the responses of one variant, and what many streams are told only once.

    Streams that began with the same world have the same nonces as a rule; then even the whole message is shared.
    `forget` when the world changes: what was said of an older one is said no more.
    """

    def __init__(self, encode_body: Callable[[Response], bytes]) -> None:
        self._encode_body = encode_body
        # By identity of the content, which the value keeps alive: to compare contents costs more than to encode them.
        self._encoded: dict[int, _Encoded] = {}

    def forget(self) -> None:
        """Drop everything that is kept."""
        self._encoded.clear()

    def encode(self, response: Response) -> bytes:
        """Encode a response."""
        if response.shared is None:
            return self._encode_body(response) + encode_nonce(response.nonce)
        known = self._encoded.get(id(response.shared))
        if known is None:
            body = self._encode_body(response)
            known = _Encoded(response.shared, body, response.nonce, body + encode_nonce(response.nonce))
            self._encoded[id(response.shared)] = known
        if known.nonce != response.nonce:
            known.nonce, known.whole = response.nonce, known.body + encode_nonce(response.nonce)
        return known.whole


MAX_NAMES = 100_000
"""Names that one request may hold, and that one stream may subscribe to one by one."""


class TooManyNamesError(ValueError):
    """A request holds more names than any client needs. They are counted before they are copied."""

    def __init__(self, names: int) -> None:
        super().__init__(f"more than {MAX_NAMES} names in one request: {names}")


def decode_sotw(body: bytes) -> tuple[discovery_pb2.Node | None, SotwRequest]:
    """
    Decode a `DiscoveryRequest`; the node is None if left out.

    Raises google.protobuf's DecodeError, and TooManyNamesError.
    """
    message = discovery_pb2.DiscoveryRequest.FromString(body)
    _bound(len(message.resource_names))
    request = SotwRequest(
        type_url=message.type_url,
        nonce=message.response_nonce,
        error=message.error_detail.message if message.HasField("error_detail") else None,
        names=tuple(message.resource_names),
        version=message.version_info,
    )
    return message.node if message.HasField("node") else None, request


def decode_delta(body: bytes) -> tuple[discovery_pb2.Node | None, DeltaRequest]:
    """
    Decode a `DeltaDiscoveryRequest`; the node is None if left out.

    Raises google.protobuf's DecodeError, and TooManyNamesError.
    """
    message = discovery_pb2.DeltaDiscoveryRequest.FromString(body)
    _bound(len(message.resource_names_subscribe) + len(message.resource_names_unsubscribe))
    _bound(len(message.initial_resource_versions))
    request = DeltaRequest(
        type_url=message.type_url,
        nonce=message.response_nonce,
        error=message.error_detail.message if message.HasField("error_detail") else None,
        subscribe=tuple(message.resource_names_subscribe),
        unsubscribe=tuple(message.resource_names_unsubscribe),
        initial_versions=dict(message.initial_resource_versions),
    )
    return message.node if message.HasField("node") else None, request


def _bound(names: int) -> None:
    if names > MAX_NAMES:
        raise TooManyNamesError(names)


def encode_sotw(response: Response) -> bytes:
    """Encode a `DiscoveryResponse`."""
    return encode_sotw_body(response) + encode_nonce(response.nonce)


def encode_delta(response: Response) -> bytes:
    """Encode a `DeltaDiscoveryResponse`."""
    return encode_delta_body(response) + encode_nonce(response.nonce)


def encode_sotw_body(response: Response, identifier: str = CONTROL_PLANE) -> bytes:
    """Encode all of a `DiscoveryResponse` but its nonce."""
    return discovery_pb2.DiscoveryResponse(
        version_info=response.version,
        type_url=response.kind.type_url,
        resources=[resource.any_body for resource in response.resources],
        control_plane=discovery_pb2.ControlPlane(identifier=identifier),
    ).SerializeToString()


def encode_delta_body(response: Response, identifier: str = CONTROL_PLANE) -> bytes:
    """Encode all of a `DeltaDiscoveryResponse` but its nonce."""
    return discovery_pb2.DeltaDiscoveryResponse(
        system_version_info=response.version,
        type_url=response.kind.type_url,
        resources=[
            discovery_pb2.Resource(
                name=resource.name, version=resource.version, resource=resource.any_body
            ).SerializeToString()
            for resource in response.resources
        ],
        removed_resources=response.removed,
        control_plane=discovery_pb2.ControlPlane(identifier=identifier),
    ).SerializeToString()


def decode_perishable(request: RequestT) -> RequestT:
    """Read the versions in `request` as `encode_perishable_body` writes them; others are those of lasting resources."""
    if not isinstance(request, DeltaRequest) or not request.initial_versions:
        return request
    versions = {
        name: version.removesuffix(PERISHABLE_SUFFIX)
        if version.endswith(PERISHABLE_SUFFIX)
        else version + LASTING_SUFFIX
        for name, version in request.initial_versions.items()
    }
    return replace(request, initial_versions=versions)


def encode_perishable_body(response: Response, identifier: str, ttl: float) -> bytes:
    """Encode as `encode_delta_body`, with heartbeats and a time to live in seconds on every resource."""
    seconds, milliseconds = divmod(round(ttl * 1000), 1000)
    life = Duration(seconds=seconds, nanos=milliseconds * 1_000_000)
    contents = [(resource.name, resource.version, resource.any_body) for resource in response.resources]
    # "A Resource with the resource unset and version matching the most recently sent version" (xDS protocol, "TTL").
    heartbeats = [(name, version, b"") for name, version in response.renewed]
    return discovery_pb2.DeltaDiscoveryResponse(
        system_version_info=response.version,
        type_url=response.kind.type_url,
        resources=[
            discovery_pb2.Resource(
                name=name, version=version + PERISHABLE_SUFFIX, resource=body, ttl=life
            ).SerializeToString()
            for name, version, body in (*contents, *heartbeats)
        ],
        removed_resources=response.removed,
        control_plane=discovery_pb2.ControlPlane(identifier=identifier),
    ).SerializeToString()


def encode_nonce(nonce: Nonce) -> bytes:
    """Encode the nonce alone; it is field 5 of both kinds of response."""
    return discovery_pb2.DiscoveryResponse(nonce=nonce).SerializeToString()
