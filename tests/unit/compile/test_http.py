"""Plain HTTP: how Hosts are grouped, what is refused, and that nothing is added to a request or cut from it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration
from envoy_data_plane.envoy.extensions.filters.common.set_filter_state.v3 import FilterStateValueSharedWithUpstream
from envoy_data_plane.envoy.extensions.filters.http.set_filter_state.v3 import Config as HttpSetFilterState
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpConnectionManagerServerHeaderTransformation,
)

from tests.support.policies import CORP, compile_good, default, policy, proxy, rule, to
from xds import names
from xds.explain.messages import unpack
from xds.explain.routes import find_virtual_host, routes_in
from xds.explain.walk import Envoy
from xds.policy.model import Deny, Direct, PlainHttp, TlsOrigination, Tunnel, UnknownName
from xds.resources import ResourceType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from envoy_data_plane.envoy.config.route.v3 import Route, VirtualHost

    from xds.policy.model import Policy

DIRECT, DENY = Direct(), Deny()


def routes_of(written: Policy) -> RouteConfiguration:
    resource = compile_good(written).of(ResourceType.ROUTE)[names.HTTP_ROUTES]
    return RouteConfiguration.parse(resource.body)


def host_of(written: Policy, name: str) -> VirtualHost:
    found = find_virtual_host(routes_of(written), name)
    assert found is not None
    return found


def routes_for(written: Policy, name: str) -> Sequence[Route]:
    """Return the routes among which a request to port 8080 of nowhere in particular chooses."""
    seen = {"REQ(:AUTHORITY)": name, "state:egress-xds.address": "203.0.113.7", "state:egress-xds.port": "8080"}
    return routes_in(host_of(written, name), seen)


def route_of(written: Policy, name: str) -> Route:
    """Return the route for the requests of most ports."""
    return routes_for(written, name)[-1]


def manager_of(chain: str, written: Policy | None = None) -> HttpConnectionManager:
    envoy = Envoy(compile_good(written or policy()))
    manager = unpack(envoy.chains[chain].filters[-1])
    assert isinstance(manager, HttpConnectionManager)
    return manager


def test_names_that_decide_alike_share_a_virtual_host() -> None:
    rules = [rule(DIRECT if index % 2 else DENY, f"host{index:03}.example") for index in range(100)]

    hosts = routes_of(policy(*rules)).virtual_hosts

    assert len(hosts) == 3, "direct, deny, and whatever else"
    assert sorted(len(host.domains) for host in hosts) == [1, 200, 200]


def test_every_virtual_host_has_a_name_of_its_own() -> None:
    written = policy(rule(DIRECT, "a.example"), rule(DENY, "b.example"), otherwise=default(unknown=UnknownName.DENY))

    found = [host.name for host in routes_of(written).virtual_hosts]

    assert found == ["0:*.a.example", "1:*.b.example", "2:*"]


@pytest.mark.parametrize("name", ["a.example", "A.Example", "a.example.", "www.a.example", "x.y.a.example."])
def test_a_name_is_known_however_it_is_spelt(name: str) -> None:
    """N1."""
    assert host_of(policy(rule(DENY, "a.example")), name).name == "0:*.a.example"


@pytest.mark.parametrize(
    ("written", "name"),
    [
        pytest.param(policy(rule(DIRECT, "a.example", "*")), "b.example", id="a rule for any host ends the list"),
        pytest.param(policy(rule(DENY, "a.example"), rule(DIRECT, "*")), "10.0.0.1", id="a Host that is an address"),
        pytest.param(
            policy(rule(DIRECT, to("a.example", 80)), rule(DIRECT, "*"), rule(DENY, "10.0.0.0/8")),
            "b.example",
            id="what follows a rule for any host is never reached",
        ),
        pytest.param(
            policy(rule(DENY, "a.example"), rule(DENY, "198.18.1.0/24"), synthetic=("198.18.0.0/15",)),
            "b.example",
            id="a look-up that knows no address is left out",
        ),
    ],
)
def test_a_host_whose_decision_is_certain_has_a_route(written: Policy, name: str) -> None:
    """A virtual host with neither a matcher nor a route answers 404."""
    assert routes_for(written, name)


def test_a_host_that_depends_on_its_address_has_a_matcher() -> None:
    host = host_of(policy(rule(DENY, "a.example"), rule(DIRECT, "10.0.0.0/8")), "b.example")

    assert host.matcher is not None
    assert host.routes == []


@pytest.mark.parametrize(
    ("unknown", "status"),
    [
        pytest.param(UnknownName.CONNECT_IP, None, id="connectIP forwards it like any other"),
        pytest.param(UnknownName.DENY, 403, id="deny refuses it"),
        pytest.param(UnknownName.DIRECT, None, id="direct dials it"),
    ],
)
@pytest.mark.parametrize("name", ["10.0.0.1", "192.168.3.255", "[2001:db8::1]"])
def test_a_host_that_is_an_address_names_no_host(name: str, unknown: UnknownName, status: int | None) -> None:
    """N18."""
    route = route_of(policy(rule(DIRECT, "a.example"), otherwise=default(unknown=unknown)), name)

    assert (route.direct_response.status if route.direct_response else None) == status
    if route.route:
        expected = names.DIRECT_CLUSTER if unknown is UnknownName.DIRECT else names.proxy_cluster("corp")
        assert route.route.cluster == expected


@pytest.mark.parametrize("action", [DIRECT, DENY])
def test_an_unknown_host_follows_a_default_that_does_not_tunnel(action: Direct | Deny) -> None:
    """N18 is about what the default would tunnel."""
    written = policy(otherwise=default(action, unknown=UnknownName.DENY))

    first, *others = (route_of(written, name) for name in ("a.example", "10.0.0.1", "[::1]:80", "0.0.0.0"))
    for other in others:
        assert (other.route is None, other.direct_response) == (first.route is None, first.direct_response)


def test_a_request_to_a_proxy_goes_out_in_absolute_form() -> None:
    upgrade, *others = routes_for(policy(), "a.example")
    on_80, elsewhere = (route.route for route in others)

    assert upgrade.route is not None
    assert upgrade.route.cluster == names.http_tunnel("corp")
    assert on_80 is not None
    assert elsewhere is not None
    assert on_80.path_rewrite == "http://%DYNAMIC_METADATA(egress-xds:host)%%PATH(NQ)%"
    assert elsewhere.path_rewrite == "http://%DYNAMIC_METADATA(egress-xds:host)%:%DOWNSTREAM_LOCAL_PORT%%PATH(NQ)%"
    assert on_80.cluster == elsewhere.cluster == names.proxy_cluster("corp")


def test_a_direct_request_goes_out_as_it_came() -> None:
    route = route_of(policy(rule(DIRECT, "a.example")), "a.example").route

    assert route is not None
    assert (route.cluster, route.path_rewrite) == (names.DIRECT_CLUSTER, "")


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(policy(rule(DENY, "a.example")), id="a rule that denies"),
        pytest.param(policy(proxies=(proxy(plain_http=PlainHttp.DENY),)), id="a proxy that takes no plain HTTP"),
        pytest.param(policy(rule(CORP, "a.example", http=DENY)), id="a rule that denies plain HTTP only (N16)"),
    ],
)
def test_what_may_not_go_is_forbidden(written: Policy) -> None:
    answer = route_of(written, "a.example").direct_response

    assert answer is not None
    assert answer.status == 403


@pytest.mark.parametrize("chain", [names.HTTP_CHAIN, names.HTTP_DENY_CHAIN, names.http_proxy_chain("corp")])
def test_a_refusal_says_who_refuses(chain: str) -> None:
    replies = manager_of(chain).local_reply_config

    assert replies is not None
    for mapper in replies.mappers:
        assert mapper.body is not None
        assert "egress-xds" in (mapper.body.inline_string or "")


def test_two_proxies_may_share_the_hosts() -> None:
    written = policy(
        rule(Tunnel("other"), "a.example"),
        rule(CORP, "b.example", http=Tunnel("other")),
        proxies=(proxy(), proxy("other")),
    )

    for name, cluster in (("a.example", "other"), ("b.example", "other"), ("c.example", "corp")):
        route = route_of(written, name).route
        assert route is not None
        assert route.cluster == names.proxy_cluster(cluster)


@pytest.mark.parametrize("name", ["a.example", "b.example"])
def test_a_route_has_no_time_out_of_its_own(name: str) -> None:
    route = route_of(policy(rule(DIRECT, "a.example")), name).route

    assert route is not None
    assert route.timeout == route.idle_timeout == timedelta(0)
    assert route.retry_policy is None


@pytest.mark.parametrize("chain", [names.HTTP_CHAIN, names.HTTP_DENY_CHAIN, names.http_proxy_chain("corp")])
def test_a_manager_adds_nothing_and_cuts_nothing(chain: str) -> None:
    manager = manager_of(chain)

    assert manager.generate_request_id is False
    assert manager.skip_xff_append
    assert manager.use_remote_address is False
    assert manager.server_header_transformation is HttpConnectionManagerServerHeaderTransformation.PASS_THROUGH
    assert manager.stream_idle_timeout == timedelta(0)
    assert manager.request_timeout is None
    assert manager.common_http_protocol_options is not None
    assert manager.common_http_protocol_options.idle_timeout == timedelta(0)
    assert manager.http_protocol_options is not None
    assert manager.http_protocol_options.accept_http_10


@pytest.mark.parametrize("chain", [names.HTTP_CHAIN, names.HTTP_DENY_CHAIN, names.http_proxy_chain("corp")])
def test_every_chain_takes_the_routes_of_its_own_name(chain: str) -> None:
    """So that no change of routes changes a chain."""
    rds = manager_of(chain).rds

    assert rds is not None
    assert rds.route_config_name == chain
    assert chain in compile_good(policy()).of(ResourceType.ROUTE)


BY_CONNECT = policy(proxies=(proxy(plain_http=PlainHttp.CONNECT),))


@pytest.mark.parametrize(
    ("name", "cluster"),
    [
        pytest.param("a.example", names.http_tunnel("corp"), id="a name by name"),
        pytest.param("10.0.0.1", names.http_address_tunnel("corp"), id="an address by the dialled address"),
        pytest.param("0.0.0.0", names.http_address_tunnel("corp"), id="no Host by the dialled address"),
    ],
)
def test_plain_http_takes_a_tunnel_to_a_proxy_that_wants_it(name: str, cluster: str) -> None:
    (route,) = routes_for(BY_CONNECT, name)

    assert route.route is not None
    assert (route.route.cluster, route.route.path_rewrite) == (cluster, "")


def test_plain_http_in_a_tunnel_is_refused_on_ports_that_the_proxy_does_not_take() -> None:
    """N19."""
    written = policy(proxies=(proxy(plain_http=PlainHttp.CONNECT, connect_ports=(80, 8080)),))

    *taken, last = routes_for(written, "a.example")

    assert [ports_of(route) for route in taken] == [["80"], ["8080"]]
    assert last.direct_response is not None
    assert last.direct_response.status == 403


def ports_of(route: Route) -> list[str | None]:
    assert route.match is not None
    return [state.string_match.exact for state in route.match.filter_state if state.string_match is not None]


ORIGINATED = Tunnel("corp", TlsOrigination())


def test_plain_http_may_leave_as_https() -> None:
    written = policy(rule(CORP, "a.example", http=ORIGINATED))

    (route,) = routes_for(written, "a.example")

    name = names.https_tunnel("corp", None)
    assert route.route is not None
    assert route.route.cluster == name
    assert name in compile_good(written).of(ResourceType.CLUSTER)
    assert name in compile_good(written).of(ResourceType.LISTENER)


def test_https_is_refused_to_a_proxy_that_does_not_take_its_port() -> None:
    written = policy(rule(CORP, "a.example", http=ORIGINATED), proxies=(proxy(connect_ports=(8443,)),))

    (route,) = routes_for(written, "a.example")

    assert route.direct_response is not None


def test_other_authorities_have_a_cluster_of_their_own() -> None:
    own = Tunnel("corp", TlsOrigination(ca_pem="PEM"))
    written = policy(rule(CORP, "a.example", http=ORIGINATED), rule(CORP, "b.example", http=own))

    clusters = [name for name in compile_good(written).of(ResourceType.CLUSTER) if name.startswith("https-tunnel")]

    assert len(clusters) == 2


def test_a_tunnel_is_never_used_for_another_host() -> None:
    """What is asked for is hashed into the choice of an upstream connection."""
    (asked,) = (
        config
        for item in manager_of(names.HTTP_CHAIN).http_filters
        if isinstance(config := unpack(item), HttpSetFilterState)
    )

    assert {value.factory_key for value in asked.on_request_headers} == {"envoy.hashable_string"}
    assert {value.shared_with_upstream for value in asked.on_request_headers} == {
        FilterStateValueSharedWithUpstream.ONCE
    }


def test_a_proxy_that_takes_no_plain_http_has_no_chain_for_it() -> None:
    envoy = Envoy(compile_good(policy(proxies=(proxy(plain_http=PlainHttp.DENY),))))

    assert names.http_proxy_chain("corp") not in envoy.chains


def test_the_header_that_is_set_aside_never_leaves() -> None:
    """Envoy makes up x-forwarded-proto; the application's own takes a way round."""
    routes = routes_of(policy())
    manager = manager_of(names.HTTP_CHAIN)

    (mutation,) = manager.early_header_mutation_extensions
    assert "egress-xds-forwarded-proto" in repr(unpack(mutation))
    assert routes.request_headers_to_remove == ["x-egress-xds-forwarded-proto"]
    for name in ("a.example", "10.0.0.1", "0.0.0.0"):
        assert route_of(policy(), name).request_headers_to_remove == ["x-forwarded-proto"]
