"""Messages are written as the library writes them, whatever they hold."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from envoy_data_plane.envoy.config.cluster.v3 import Cluster, ClusterDiscoveryType
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    DataSource,
    Metadata,
    ProxyProtocolConfigVersion,
    SocketAddress,
)
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, Listener
from envoy_data_plane.envoy.extensions.filters.listener.proxy_protocol.v3 import ProxyProtocol
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import ForwardProtoConfig
from envoy_data_plane.envoy.extensions.http.cache.file_system_http_cache.v3 import FileSystemHttpCacheConfig
from envoy_data_plane.envoy.type.v3 import Int64Range, Percent
from envoy_data_plane.google.protobuf import Any, BoolValue, Duration, ListValue, NullValue, Struct, Value
from envoy_data_plane.xds.type.matcher.v3 import MatcherMatcherTreeMatchMap, MatcherOnMatch

from xds.compile.matchers import CONNECTION, build_map
from xds.compile.wire import encode, pack

if TYPE_CHECKING:
    from betterproto2 import Message

_ADDRESS = Address(socket_address=SocketAddress(address="192.0.2.1", port_value=3128))
_LEAF = MatcherOnMatch(keep_matching=True)
_SHARED = build_map(CONNECTION.port, {"80": _LEAF, "443": _LEAF}, _LEAF)


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(Listener(), id="nothing set"),
        pytest.param(Listener(name="é", address=_ADDRESS, freebind=False), id="text, messages, wrapped booleans"),
        pytest.param(
            Listener(additional_addresses=[], filter_chains=[FilterChain(), FilterChain(name="a")]), id="lists"
        ),
        pytest.param(SocketAddress(address="", port_value=0), id="zero where zero is told from nothing"),
        pytest.param(SocketAddress(address="a", named_port=""), id="empty text where it is told from nothing"),
        pytest.param(Cluster(type=ClusterDiscoveryType.STATIC), id="zero as a choice"),
        pytest.param(Cluster(type=ClusterDiscoveryType.ORIGINAL_DST, connect_timeout=timedelta(0)), id="no time"),
        pytest.param(Cluster(connect_timeout=timedelta(days=900, microseconds=1)), id="a long time"),
        pytest.param(Duration(seconds=-1, nanos=-5), id="negative numbers"),
        pytest.param(Int64Range(start=-(2**63), end=2**63 - 1), id="the widest numbers"),
        pytest.param(Percent(value=0.1), id="fractions"),
        pytest.param(Percent(value=0.0), id="no fraction"),
        pytest.param(DataSource(inline_bytes=b""), id="no bytes, told from nothing"),
        pytest.param(ForwardProtoConfig(https_destination_ports=[0, 443, 2**32 - 1]), id="packed numbers"),
        pytest.param(
            ProxyProtocol(disallowed_versions=[ProxyProtocolConfigVersion.V2, ProxyProtocolConfigVersion.V1]),
            id="packed choices",
        ),
        pytest.param(FileSystemHttpCacheConfig(evict_fraction=0.5, cache_path="/a"), id="what only the library writes"),
        pytest.param(
            Metadata(filter_metadata={"b": Struct(fields={"": Value(bool_value=False)}), "a": Struct()}), id="maps"
        ),
        pytest.param(Value(list_value=ListValue(values=[Value(null_value=NullValue(0))])), id="JSON"),
        pytest.param(Any(type_url="a", value=bytes(range(256)) * 100), id="many bytes"),
        pytest.param(MatcherMatcherTreeMatchMap(map={"a": _SHARED, "b": _SHARED}), id="one message in several places"),
        pytest.param(BoolValue(value=True), id="a wrapper itself"),
    ],
)
def test_a_message_is_written_as_the_library_writes_it(message: Message) -> None:
    assert encode(message) == bytes(message)
    assert pack(message) == Any.pack(message)


def test_a_message_that_was_changed_is_written_as_it_is_now() -> None:
    chain = FilterChain(name="before")
    listener = Listener(filter_chains=[chain])
    before = encode(listener)

    chain.name = "after"
    listener.filter_chains.append(FilterChain(filters=[Filter(name="more")]))

    assert encode(listener) == bytes(listener) != before


def test_a_list_that_holds_something_else_is_not_written() -> None:
    """The library would have found out when it checked the message once more."""
    chain = FilterChain()
    chain.filters.append("a filter")  # type: ignore[arg-type]  # as a mistake would

    with pytest.raises(AssertionError):
        encode(chain)
