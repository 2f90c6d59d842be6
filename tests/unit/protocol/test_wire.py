"""Bytes in and out: field by field against Envoy's own messages, and the requests of a real Envoy."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from envoy_data_plane.envoy.config.core.v3 import Node as EnvoyNode
from envoy_data_plane.envoy.service.discovery.v3 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)
from envoy_data_plane.google.rpc import Status
from google.protobuf.message import DecodeError

from tests.unit.protocol.values import CDS, LDS, resource, snapshot
from xds.gen import discovery_pb2 as pb
from xds.names import Nonce, Version
from xds.protocol.delta import Delta, DeltaRequest
from xds.protocol.sotw import Sotw, SotwRequest
from xds.protocol.stream import Response, Stream
from xds.protocol.subscription import LASTING_SUFFIX, Acked
from xds.protocol.wire import (
    CONTROL_PLANE,
    MAX_NAMES,
    PERISHABLE_SUFFIX,
    TooManyNamesError,
    decode_delta,
    decode_perishable,
    decode_sotw,
    encode_delta,
    encode_nonce,
    encode_perishable_body,
    encode_sotw,
)

if TYPE_CHECKING:
    from collections.abc import Callable

RECORDED = Path(__file__).parents[2] / "data" / "envoy-1.40"
A, B = resource(CDS, "a"), resource(CDS, "b")
RESPONSE = Response(CDS, Nonce("7"), Version("v"), (A, B), ("gone", "lost"))


def recorded(variant: str) -> list[bytes]:
    return [(RECORDED / f"{variant}-request-{number}.bin").read_bytes() for number in (1, 2, 3, 4)]


def test_a_sotw_response_is_what_envoys_messages_say() -> None:
    message = DiscoveryResponse.parse(encode_sotw(RESPONSE))

    assert (message.type_url, message.version_info, message.nonce) == (CDS.type_url, "v", "7")
    assert [bytes(item) for item in message.resources] == [A.any_body, B.any_body]
    assert message.control_plane is not None
    assert message.control_plane.identifier == CONTROL_PLANE


def test_a_delta_response_is_what_envoys_messages_say() -> None:
    message = DeltaDiscoveryResponse.parse(encode_delta(RESPONSE))

    assert (message.type_url, message.system_version_info, message.nonce) == (CDS.type_url, "v", "7")
    assert [(item.name, item.version) for item in message.resources] == [("a", A.version), ("b", B.version)]
    assert [bytes(item.resource) for item in message.resources if item.resource] == [A.any_body, B.any_body]
    assert message.removed_resources == ["gone", "lost"]
    assert message.control_plane is not None
    assert message.control_plane.identifier == CONTROL_PLANE


def test_perishable_resources_and_heartbeats_are_what_envoys_messages_say() -> None:
    heartbeats = Response(CDS, Nonce("7"), Version("v"), (A,), renewed=(("b", B.version),))

    message = DeltaDiscoveryResponse.parse(encode_perishable_body(heartbeats, "here", 2.5) + encode_nonce(Nonce("7")))

    assert (message.type_url, message.system_version_info, message.nonce) == (CDS.type_url, "v", "7")
    content, heartbeat = message.resources
    assert (content.name, content.version) == ("a", A.version + PERISHABLE_SUFFIX)
    assert bytes(content.resource or b"") == A.any_body
    assert (heartbeat.name, heartbeat.version, heartbeat.resource) == ("b", B.version + PERISHABLE_SUFFIX, None)
    assert content.ttl == heartbeat.ttl == timedelta(seconds=2.5)


def test_versions_come_back_as_they_are_here_if_what_they_name_is_perishable() -> None:
    had = {"a": A.version + PERISHABLE_SUFFIX, "b": str(B.version)}

    read = decode_perishable(DeltaRequest(type_url=CDS.type_url, nonce="3", initial_versions=had))

    assert read.initial_versions == {"a": A.version, "b": B.version + LASTING_SUFFIX}
    assert read.nonce == "3"


def test_a_sotw_request_is_read_as_envoys_messages_say() -> None:
    message = DiscoveryRequest(
        version_info="v",
        node=EnvoyNode(id="web-0.shop", user_agent_name="envoy"),
        resource_names=["a", "b"],
        type_url=CDS.type_url,
        response_nonce="7",
        error_detail=Status(code=13, message="no such filter"),
    )

    node, request = decode_sotw(bytes(message))

    assert request == SotwRequest(
        type_url=CDS.type_url, nonce="7", error="no such filter", names=("a", "b"), version="v"
    )
    assert node is not None
    assert (node.id, node.user_agent_name) == ("web-0.shop", "envoy")


def test_a_delta_request_is_read_as_envoys_messages_say() -> None:
    message = DeltaDiscoveryRequest(
        node=EnvoyNode(id="web-0.shop"),
        type_url=CDS.type_url,
        resource_names_subscribe=["a", "b"],
        resource_names_unsubscribe=["c"],
        initial_resource_versions={"a": "1"},
        response_nonce="7",
        error_detail=Status(code=13, message="no such filter"),
    )

    node, request = decode_delta(bytes(message))

    assert request == DeltaRequest(
        type_url=CDS.type_url,
        nonce="7",
        error="no such filter",
        subscribe=("a", "b"),
        unsubscribe=("c",),
        initial_versions={"a": "1"},
    )
    assert node is not None
    assert node.id == "web-0.shop"


def test_an_error_without_words_is_still_an_error() -> None:
    status = Status(code=13)

    assert decode_sotw(bytes(DiscoveryRequest(error_detail=status)))[1].error == ""
    assert decode_delta(bytes(DeltaDiscoveryRequest(error_detail=status)))[1].error == ""


def test_a_node_that_is_left_out_is_none() -> None:
    assert decode_sotw(b"") == (None, SotwRequest(type_url=""))
    assert decode_delta(b"") == (None, DeltaRequest(type_url=""))


@pytest.mark.parametrize("body", [b"\xff\xfe", b"\x0a\xff", b"\x22\x01\xff"], ids=["no tag", "cut off", "not UTF-8"])
def test_bytes_that_are_no_request_raise_a_decode_error(body: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_sotw(body)


def test_a_recorded_sotw_envoy_is_served_and_its_answers_understood() -> None:
    stream, now = Stream(Sotw()), snapshot(A, resource(LDS, "l"))
    (node, first), *others = (decode_sotw(body) for body in recorded("sotw"))
    assert node is not None
    assert node.user_agent_build_version.version.minor_number == 40
    stream.receive(first)
    stream.next_response(now)
    stream.receive(others[0][1])
    stream.next_response(now)

    answers = [stream.receive(request) for _, request in others[1:]]

    assert [later for later, _ in others] == [None, None, None]
    assert answers == [Acked(CDS, now.versions[CDS]), Acked(LDS, now.versions[LDS])]
    assert stream.next_response(now) is None


def test_a_recorded_delta_envoy_is_served_and_its_answers_understood() -> None:
    stream, now = Stream(Delta()), snapshot(A, resource(LDS, "l"))
    (node, first), *others = (decode_delta(body) for body in recorded("delta"))
    assert node is not None
    assert node.user_agent_build_version.version.minor_number == 40
    stream.receive(first)
    stream.next_response(now)
    stream.receive(others[0][1])
    stream.next_response(now)

    answers = [stream.receive(request) for _, request in others[1:]]

    assert [later for later, _ in others] == [None, None, None]
    assert answers == [Acked(CDS, now.versions[CDS]), Acked(LDS, now.versions[LDS])]
    assert stream.next_response(now) is None


@pytest.mark.parametrize(
    ("decode", "message"),
    [
        (decode_sotw, pb.DiscoveryRequest(resource_names=map(str, range(MAX_NAMES + 1)))),
        (decode_delta, pb.DeltaDiscoveryRequest(resource_names_subscribe=map(str, range(MAX_NAMES + 1)))),
        (
            decode_delta,
            pb.DeltaDiscoveryRequest(initial_resource_versions={str(n): "1" for n in range(MAX_NAMES + 1)}),
        ),
    ],
    ids=["SotW", "delta", "what a client has"],
)
def test_a_request_of_more_names_than_anybody_needs_is_not_copied(
    decode: Callable[[bytes], object], message: pb.DiscoveryRequest | pb.DeltaDiscoveryRequest
) -> None:
    with pytest.raises(TooManyNamesError):
        decode(message.SerializeToString())
