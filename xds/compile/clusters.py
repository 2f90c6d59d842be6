"""
Clusters: one per proxy of the policy, and `direct`, which dials what the application dialled.

Endpoints, ports and time-outs of a proxy live here and nowhere in the listener, so that moving a proxy cuts no
tunnel that still works. A proxy's address may be a name; Envoy resolves it again by its TTL.
"""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING

from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    Cluster,
    ClusterCustomClusterType,
    ClusterDiscoveryType,
    ClusterLbPolicy,
)
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    Metadata,
    SocketAddress,
    UpstreamHttpProtocolOptions,
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
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsExplicitHttpConfig,
)

from xds import names
from xds.compile.hosts import is_address
from xds.compile.http import build_http1_options
from xds.compile.proxy_files import Material
from xds.compile.proxy_protocol import build_protocol_options
from xds.compile.proxy_tls import build_tls_criteria, build_transport_sockets
from xds.compile.resilience import add_resilience
from xds.compile.wire import pack

if TYPE_CHECKING:
    from envoy_data_plane.google.protobuf import Any

    from xds.policy.model import Endpoint, Proxy

CONNECT_TIMEOUT = timedelta(seconds=10)
_UNLIMITED = 2**32 - 1
"""Envoy's default of 1,024 connections per cluster would refuse tunnels that the proxy would take."""
_PROTOCOL_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_MATCH_CRITERIA = "envoy.transport_socket_match"
_NOTHING = Material()


def build_direct_cluster() -> Cluster:
    """Build the cluster that dials the original destination."""
    return Cluster(
        per_connection_buffer_limit_bytes=names.BUFFER_LIMIT,
        name=names.DIRECT_CLUSTER,
        type=ClusterDiscoveryType.ORIGINAL_DST,
        lb_policy=ClusterLbPolicy.CLUSTER_PROVIDED,
        connect_timeout=CONNECT_TIMEOUT,
        circuit_breakers=no_limits(),
        typed_extension_protocol_options=build_http1(None),
    )


def build_proxy_cluster(proxy: Proxy, material: Material = _NOTHING) -> Cluster:
    """Build the cluster of one proxy; `material` is what its files hold."""
    is_static = all(is_address(endpoint.host) for endpoint in proxy.endpoints)
    name = names.proxy_cluster(proxy.name)
    cluster = Cluster(
        per_connection_buffer_limit_bytes=names.BUFFER_LIMIT,
        name=name,
        type=ClusterDiscoveryType.STATIC if is_static else None,
        cluster_type=None if is_static else _dns(),
        connect_timeout=timedelta(seconds=proxy.connect_timeout),
        load_assignment=ClusterLoadAssignment(cluster_name=name, endpoints=_localities(proxy)),
        transport_socket_matches=build_transport_sockets(proxy, material),
        circuit_breakers=no_limits(),
        typed_extension_protocol_options=build_protocol_options(proxy),
    )
    add_resilience(cluster, proxy)
    return cluster


def _dns() -> ClusterCustomClusterType:
    """Resolve names as `STRICT_DNS` does; the fields of `Cluster` that used to say how are deprecated."""
    config = DnsCluster(respect_dns_ttl=True, dns_lookup_family=DnsLookupFamily.V4_PREFERRED)
    return ClusterCustomClusterType(name="envoy.cluster.dns", typed_config=pack(config))


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
        metadata=Metadata(filter_metadata={_MATCH_CRITERIA: build_tls_criteria()}) if endpoint.tls else None,
    )


@lru_cache(maxsize=1)
def no_limits() -> CircuitBreakers:
    """
    Lift the limits that Envoy has by default: what an application opens is its own affair.

    The message is shared, and must not be changed.
    """
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


def build_http1(
    requests_per_connection: int | None,
    idle_timeout: timedelta | None = None,
    upstream: UpstreamHttpProtocolOptions | None = None,
) -> dict[str, Any]:
    """Build the protocol options of a cluster that speaks HTTP/1; None leaves a limit to Envoy."""
    explicit = HttpProtocolOptionsExplicitHttpConfig(http_protocol_options=build_http1_options())
    common = CommonHttpProtocolOptions(max_requests_per_connection=requests_per_connection, idle_timeout=idle_timeout)
    options = HttpProtocolOptions(
        explicit_http_config=explicit, common_http_protocol_options=common, upstream_http_protocol_options=upstream
    )
    return {_PROTOCOL_OPTIONS: pack(options)}
