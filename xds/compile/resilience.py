"""
When a proxy's endpoint counts as gone, and how connections to it are kept alive.

Panic is off: where no endpoint is left, connections are refused at once; there is no other way out for them. Endpoints
of a lower priority take over when those above are known to be gone, by a probe or by failures in a row.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from envoy_data_plane.envoy.config.cluster.v3 import (
    ClusterCommonLbConfig,
    OutlierDetection,
    UpstreamConnectionOptions,
)
from envoy_data_plane.envoy.config.core.v3 import HealthCheck, HealthCheckTcpHealthCheck, TcpKeepalive
from envoy_data_plane.envoy.type.v3 import Percent

if TYPE_CHECKING:
    from envoy_data_plane.envoy.config.cluster.v3 import Cluster

    from xds.policy.model import Proxy

_ALWAYS, _NEVER = 100, 0
"""Per cent of the cases in which outlier detection acts on what it saw."""
_KEEPALIVE = TcpKeepalive(keepalive_time=60, keepalive_interval=10, keepalive_probes=6)
"""Seconds of silence before the first probe, and between probes: firewalls forget after minutes, commonly five."""


def add_resilience(cluster: Cluster, proxy: Proxy) -> None:
    """Write into `cluster` how the endpoints of `proxy` are watched."""
    cluster.common_lb_config = ClusterCommonLbConfig(healthy_panic_threshold=Percent(value=_NEVER))
    cluster.upstream_connection_options = UpstreamConnectionOptions(tcp_keepalive=_KEEPALIVE)
    if proxy.health is not None:
        cluster.health_checks = [_build_health_check(proxy)]
        cluster.ignore_health_on_host_removal = True
    if proxy.outlier is not None:
        cluster.outlier_detection = _build_outlier_detection(proxy)


def _build_health_check(proxy: Proxy) -> HealthCheck:
    health = proxy.health
    assert health is not None
    interval = timedelta(seconds=health.interval)
    return HealthCheck(
        timeout=timedelta(seconds=health.timeout),
        interval=interval,
        no_traffic_interval=interval,
        unhealthy_threshold=health.unhealthy_after,
        healthy_threshold=health.healthy_after,
        tcp_health_check=HealthCheckTcpHealthCheck(),
    )


def _build_outlier_detection(proxy: Proxy) -> OutlierDetection:
    """
    Count connections and tunnels that could not be had, and never leave out the last endpoint.

    Envoy counts every refused tunnel as such a failure, also a 403 for one destination; answers to plain HTTP are the
    origins' and don't count.
    """
    outlier, count = proxy.outlier, len(proxy.endpoints)
    assert outlier is not None
    return OutlierDetection(
        split_external_local_origin_errors=True,
        consecutive_local_origin_failure=outlier.failures,
        enforcing_consecutive_local_origin_failure=_ALWAYS,
        enforcing_consecutive_5xx=_NEVER,
        enforcing_consecutive_gateway_failure=_NEVER,
        enforcing_success_rate=_NEVER,
        enforcing_local_origin_success_rate=_NEVER,
        base_ejection_time=timedelta(seconds=outlier.ejection_time),
        max_ejection_percent=100 * (count - 1) // count,
    )
