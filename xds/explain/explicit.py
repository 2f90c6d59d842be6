"""
What becomes of a request to the listener for applications that know of a proxy, read from resources.

A request is a method (`CONNECT`, or another for plain HTTP) and the authority of CONNECT or of a URL. As in `walk`,
what is not known is an UnknownConfigurationError.
"""

from __future__ import annotations

import re
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

from xds import names
from xds.explain.connection import Arrival, Fate, Hop, Outcome
from xds.explain.matchers import remember
from xds.explain.messages import expand, parse_resource, unpack
from xds.explain.routes import find_virtual_host, has_state, routes_in
from xds.explain.unknown import UnknownConfigurationError, expect, need
from xds.resources import ResourceType

if TYPE_CHECKING:
    from envoy_data_plane.envoy.config.route.v3 import Route

    from xds.explain.matchers import Seen
    from xds.snapshot import Snapshot

CONNECT = "CONNECT"
_HEADERS = {":authority": "{}", "x-egress-xds-authority": "{}:80"}
"""What headers that the filters read hold, by name."""


def has_explicit(snapshot: Snapshot) -> bool:
    """Whether there is a listener for such requests."""
    return names.EXPLICIT_LISTENER in snapshot.of(ResourceType.LISTENER)


def ask(snapshot: Snapshot, method: str, authority: str, path: str = "/") -> Arrival:
    """Say what becomes of a request."""
    served = need(snapshot.of(ResourceType.LISTENER).get(names.EXPLICIT_LISTENER), "no listener for explicit mode")
    (chain,) = parse_resource(Listener, served.body).filter_chains
    (manager,) = map(unpack, chain.filters)
    if not isinstance(manager, HttpConnectionManager):
        raise UnknownConfigurationError(manager)
    outcome, hops = _forward(
        snapshot, manager, {"REQ(:AUTHORITY)": authority, "REQ(:METHOD)": method, "PATH(NQ)": path}
    )
    return Arrival(chain.name, outcome, (Hop(chain.name, hops[0]), *(Hop(hops[0], cluster) for cluster in hops[1:])))


_Way = tuple[Outcome, tuple[str, ...]]
"""An outcome, and the clusters on the way to it."""
_REFUSED: _Way = (Outcome(Fate.FORBIDDEN), ("",))


def _forward(snapshot: Snapshot, manager: HttpConnectionManager, seen: Seen) -> _Way:
    is_reread = False
    for item in manager.http_filters:
        match unpack(item):
            case Rbac() as config:
                if not _is_allowed(config, seen["REQ(:AUTHORITY)"]):
                    return _REFUSED
            case HeaderToMetadata() as config:
                seen |= _read(config, seen["REQ(:AUTHORITY)"])
            case SetFilterState() as config:
                seen |= remember(config.on_request_headers, seen)
                is_reread = config.clear_route_cache
            case FilterConfig():
                pass
            case Router():
                expect(is_reread, "a route that is chosen before anybody knows where the request goes")
                return _route(snapshot, seen)
            case other:
                raise UnknownConfigurationError(other)
    raise UnknownConfigurationError("a connection manager without a router")


def _is_allowed(config: Rbac, authority: str) -> bool:
    rules = need(config.rules, "a gate without rules")
    for policy in rules.policies.values():
        for permission in policy.permissions:
            both = need(permission.and_rules, "a permission that is not for several things at once")
            *hosts, kind = both.rules
            # What is asked here is CONNECT or http.
            need(kind.or_rules, "a permission that is not for either of two kinds")
            texts = [need(need(host.header, "a permission without a header").string_match, "no text") for host in hosts]
            patterns = [need(text.safe_regex, "a permission without a regular expression").regex for text in texts]
            if all(re.fullmatch(pattern, authority) for pattern in patterns):
                return True
    return False


def _read(config: HeaderToMetadata, authority: str) -> Seen:
    kept = {}
    for rule in config.request_rules:
        pair = need(rule.on_header_present, "metadata of what is not there")
        rewrite = need(pair.regex_value_rewrite, "metadata that is not rewritten")
        pattern = need(rewrite.pattern, "metadata that is not rewritten")
        expect(rule.header in _HEADERS, f"metadata from the header {rule.header}")
        value = _HEADERS[rule.header].format(authority)
        kept[f"DYNAMIC_METADATA({pair.metadata_namespace}:{pair.key})"] = re.sub(
            pattern.regex, rewrite.substitution, value
        )
    return kept


def _route(snapshot: Snapshot, seen: Seen) -> _Way:
    served = need(snapshot.of(ResourceType.ROUTE).get(names.EXPLICIT_CHAIN), "no routes of explicit mode")
    host = find_virtual_host(parse_resource(RouteConfiguration, served.body), seen["REQ(:AUTHORITY)"])
    candidates = [] if host is None else routes_in(host, seen)
    route = next((route for route in candidates if _fits(route, seen)), None)
    if route is None or route.direct_response is not None:
        return _REFUSED
    action = need(route.route, "a route that redirects")
    cluster = need(action.cluster, "a route to several clusters")
    expect(cluster in snapshot.of(ResourceType.CLUSTER), f"no cluster {cluster}")
    if seen["REQ(:METHOD)"] == CONNECT:
        (upgrade,) = action.upgrade_configs
        is_direct = upgrade.connect_config is not None
        asked = Outcome(Fate.TUNNELLED, cluster, seen["REQ(:AUTHORITY)"])
        return Outcome(Fate.DIRECT, cluster) if is_direct else asked, (cluster,)
    if action.path_rewrite:
        return Outcome(Fate.FORWARDED, cluster, expand(action.path_rewrite, seen)), (cluster,)
    inside = snapshot.of(ResourceType.LISTENER).get(cluster)
    if inside is None:
        return Outcome(Fate.DIRECT, cluster), (cluster,)
    (chain,) = parse_resource(Listener, inside.body).filter_chains
    *_, config = map(unpack, chain.filters)
    if not isinstance(config, TcpProxy):
        raise UnknownConfigurationError(config)
    tunnel = need(config.tunneling_config, "a way inside that is no tunnel")
    last = need(config.cluster, "a TCP proxy with several clusters")
    return Outcome(Fate.TUNNELLED, last, expand(tunnel.hostname, seen)), (cluster, last)


def _fits(route: Route, seen: Seen) -> bool:
    """Whether a route matches; a prefix never matches CONNECT (Envoy, `RouteMatch.connect_matcher`)."""
    found = need(route.match, "a route without a match")
    is_connect = seen["REQ(:METHOD)"] == CONNECT
    if (found.connect_matcher is not None) is not is_connect or found.headers:
        return False
    return has_state(route, seen)
