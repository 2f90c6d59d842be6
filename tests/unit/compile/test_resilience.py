"""When an endpoint counts as gone, how often a tunnel is asked for, and that nothing is ever sent to the dead."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest
from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.extensions.filters.network.tcp_proxy.v3 import TcpProxy

from tests.support.policies import compile_good, endpoint, policy, proxy
from xds import names
from xds.explain.messages import unpack
from xds.explain.walk import Envoy
from xds.policy.model import Attempts, HealthCheck, Outlier, Proxy
from xds.resources import ResourceType


def cluster_of(written: Proxy) -> Cluster:
    served = compile_good(policy(proxies=(written,))).of(ResourceType.CLUSTER)
    return Cluster.parse(served[names.proxy_cluster(written.name)].body)


def tunnel_of(written: Proxy) -> TcpProxy:
    envoy = Envoy(compile_good(policy(proxies=(written,))))
    found = unpack(envoy.chains[names.tls_tunnel_chain(written.name)].filters[-1])
    assert isinstance(found, TcpProxy)
    return found


def test_dead_endpoints_are_never_used_for_want_of_better_ones() -> None:
    """Envoy's panic mode would send to them from half of them on."""
    cluster = cluster_of(proxy())

    assert cluster.common_lb_config is not None
    assert cluster.common_lb_config.healthy_panic_threshold is not None
    assert cluster.common_lb_config.healthy_panic_threshold.value == 0


def test_a_silent_connection_to_a_proxy_is_kept_alive() -> None:
    cluster = cluster_of(proxy())

    assert cluster.upstream_connection_options is not None
    keepalive = cluster.upstream_connection_options.tcp_keepalive
    assert keepalive is not None
    assert (keepalive.keepalive_time, keepalive.keepalive_interval, keepalive.keepalive_probes) == (60, 10, 6)


def test_nothing_is_probed_or_left_out_unless_the_policy_says_so() -> None:
    cluster = cluster_of(proxy())

    assert (cluster.health_checks, cluster.outlier_detection) == ([], None)


def test_endpoints_are_probed_as_the_policy_says() -> None:
    health = HealthCheck(interval=3.0, timeout=0.5, unhealthy_after=4, healthy_after=2)
    (check,) = cluster_of(dataclasses.replace(proxy(), health=health)).health_checks

    assert (check.interval, check.timeout) == (timedelta(seconds=3), timedelta(seconds=0.5))
    assert check.no_traffic_interval == check.interval, "a proxy that nobody uses is watched, too"
    assert (check.unhealthy_threshold, check.healthy_threshold) == (4, 2)
    assert check.tcp_health_check is not None


@pytest.mark.parametrize(("count", "most"), [(1, 0), (2, 50), (3, 66), (10, 90)])
def test_the_last_endpoint_is_never_left_out(count: int, most: int) -> None:
    endpoints = [endpoint(f"192.0.2.{index + 1}") for index in range(count)]
    found = cluster_of(dataclasses.replace(proxy("corp", *endpoints), outlier=Outlier())).outlier_detection

    assert found is not None
    assert found.max_ejection_percent == most


def test_what_origins_answer_to_plain_http_leaves_nobody_out() -> None:
    endpoints = (endpoint(), endpoint("192.0.2.2"))
    found = cluster_of(
        dataclasses.replace(proxy("corp", *endpoints), outlier=Outlier(failures=7, ejection_time=9.0))
    ).outlier_detection

    assert found is not None
    assert found.split_external_local_origin_errors
    assert (found.enforcing_consecutive_5xx, found.enforcing_consecutive_gateway_failure) == (0, 0)
    assert (found.consecutive_local_origin_failure, found.enforcing_consecutive_local_origin_failure) == (7, 100)
    assert found.base_ejection_time == timedelta(seconds=9)


def test_a_tunnel_is_asked_for_as_often_as_the_policy_says() -> None:
    once = tunnel_of(proxy())
    often = tunnel_of(dataclasses.replace(proxy(), attempts=Attempts(count=4, backoff=0.2)))

    assert (once.max_connect_attempts, once.backoff_options) == (1, None)
    assert often.max_connect_attempts == 4
    assert often.backoff_options is not None
    assert often.backoff_options.base_interval == timedelta(seconds=0.2)


def test_a_silent_tunnel_stays_unless_the_policy_says_otherwise() -> None:
    assert tunnel_of(proxy()).idle_timeout == timedelta(0)
    assert tunnel_of(dataclasses.replace(proxy(), idle_timeout=90.0)).idle_timeout == timedelta(seconds=90)
