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
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    DataSource,
    EnvoyInternalAddress,
    TransportSocket,
    UpstreamHttpProtocolOptions,
)
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy_data_plane.envoy.config.listener.v3 import Listener, ListenerInternalListenerConfig
from envoy_data_plane.envoy.extensions.transport_sockets.internal_upstream.v3 import InternalUpstreamTransport
from envoy_data_plane.envoy.extensions.transport_sockets.raw_buffer.v3 import RawBuffer
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CertificateValidationContext,
    CommonTlsContext,
    TlsParameters,
    TlsParametersTlsProtocol,
    UpstreamTlsContext,
)

from xds import names
from xds.compile.asked import ASKED_BY_ADDRESS, ASKED_BY_NAME, ASKED_FOR_HTTPS
from xds.compile.clusters import build_http1, no_limits
from xds.compile.proxy_tls import SYSTEM_AUTHORITIES
from xds.compile.tunnels import build_tcp_chain
from xds.compile.wire import pack
from xds.policy.model import PlainHttp, Tunnel

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds.policy.model import Policy, Proxy


_IDLE = timedelta(seconds=4)
"""How long a tunnel waits for another request to its host: less than servers commonly keep connections open."""


_RAW = TransportSocket(name="envoy.transport_sockets.raw_buffer", typed_config=pack(RawBuffer()))
_BY_HOST = UpstreamHttpProtocolOptions(auto_sni=True, auto_san_validation=True)
"""The server name, and the name that the certificate must have, are those of the request's Host."""


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
            yield name, _build_cluster(name, _RAW), _build_listener(name, proxy.name, key, policy)
    for tunnel in _originating(policy):
        assert tunnel.origination is not None
        authorities = tunnel.origination.ca_pem
        name = names.https_tunnel(tunnel.proxy, authorities)
        cluster = _build_cluster(name, _build_tls(authorities), _BY_HOST)
        yield name, cluster, _build_listener(name, tunnel.proxy, ASKED_FOR_HTTPS, policy)


def _originating(policy: Policy) -> list[Tunnel]:
    found = {
        rule.http_action
        for rule in policy.rules
        if isinstance(rule.http_action, Tunnel) and rule.http_action.origination is not None
    }
    return sorted(found, key=lambda tunnel: (tunnel.proxy, str(tunnel.origination)))


def _build_tls(authorities: str | None) -> TransportSocket:
    """TLS to the host itself, inside the tunnel."""
    trusted = DataSource(filename=SYSTEM_AUTHORITIES) if authorities is None else DataSource(inline_string=authorities)
    context = CommonTlsContext(
        validation_context=CertificateValidationContext(trusted_ca=trusted),
        tls_params=TlsParameters(
            tls_minimum_protocol_version=TlsParametersTlsProtocol.TLSv1_2,
            tls_maximum_protocol_version=TlsParametersTlsProtocol.TLSv1_3,
        ),
    )
    return TransportSocket(
        name="envoy.transport_sockets.tls", typed_config=pack(UpstreamTlsContext(common_tls_context=context))
    )


def _build_cluster(name: str, inner: TransportSocket, upstream: UpstreamHttpProtocolOptions | None = None) -> Cluster:
    inside = Address(envoy_internal_address=EnvoyInternalAddress(server_listener_name=name))
    endpoint = LbEndpoint(endpoint=Endpoint(address=inside))
    return Cluster(
        per_connection_buffer_limit_bytes=names.BUFFER_LIMIT,
        name=name,
        type=ClusterDiscoveryType.STATIC,
        load_assignment=ClusterLoadAssignment(
            cluster_name=name, endpoints=[LocalityLbEndpoints(lb_endpoints=[endpoint])]
        ),
        transport_socket=TransportSocket(
            name="envoy.transport_sockets.internal_upstream",
            typed_config=pack(InternalUpstreamTransport(transport_socket=inner)),
        ),
        circuit_breakers=no_limits(),
        typed_extension_protocol_options=build_http1(None, _IDLE, upstream),
    )


def _build_listener(name: str, proxy: str, key: str, policy: Policy) -> Listener:
    chain = build_tcp_chain(name, names.proxy_cluster(proxy), f"%FILTER_STATE({key}:PLAIN)%", policy)
    return Listener(name=name, internal_listener=ListenerInternalListenerConfig(), filter_chains=[chain])
