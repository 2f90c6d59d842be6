"""
Plain HTTP inside a CONNECT tunnel: the way for proxies that take no absolute form, and for upgrades (WebSocket).

The router can't ask a proxy for a tunnel, a TCP proxy can. So a request goes to a cluster whose only endpoint is an
internal listener of this Envoy, and that listener opens the tunnel. What to ask for travels with the connection as
filter state; its value is hashed into the choice of a connection, so a tunnel is never used for another host. There
are two listeners per proxy, because a name is asked for by name and an address by address.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from envoy_data_plane.envoy.config.cluster.v3 import Cluster, ClusterDiscoveryType
from envoy_data_plane.envoy.config.core.v3 import Address, EnvoyInternalAddress, TransportSocket
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy_data_plane.envoy.config.listener.v3 import Listener, ListenerInternalListenerConfig
from envoy_data_plane.envoy.extensions.transport_sockets.internal_upstream.v3 import InternalUpstreamTransport
from envoy_data_plane.envoy.extensions.transport_sockets.raw_buffer.v3 import RawBuffer
from envoy_data_plane.google.protobuf import Any

from xds import names
from xds.compile.asked import ASKED_BY_ADDRESS, ASKED_BY_NAME
from xds.compile.clusters import build_http1, no_limits
from xds.compile.tunnels import build_tcp_chain
from xds.policy.model import PlainHttp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds.policy.model import Policy, Proxy


_IDLE = timedelta(seconds=4)
"""How long a tunnel waits for another request to its host: less than servers commonly keep connections open."""


def has_http_tunnels(proxy: Proxy) -> bool:
    """Whether any plain HTTP may go through a tunnel of `proxy`."""
    return proxy.plain_http is not PlainHttp.DENY


def build_http_tunnels(policy: Policy) -> Iterable[tuple[str, Cluster, Listener]]:
    """Yield name, cluster and internal listener of each way into the tunnels of each proxy."""
    for proxy in filter(has_http_tunnels, policy.proxies):
        for name, key in (
            (names.http_tunnel(proxy.name), ASKED_BY_NAME),
            (names.http_address_tunnel(proxy.name), ASKED_BY_ADDRESS),
        ):
            yield name, _build_cluster(name), _build_listener(name, proxy, key)


def _build_cluster(name: str) -> Cluster:
    raw = TransportSocket(name="envoy.transport_sockets.raw_buffer", typed_config=Any.pack(RawBuffer()))
    inside = Address(envoy_internal_address=EnvoyInternalAddress(server_listener_name=name))
    endpoint = LbEndpoint(endpoint=Endpoint(address=inside))
    return Cluster(
        name=name,
        type=ClusterDiscoveryType.STATIC,
        load_assignment=ClusterLoadAssignment(
            cluster_name=name, endpoints=[LocalityLbEndpoints(lb_endpoints=[endpoint])]
        ),
        transport_socket=TransportSocket(
            name="envoy.transport_sockets.internal_upstream",
            typed_config=Any.pack(InternalUpstreamTransport(transport_socket=raw)),
        ),
        circuit_breakers=no_limits(),
        typed_extension_protocol_options=build_http1(None, _IDLE),
    )


def _build_listener(name: str, proxy: Proxy, key: str) -> Listener:
    chain = build_tcp_chain(name, names.proxy_cluster(proxy.name), f"%FILTER_STATE({key}:PLAIN)%")
    return Listener(name=name, internal_listener=ListenerInternalListenerConfig(), filter_chains=[chain])
