"""Clusters: how a proxy is found, in which order its endpoints are tried, and how TLS to it is verified."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from envoy_data_plane.envoy.config.cluster.v3 import Cluster, ClusterDiscoveryType, ClusterLbPolicy
from envoy_data_plane.envoy.extensions.clusters.dns.v3 import DnsCluster
from envoy_data_plane.envoy.extensions.transport_sockets.raw_buffer.v3 import RawBuffer
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import UpstreamTlsContext
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import HttpProtocolOptions

from tests.support.policies import endpoint, proxy
from xds import names
from xds.compile.clusters import build_direct_cluster, build_proxy_cluster
from xds.compile.hosts import is_address
from xds.compile.proxy_files import Material
from xds.explain.messages import unpack, unpack_as
from xds.policy.model import ProxyTls

if TYPE_CHECKING:
    from xds.policy.model import Endpoint


def cluster_of(*endpoints: Endpoint, tls: ProxyTls | None = None) -> Cluster:
    return build_proxy_cluster(dataclasses.replace(proxy("corp", *endpoints), tls=tls or ProxyTls()))


def addresses_of(cluster: Cluster) -> list[tuple[int, list[str]]]:
    """List the endpoints by priority, as host:port."""
    assert cluster.load_assignment is not None
    found = []
    for locality in cluster.load_assignment.endpoints:
        hosts = []
        for item in locality.lb_endpoints:
            assert item.endpoint is not None
            assert item.endpoint.address is not None
            socket = item.endpoint.address.socket_address
            assert socket is not None
            hosts.append(f"{socket.address}:{socket.port_value}")
        found.append((locality.priority, hosts))
    return found


def tls_context_of(cluster: Cluster) -> UpstreamTlsContext:
    socket = cluster.transport_socket_matches[0].transport_socket
    assert socket is not None
    context = unpack(socket)
    assert isinstance(context, UpstreamTlsContext)
    return context


@pytest.mark.parametrize(
    ("host", "expected"),
    [("10.0.0.1", True), ("2001:db8::1", True), ("proxy.example", False), ("10.0.0", False), ("", False)],
)
def test_an_address_is_told_from_a_name(host: str, *, expected: bool) -> None:
    assert is_address(host) is expected


@pytest.mark.parametrize("host", ["10.0.0.1", "2001:db8::1"])
def test_a_proxy_at_addresses_needs_no_resolving(host: str) -> None:
    cluster = cluster_of(endpoint(host))

    assert cluster.type is ClusterDiscoveryType.STATIC
    assert cluster.cluster_type is None


def test_a_proxy_with_a_name_is_resolved_again_by_its_ttl() -> None:
    cluster = cluster_of(endpoint("10.0.0.1"), endpoint("proxy.example"))

    assert cluster.type is None
    assert cluster.cluster_type is not None
    assert cluster.cluster_type.name == "envoy.cluster.dns"
    config = unpack(cluster.cluster_type)
    assert isinstance(config, DnsCluster)
    assert config.respect_dns_ttl
    assert not config.all_addresses_in_single_endpoint, "every address of a name is an endpoint"


@pytest.mark.parametrize(
    ("endpoints", "expected"),
    [
        pytest.param([endpoint("10.0.0.1", 3128)], [(0, ["10.0.0.1:3128"])], id="one"),
        pytest.param(
            [endpoint("10.0.0.2"), endpoint("10.0.0.1", 2), endpoint("10.0.0.1", 1)],
            [(0, ["10.0.0.1:1", "10.0.0.1:2", "10.0.0.2:3128"])],
            id="equals are sorted",
        ),
        pytest.param(
            [endpoint("10.0.0.1", priority=7), endpoint("10.0.0.2", priority=3)],
            [(0, ["10.0.0.2:3128"]), (1, ["10.0.0.1:3128"])],
            id="priorities lose their gaps, lower first",
        ),
        pytest.param(
            [endpoint("10.0.0.3", priority=1), endpoint("10.0.0.2"), endpoint("10.0.0.1", priority=1)],
            [(0, ["10.0.0.2:3128"]), (1, ["10.0.0.1:3128", "10.0.0.3:3128"])],
            id="endpoints of one priority stay together",
        ),
    ],
)
def test_endpoints_are_tried_by_priority(endpoints: list[Endpoint], expected: list[tuple[int, list[str]]]) -> None:
    assert addresses_of(cluster_of(*endpoints)) == expected


def test_an_endpoint_with_a_name_keeps_it_for_verification() -> None:
    cluster = cluster_of(endpoint("10.0.0.1"), endpoint("proxy.example"))

    assert cluster.load_assignment is not None
    (locality,) = cluster.load_assignment.endpoints
    hostnames = [item.endpoint.hostname for item in locality.lb_endpoints if item.endpoint]
    assert hostnames == ["", "proxy.example"]


def test_a_proxy_without_tls_has_no_transport_socket() -> None:
    cluster = cluster_of(endpoint())

    assert cluster.transport_socket_matches == []
    assert cluster.transport_socket is None


def test_tls_is_chosen_per_endpoint() -> None:
    cluster = cluster_of(endpoint("10.0.0.1"), endpoint("10.0.0.2", tls=True), tls=ProxyTls(server_name="p.example"))
    tls, raw = cluster.transport_socket_matches

    assert tls.match is not None
    assert list(tls.match.fields) == ["tls"]
    assert raw.match is not None
    assert raw.match.fields == {}, "Envoy takes the first that fits, and an empty one fits everything"
    assert raw.transport_socket is not None
    assert isinstance(unpack(raw.transport_socket), RawBuffer)
    assert cluster.load_assignment is not None
    plain, encrypted = cluster.load_assignment.endpoints[0].lb_endpoints
    assert plain.metadata is None
    assert encrypted.metadata is not None
    assert encrypted.metadata.filter_metadata["envoy.transport_socket_match"] == tls.match


def test_without_an_authority_the_systems_are_trusted() -> None:
    context = tls_context_of(cluster_of(endpoint("proxy.example", tls=True)))

    assert context.common_tls_context is not None
    validation = context.common_tls_context.validation_context
    assert validation is not None
    assert validation.system_root_certs is None, "Envoy does not implement it, and would verify nothing"
    assert validation.trusted_ca is not None
    assert validation.trusted_ca.filename == "/etc/ssl/certs/ca-certificates.crt"


def test_a_given_authority_is_the_only_one() -> None:
    trusting = dataclasses.replace(proxy("corp", endpoint("proxy.example", tls=True)), tls=ProxyTls(ca_pem="PEM"))
    context = tls_context_of(build_proxy_cluster(trusting, Material(authorities="PEM")))

    assert context.common_tls_context is not None
    validation = context.common_tls_context.validation_context
    assert validation is not None
    assert validation.trusted_ca is not None
    assert validation.trusted_ca.inline_string == "PEM"


@pytest.mark.parametrize(
    ("server_name", "sni", "by_host"),
    [
        pytest.param(None, "", True, id="by default the endpoint's own name is expected"),
        pytest.param("p.example", "p.example", False, id="a given name is expected instead"),
    ],
)
def test_the_name_in_the_certificate_is_always_verified(server_name: str | None, sni: str, *, by_host: bool) -> None:
    tls = ProxyTls(server_name=server_name)
    context = tls_context_of(cluster_of(endpoint("proxy.example", tls=True), tls=tls))

    assert (context.sni, context.auto_host_sni) == (sni, by_host)
    assert context.auto_sni_san_validation


def test_the_time_to_connect_is_the_policys() -> None:
    slow = dataclasses.replace(proxy(), connect_timeout=0.25)

    assert build_proxy_cluster(slow).connect_timeout == timedelta(milliseconds=250)


def test_direct_dials_the_original_destination() -> None:
    cluster = build_direct_cluster()

    assert cluster.name == names.DIRECT_CLUSTER
    assert cluster.type is ClusterDiscoveryType.ORIGINAL_DST
    assert cluster.lb_policy is ClusterLbPolicy.CLUSTER_PROVIDED


@pytest.mark.parametrize("cluster", [build_direct_cluster(), build_proxy_cluster(proxy())], ids=["direct", "a proxy"])
def test_no_cluster_refuses_because_of_its_own_limits(cluster: Cluster) -> None:
    assert cluster.circuit_breakers is not None
    (limits,) = cluster.circuit_breakers.thresholds

    assert limits.max_connections == limits.max_pending_requests == limits.max_requests == 2**32 - 1


@pytest.mark.parametrize("cluster", [build_direct_cluster(), build_proxy_cluster(proxy())], ids=["direct", "a proxy"])
def test_every_cluster_speaks_http1_with_the_applications_header_names(cluster: Cluster) -> None:
    (packed,) = cluster.typed_extension_protocol_options.values()
    options = unpack_as(packed, HttpProtocolOptions)

    assert options.explicit_http_config is not None
    http1 = options.explicit_http_config.http_protocol_options
    assert http1 is not None
    assert http1.header_key_format is not None
    assert http1.header_key_format.stateful_formatter is not None


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [
        pytest.param(build_proxy_cluster(proxy()), 1, id="a proxy gets one request per connection"),
        pytest.param(build_direct_cluster(), None, id="an origin gets as many as the application sends"),
    ],
)
def test_a_connection_carries_as_many_requests_as_the_other_end_bears(cluster: Cluster, expected: int | None) -> None:
    (packed,) = cluster.typed_extension_protocol_options.values()
    common = unpack_as(packed, HttpProtocolOptions).common_http_protocol_options

    assert (common.max_requests_per_connection if common else None) == expected
