"""
Clusters: one per proxy of the policy, and `direct`, which dials what the application dialled.

Endpoints, ports and time-outs of a proxy live here and nowhere in the listener, so that moving a proxy cuts no
tunnel that still works. A proxy's address may be a name; Envoy resolves it again by its TTL.
"""

from __future__ import annotations

from datetime import timedelta
from ipaddress import ip_address
from itertools import groupby
from typing import TYPE_CHECKING

from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    Cluster,
    ClusterCustomClusterType,
    ClusterDiscoveryType,
    ClusterLbPolicy,
    ClusterTransportSocketMatch,
)
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    DataSource,
    Metadata,
    SocketAddress,
    TransportSocket,
)
from envoy_data_plane.envoy.config.core.v3 import (
    HttpProtocolOptions as CommonHttpProtocolOptions,
)
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy_data_plane.envoy.config.endpoint.v3 import (
    Endpoint as EnvoyEndpoint,
)
from envoy_data_plane.envoy.extensions.clusters.common.dns.v3 import DnsLookupFamily
from envoy_data_plane.envoy.extensions.clusters.dns.v3 import DnsCluster
from envoy_data_plane.envoy.extensions.transport_sockets.raw_buffer.v3 import RawBuffer
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CertificateValidationContext,
    CommonTlsContext,
    UpstreamTlsContext,
)
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsExplicitHttpConfig,
)
from envoy_data_plane.google.protobuf import Any, Struct, Value

from xds import names
from xds.compile.http import build_http1_options

if TYPE_CHECKING:
    from xds.policy.model import Endpoint, Proxy, ProxyTls

_CONNECT_TIMEOUT = timedelta(seconds=10)
_UNLIMITED = 2**32 - 1
"""Envoy's default of 1,024 connections per cluster would refuse tunnels that the proxy would take."""
_SYSTEM_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
"""Where Debian, Ubuntu, Alpine and Envoy's own images keep them; on the machine of the Envoy, not on this one."""
_ONE_REQUEST = 1
"""
Requests that a connection to a proxy carries. Proxies are careless with what follows the first: Tinyproxy closes
without a word, which would cost the next request a 503, and proxy.py sends it to the first one's origin.
"""
_PROTOCOL_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_MATCH_CRITERIA = "envoy.transport_socket_match"


def is_address(host: str) -> bool:
    """Whether `host` is an IP address rather than a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def build_direct_cluster() -> Cluster:
    """Build the cluster that dials the original destination."""
    return Cluster(
        name=names.DIRECT_CLUSTER,
        type=ClusterDiscoveryType.ORIGINAL_DST,
        lb_policy=ClusterLbPolicy.CLUSTER_PROVIDED,
        connect_timeout=_CONNECT_TIMEOUT,
        circuit_breakers=no_limits(),
        typed_extension_protocol_options=build_http1(None),
    )


def build_proxy_cluster(proxy: Proxy) -> Cluster:
    """Build the cluster of one proxy."""
    is_static = all(is_address(endpoint.host) for endpoint in proxy.endpoints)
    name = names.proxy_cluster(proxy.name)
    return Cluster(
        name=name,
        type=ClusterDiscoveryType.STATIC if is_static else None,
        cluster_type=None if is_static else _dns(),
        connect_timeout=timedelta(seconds=proxy.connect_timeout),
        load_assignment=ClusterLoadAssignment(cluster_name=name, endpoints=_localities(proxy)),
        transport_socket_matches=_transport_sockets(proxy),
        circuit_breakers=no_limits(),
        typed_extension_protocol_options=build_http1(_ONE_REQUEST),
    )


def _dns() -> ClusterCustomClusterType:
    """Resolve names as `STRICT_DNS` does; the fields of `Cluster` that used to say how are deprecated."""
    config = DnsCluster(respect_dns_ttl=True, dns_lookup_family=DnsLookupFamily.V4_PREFERRED)
    return ClusterCustomClusterType(name="envoy.cluster.dns", typed_config=Any.pack(config))


def _localities(proxy: Proxy) -> list[LocalityLbEndpoints]:
    # Envoy wants priorities without gaps: 0, 1, 2, …
    by_priority = sorted(proxy.endpoints, key=lambda endpoint: (endpoint.priority, endpoint.host, endpoint.port))
    groups = groupby(by_priority, key=lambda endpoint: endpoint.priority)
    return [
        LocalityLbEndpoints(priority=index, lb_endpoints=[_lb_endpoint(endpoint) for endpoint in group])
        for index, (_, group) in enumerate(groups)
    ]


def _lb_endpoint(endpoint: Endpoint) -> LbEndpoint:
    address = Address(socket_address=SocketAddress(address=endpoint.host, port_value=endpoint.port))
    return LbEndpoint(
        endpoint=EnvoyEndpoint(address=address, hostname="" if is_address(endpoint.host) else endpoint.host),
        metadata=Metadata(filter_metadata={_MATCH_CRITERIA: _tls_criteria()}) if endpoint.tls else None,
    )


def _tls_criteria() -> Struct:
    return Struct(fields={"tls": Value(bool_value=True)})


def _transport_sockets(proxy: Proxy) -> list[ClusterTransportSocketMatch]:
    """TLS for the endpoints that want it, nothing for the others: one proxy may have both."""
    if not any(endpoint.tls for endpoint in proxy.endpoints):
        return []
    tls = TransportSocket(name="envoy.transport_sockets.tls", typed_config=Any.pack(_tls_context(proxy.tls)))
    raw = TransportSocket(name="envoy.transport_sockets.raw_buffer", typed_config=Any.pack(RawBuffer()))
    return [
        ClusterTransportSocketMatch(name="tls", match=_tls_criteria(), transport_socket=tls),
        ClusterTransportSocketMatch(name="raw", match=Struct(), transport_socket=raw),
    ]


def _tls_context(tls: ProxyTls) -> UpstreamTlsContext:
    # Envoy has the field `system_root_certs` but does not implement it: without a `trusted_ca` nothing is verified.
    authorities = (
        DataSource(filename=_SYSTEM_AUTHORITIES) if tls.ca_pem is None else DataSource(inline_string=tls.ca_pem)
    )
    validation = CertificateValidationContext(trusted_ca=authorities)
    return UpstreamTlsContext(
        common_tls_context=CommonTlsContext(validation_context=validation),
        sni=tls.server_name or "",
        auto_host_sni=tls.server_name is None,
        auto_sni_san_validation=True,
    )


def no_limits() -> CircuitBreakers:
    """Lift the limits that Envoy has by default: what an application opens is its own affair."""
    return CircuitBreakers(
        thresholds=[
            CircuitBreakersThresholds(
                max_connections=_UNLIMITED,
                max_pending_requests=_UNLIMITED,
                max_requests=_UNLIMITED,
                max_retries=_UNLIMITED,
            )
        ]
    )


def build_http1(requests_per_connection: int | None, idle_timeout: timedelta | None = None) -> dict[str, Any]:
    """Build the protocol options of a cluster that speaks HTTP/1; None leaves a limit to Envoy."""
    explicit = HttpProtocolOptionsExplicitHttpConfig(http_protocol_options=build_http1_options())
    common = CommonHttpProtocolOptions(max_requests_per_connection=requests_per_connection, idle_timeout=idle_timeout)
    options = HttpProtocolOptions(explicit_http_config=explicit, common_http_protocol_options=common)
    return {_PROTOCOL_OPTIONS: Any.pack(options)}
