"""
Bytes to requests and responses to bytes, with google protobuf and the subset in `protos/`.

A response is assembled from resources that were serialised once, long before; nothing is parsed or
serialised again here. All but the nonce is the same for every stream that is told the same, so
`encode_sotw_body` and `encode_delta_body` can be shared: concatenated protobuf encodings merge
(protobuf encoding guide, "Last one wins"), and `encode_nonce` completes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds.gen import discovery_pb2
from xds.protocol.delta import DeltaRequest
from xds.protocol.sotw import SotwRequest

if TYPE_CHECKING:
    from xds.names import Nonce
    from xds.protocol.stream import Response

CONTROL_PLANE = "egress-xds"
"""Shown by an Envoy as `control_plane.identifier`."""


def decode_sotw(body: bytes) -> tuple[discovery_pb2.Node | None, SotwRequest]:
    """Decode a `DiscoveryRequest`; the node is None if left out. Raises google.protobuf's DecodeError."""
    message = discovery_pb2.DiscoveryRequest.FromString(body)
    request = SotwRequest(
        type_url=message.type_url,
        nonce=message.response_nonce,
        error=message.error_detail.message if message.HasField("error_detail") else None,
        names=tuple(message.resource_names),
        version=message.version_info,
    )
    return message.node if message.HasField("node") else None, request


def decode_delta(body: bytes) -> tuple[discovery_pb2.Node | None, DeltaRequest]:
    """Decode a `DeltaDiscoveryRequest`; the node is None if left out. Raises google.protobuf's DecodeError."""
    message = discovery_pb2.DeltaDiscoveryRequest.FromString(body)
    request = DeltaRequest(
        type_url=message.type_url,
        nonce=message.response_nonce,
        error=message.error_detail.message if message.HasField("error_detail") else None,
        subscribe=tuple(message.resource_names_subscribe),
        unsubscribe=tuple(message.resource_names_unsubscribe),
        initial_versions=dict(message.initial_resource_versions),
    )
    return message.node if message.HasField("node") else None, request


def encode_sotw(response: Response) -> bytes:
    """Encode a `DiscoveryResponse`."""
    return encode_sotw_body(response) + encode_nonce(response.nonce)


def encode_delta(response: Response) -> bytes:
    """Encode a `DeltaDiscoveryResponse`."""
    return encode_delta_body(response) + encode_nonce(response.nonce)


def encode_sotw_body(response: Response) -> bytes:
    """Encode all of a `DiscoveryResponse` but its nonce."""
    return discovery_pb2.DiscoveryResponse(
        version_info=response.version,
        type_url=response.kind.type_url,
        resources=[resource.any_body for resource in response.resources],
        control_plane=discovery_pb2.ControlPlane(identifier=CONTROL_PLANE),
    ).SerializeToString()


def encode_delta_body(response: Response) -> bytes:
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
        control_plane=discovery_pb2.ControlPlane(identifier=CONTROL_PLANE),
    ).SerializeToString()


def encode_nonce(nonce: Nonce) -> bytes:
    """Encode the nonce alone; it is field 5 of both kinds of response."""
    return discovery_pb2.DiscoveryResponse(nonce=nonce).SerializeToString()
