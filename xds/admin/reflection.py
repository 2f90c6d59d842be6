"""
Server reflection: which services and messages there are, under the names that Envoy's API gives them.

The messages that this project decodes have names of their own (see protos/), so that Envoy's can live in the same
process. Tools know the official names only. So the descriptors are copied into a pool of their own, and renamed on
the way; what tools are shown is therefore the subset that is read and written here, never more.

Invariant: nothing is registered in protobuf's default pool.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from google.protobuf import any_pb2, duration_pb2, struct_pb2, timestamp_pb2
from google.protobuf.descriptor_database import DescriptorDatabase
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import aio as reflection_aio

from xds.gen import discovery_pb2, status_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

HEALTH = "grpc.health.v1.Health"
REFLECTION_OLD = "grpc.reflection.v1alpha.ServerReflection"
REFLECTION = "grpc.reflection.v1.ServerReflection"
"""The same messages as in v1alpha: only the package was renamed."""

_CORE, _DISCOVERY = "envoy.config.core.v3", "envoy.service.discovery.v3"
_STATUS, _ADMIN = "envoy.service.status.v3", "envoy.admin.v3"
_MATCHER, _TYPE, _RPC = "envoy.type.matcher.v3", "envoy.type.v3", "google.rpc"

_PACKAGES: Mapping[str, str] = {
    "Node": _CORE,
    "BuildVersion": _CORE,
    "ControlPlane": _CORE,
    "SemanticVersion": _TYPE,
    "DoubleRange": _TYPE,
    "Status": _RPC,
    "DiscoveryRequest": _DISCOVERY,
    "DiscoveryResponse": _DISCOVERY,
    "DeltaDiscoveryRequest": _DISCOVERY,
    "DeltaDiscoveryResponse": _DISCOVERY,
    "Resource": _DISCOVERY,
    "ConfigStatus": _STATUS,
    "ClientConfig": _STATUS,
    "ClientStatusRequest": _STATUS,
    "ClientStatusResponse": _STATUS,
    "ClientResourceStatus": _ADMIN,
    "UpdateFailureState": _ADMIN,
    "NodeMatcher": _MATCHER,
    "RegexMatcher": _MATCHER,
    "StringMatcher": _MATCHER,
    "StructMatcher": _MATCHER,
    "ValueMatcher": _MATCHER,
    "DoubleMatcher": _MATCHER,
    "ListMatcher": _MATCHER,
    "OrMatcher": _MATCHER,
}
"""Official package of each message and enum of protos/; what is not listed is not shown."""

_OPAQUE: Mapping[tuple[str, str], str] = {
    ("DiscoveryResponse", "resources"): ".google.protobuf.Any",
    ("DeltaDiscoveryResponse", "resources"): f".{_DISCOVERY}.Resource",
    ("Resource", "resource"): ".google.protobuf.Any",
}
"""What the fields hold that are bytes in protos/."""

_WELL_KNOWN = (any_pb2, duration_pb2, struct_pb2, timestamp_pb2)
_SOURCES = (discovery_pb2, status_pb2)
_UNPREFIXED = "CLIENT_RESOURCE_"
"""What the zero of an enum is prefixed with in protos/, where all share one package."""


@dataclass(frozen=True, slots=True)
class Method:
    """One method of a service, by the official names of its messages."""

    name: str
    request: str
    response: str
    is_streaming: bool = True


def _stream(name: str, kind: str) -> Method:
    return Method(name, f"{_DISCOVERY}.{kind}Request", f"{_DISCOVERY}.{kind}Response")


_STATUS_MESSAGES = (f"{_STATUS}.ClientStatusRequest", f"{_STATUS}.ClientStatusResponse")
SERVICES: Mapping[str, tuple[Method, ...]] = {
    f"{_DISCOVERY}.AggregatedDiscoveryService": (
        _stream("StreamAggregatedResources", "Discovery"),
        _stream("DeltaAggregatedResources", "DeltaDiscovery"),
    ),
    f"{_STATUS}.ClientStatusDiscoveryService": (
        Method("StreamClientStatus", *_STATUS_MESSAGES),
        Method("FetchClientStatus", *_STATUS_MESSAGES, is_streaming=False),
    ),
} | {
    f"envoy.service.{noun}.v3.{noun.capitalize()}DiscoveryService": (
        _stream(f"Stream{noun.capitalize()}s", "Discovery"),
        _stream(f"Delta{noun.capitalize()}s", "DeltaDiscovery"),
    )
    for noun in ("cluster", "endpoint", "listener", "route", "secret")
}
"""The services with Envoy's names: this address serves the status of clients, the main one the others."""


