"""What tools are shown of the services and messages, under official names."""

from __future__ import annotations

import pytest
from google.protobuf.message_factory import GetMessageClass

from xds.admin.reflection import SERVICES, build_pool
from xds.gen import discovery_pb2, status_pb2
from xds.server import services


@pytest.mark.parametrize("service", [*SERVICES, "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"])
def test_a_service_is_described_with_all_its_messages(service: str) -> None:
    found = build_pool().FindServiceByName(service)

    assert found.methods
    assert all(method.output_type.fields for method in found.methods)


def test_the_separate_services_are_those_that_are_served() -> None:
    pool = build_pool()
    shown = {name: [method.name for method in pool.FindServiceByName(name).methods] for name in SERVICES}

    for service in services.SERVICES:
        assert shown[service.name] == [f"Stream{service.noun}", f"Delta{service.noun}"]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("envoy.admin.v3.ClientResourceStatus", status_pb2.ClientResourceStatus.values()),
        ("envoy.service.status.v3.ConfigStatus", status_pb2.ConfigStatus.values()),
    ],
)
def test_an_enum_has_the_official_words(name: str, values: list[int]) -> None:
    found = build_pool().FindEnumTypeByName(name)

    assert found.values_by_number[0].name == "UNKNOWN"
    assert sorted(found.values_by_number) == sorted(values)


def test_bytes_of_this_projects_messages_are_read_by_the_shown_ones() -> None:
    pool = build_pool()
    own = status_pb2.ClientStatusResponse()
    own.config.add(client_scope="web-0.shop", node=discovery_pb2.Node(id="web-0.shop"))
    shown = GetMessageClass(pool.FindMessageTypeByName("envoy.service.status.v3.ClientStatusResponse"))

    assert str(shown.FromString(own.SerializeToString())) == str(own)


def test_every_message_of_the_project_has_an_official_name() -> None:
    pool = build_pool()
    names = {name for module in (discovery_pb2, status_pb2) for name in module.DESCRIPTOR.message_types_by_name}
    official = ["envoy.config.core.v3", "envoy.service.discovery.v3", "envoy.service.status.v3"]
    official += ["envoy.admin.v3", "envoy.type.matcher.v3", "envoy.type.v3", "google.rpc"]

    unknown = [name for name in names if not any(_has(pool, f"{package}.{name}") for package in official)]

    assert unknown == []


def _has(pool: object, name: str) -> bool:
    try:
        return bool(pool.FindMessageTypeByName(name))  # type: ignore[attr-defined]  # a DescriptorPool
    except KeyError:
        return False
