"""
What a compiled snapshot makes of a request to the listener of explicit mode, as `walk.py` does for captured ones.

A request is a method and the authority of CONNECT or of a URL. Whatever is met that is not known is an AssertionError.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from envoy_data_plane.envoy.config.listener.v3 import Listener
from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration
from envoy_data_plane.envoy.extensions.filters.http.dynamic_forward_proxy.v3 import FilterConfig
from envoy_data_plane.envoy.extensions.filters.http.header_to_metadata.v3 import Config as HeaderToMetadata
from envoy_data_plane.envoy.extensions.filters.http.rbac.v3 import Rbac
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.http.set_filter_state.v3 import Config as SetFilterState
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpConnectionManager
from envoy_data_plane.envoy.extensions.filters.network.tcp_proxy.v3 import TcpProxy

from tests.support.traffic import Fate, Outcome
from tests.support.walk import _remember, expand, find_virtual_host, routes_in, unpack
from xds import names
from xds.resources import ResourceType

if TYPE_CHECKING:
    from envoy_data_plane.envoy.config.route.v3 import Route

    from tests.support.walk import Seen
    from xds.snapshot import Snapshot

_HEADERS = {":authority": "{}", "x-egress-xds-authority": "{}:80"}


def ask(snapshot: Snapshot, method: str, authority: str) -> Outcome:
    """Say what becomes of a request."""
    (chain,) = _parse_listener(snapshot.of(ResourceType.LISTENER)[names.EXPLICIT_LISTENER].body).filter_chains
    (manager,) = map(unpack, chain.filters)
    assert isinstance(manager, HttpConnectionManager)
    seen = {"REQ(:AUTHORITY)": authority, "REQ(:METHOD)": method, "PATH(NQ)": "/path"}
    is_reread = False
    for item in manager.http_filters:
        match unpack(item):
            case Rbac() as config:
                if not _is_allowed(config, authority):
                    return Outcome(Fate.FORBIDDEN)
            case HeaderToMetadata() as config:
                seen |= _read(config, authority)
            case SetFilterState() as config:
                seen |= _remember(config.on_request_headers, seen)
                is_reread = config.clear_route_cache
            case FilterConfig():
                pass
            case Router():
                assert is_reread, "the route was chosen before anybody knew where the request goes"
                return _route(snapshot, seen)
            case other:
                raise AssertionError(other)
    raise AssertionError("a connection manager without a router")


@lru_cache(maxsize=64)
def _parse_listener(body: bytes) -> Listener:
    return Listener.parse(body)


@lru_cache(maxsize=64)
def _parse_routes(body: bytes) -> RouteConfiguration:
    return RouteConfiguration.parse(body)


def _is_allowed(config: Rbac, authority: str) -> bool:
    assert config.rules is not None
    (policy,) = config.rules.policies.values()
    (permission,) = policy.permissions
    assert permission.and_rules is not None
    *hosts, kind = permission.and_rules.rules
    # What is asked here is CONNECT or http.
    assert kind.or_rules is not None
    for host in hosts:
        assert host.header is not None
        assert host.header.string_match is not None
        assert host.header.string_match.safe_regex is not None
        if re.fullmatch(host.header.string_match.safe_regex.regex, authority) is None:
            return False
    return True


def _read(config: HeaderToMetadata, authority: str) -> Seen:
    kept = {}
    for rule in config.request_rules:
        pair = rule.on_header_present
        assert pair is not None
        rewrite = pair.regex_value_rewrite
        assert rewrite is not None
        assert rewrite.pattern is not None
        value = _HEADERS[rule.header].format(authority)
        kept[f"DYNAMIC_METADATA({pair.metadata_namespace}:{pair.key})"] = re.sub(
            rewrite.pattern.regex, rewrite.substitution, value
        )
    return kept


def _route(snapshot: Snapshot, seen: Seen) -> Outcome:
    table = _parse_routes(snapshot.of(ResourceType.ROUTE)[names.EXPLICIT_CHAIN].body)
    host = find_virtual_host(table, seen["REQ(:AUTHORITY)"])
    assert host is not None
    route = next(route for route in routes_in(host, seen) if _fits(route, seen))
    if route.direct_response is not None:
        return Outcome(Fate.FORBIDDEN)
    assert route.route is not None
    cluster = route.route.cluster
    assert cluster is not None
    assert cluster in snapshot.of(ResourceType.CLUSTER)
    if seen["REQ(:METHOD)"] == "CONNECT":
        (upgrade,) = route.route.upgrade_configs
        is_direct = upgrade.connect_config is not None
        return Outcome(Fate.DIRECT, cluster) if is_direct else Outcome(Fate.TUNNELLED, cluster, seen["REQ(:AUTHORITY)"])
    if route.route.path_rewrite:
        return Outcome(Fate.FORWARDED, cluster, expand(route.route.path_rewrite, seen))
    inside = snapshot.of(ResourceType.LISTENER).get(cluster)
    if inside is None:
        return Outcome(Fate.DIRECT, cluster)
    (chain,) = _parse_listener(inside.body).filter_chains
    *_, config = map(unpack, chain.filters)
    assert isinstance(config, TcpProxy)
    assert config.tunneling_config is not None
    assert config.cluster is not None
    return Outcome(Fate.TUNNELLED, config.cluster, expand(config.tunneling_config.hostname, seen))


def _fits(route: Route, seen: Seen) -> bool:
    """Whether a route matches; a prefix never matches CONNECT (Envoy, `RouteMatch.connect_matcher`)."""
    assert route.match is not None
    if (route.match.connect_matcher is not None) != (seen["REQ(:METHOD)"] == "CONNECT") or route.match.headers:
        return False
    return all(
        state.string_match is not None and seen[f"state:{state.key}"] == state.string_match.exact
        for state in route.match.filter_state
    )