def build_pool() -> DescriptorPool:
    """Build a pool of everything that is shown."""
    files = [_package_file(package) for package in sorted(set(_PACKAGES.values()))]
    files += [_copy(module.DESCRIPTOR.serialized_pb) for module in (*_WELL_KNOWN, health_pb2, reflection_pb2)]
    files.append(_current_reflection())
    files += [_service_file(name, methods) for name, methods in SERVICES.items()]
    defined = {f".{name}": file.name for file in files for name in _defined(file)}
    database = DescriptorDatabase()
    for file in files:
        needed = {defined[name] for name in _used(file)} - {file.name}
        del file.dependency[:]
        file.dependency.extend(sorted(needed))
        database.Add(file)
    return DescriptorPool(database)


def reflection_handlers(shown: Iterable[str]) -> tuple[grpc.GenericRpcHandler, ...]:
    """Return handlers of both versions of the service, which list the services `shown`."""
    names = sorted({*shown, HEALTH, REFLECTION, REFLECTION_OLD})
    servicer = reflection_aio.ReflectionServicer(names, pool=build_pool())
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return tuple(
        grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": method})
        for name in (REFLECTION, REFLECTION_OLD)
    )


def _copy(serialized: bytes) -> FileDescriptorProto:
    return FileDescriptorProto.FromString(serialized)


def _current_reflection() -> FileDescriptorProto:
    """Return what v1 would look like, were it published for Python."""
    file = _copy(reflection_pb2.DESCRIPTOR.serialized_pb)
    old, new = file.package, file.package.replace("v1alpha", "v1")
    file.package, file.name = new, file.name.replace("v1alpha", "v1")
    for field in _fields(file.message_type):
        field.type_name = field.type_name.replace(f".{old}.", f".{new}.")
    for service in file.service:
        for method in service.method:
            method.input_type = method.input_type.replace(f".{old}.", f".{new}.")
            method.output_type = method.output_type.replace(f".{old}.", f".{new}.")
    return file


def _package_file(package: str) -> FileDescriptorProto:
    """Return a file with every message and enum of one official package."""
    file = FileDescriptorProto(name=f"{package.replace('.', '/')}/egress_xds.proto", package=package, syntax="proto3")
    for source in map(_copy, (module.DESCRIPTOR.serialized_pb for module in _SOURCES)):
        file.message_type.extend(item for item in source.message_type if _PACKAGES.get(item.name) == package)
        file.enum_type.extend(item for item in source.enum_type if _PACKAGES.get(item.name) == package)
    for message in file.message_type:
        for field in message.field:
            if (message.name, field.name) in _OPAQUE:
                field.type, field.type_name = field.TYPE_MESSAGE, _OPAQUE[message.name, field.name]
    for field in _fields(file.message_type):
        field.type_name = _official(field.type_name)
    for enum in file.enum_type:
        for value in enum.value:
            value.name = value.name.removeprefix(_UNPREFIXED)
    return file


def _official(type_name: str) -> str:
    """Return the official form of `.egress_xds.<package>.<Message>[.<Nested>]`; other names stay."""
    for module in _SOURCES:
        prefix = f".{module.DESCRIPTOR.package}."
        if type_name.startswith(prefix):
            name = type_name.removeprefix(prefix)
            return f".{_PACKAGES[name.partition('.')[0]]}.{name}"
    return type_name


def _service_file(full_name: str, methods: Iterable[Method]) -> FileDescriptorProto:
    package, _, name = full_name.rpartition(".")
    file = FileDescriptorProto(name=f"{full_name.replace('.', '/')}.proto", package=package, syntax="proto3")
    service = file.service.add(name=name)
    for method in methods:
        service.method.add(
            name=method.name,
            input_type=f".{method.request}",
            output_type=f".{method.response}",
            client_streaming=method.is_streaming,
            server_streaming=method.is_streaming,
        )
    return file


def _fields(messages: Iterable[DescriptorProto]) -> Iterator[FieldDescriptorProto]:
    """Yield the fields that are messages or enums, nested ones too."""
    for message in messages:
        yield from (field for field in message.field if field.type_name)
        yield from _fields(message.nested_type)


def _defined(file: FileDescriptorProto) -> Iterator[str]:
    """Yield the full names of the file's messages and enums, nested ones too."""
    yield from (f"{file.package}.{enum.name}" for enum in file.enum_type)
    yield from _nested(file.package, file.message_type)


def _nested(scope: str, messages: Iterable[DescriptorProto]) -> Iterator[str]:
    for message in messages:
        name = f"{scope}.{message.name}"
        yield name
        yield from (f"{name}.{enum.name}" for enum in message.enum_type)
        yield from _nested(name, message.nested_type)


def _used(file: FileDescriptorProto) -> Iterator[str]:
    yield from (field.type_name for field in _fields(file.message_type))
    for service in file.service:
        for method in service.method:
            yield from (method.input_type, method.output_type)
