"""
How Envoy's HTTP connection manager treats a request: the filters that matter to its way, then its route.

It follows `source/common/router/config_impl.cc` of Envoy. A request asks for no other protocol afterwards. Invariant:
what is not known here is an UnknownConfigurationError.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from envoy_data_plane.envoy.config.rbac.v3 import RbacAction
from envoy_data_plane.envoy.config.route.v3 import RouteList
from envoy_data_plane.envoy.extensions.filters.http.header_to_metadata.v3 import Config as HeaderToMetadata
from envoy_data_plane.envoy.extensions.filters.http.rbac.v3 import Rbac
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.http.set_filter_state.v3 import Config as SetFilterState

from xds.explain.connection import Fate, Outcome, Protocol
from xds.explain.matchers import evaluate, remember
from xds.explain.messages import expand, unpack, unpack_as
from xds.explain.unknown import UnknownConfigurationError, expect, need

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from envoy_data_plane.envoy.config.route.v3 import Route, RouteConfiguration, VirtualHost
    from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpConnectionManager

    from xds.explain.connection import Connection
    from xds.explain.matchers import Seen

_FORBIDDEN = 403
_PORT = re.compile(r":[0-9]+$")


def forward(
    manager: HttpConnectionManager, routes: RouteConfiguration, connection: Connection, seen: Seen
) -> tuple[Outcome, Seen]:
    """Say what becomes of a request, and what is known of it by then."""
    host = connection.name
    if not host and connection.protocol is Protocol.HTTP_10:
        host = need(manager.http_protocol_options, "a manager that takes no HTTP/1.0").default_host_for_http_10
    seen = seen | {"REQ(:AUTHORITY)": host, "PATH(NQ)": connection.path}
    for item in manager.http_filters:
        match unpack(item):
            case Rbac() as config:
                if not _is_allowed(config, host):
                    return Outcome(Fate.FORBIDDEN), seen
            case HeaderToMetadata() as config:
                seen |= _read_header(config, host)
            case SetFilterState() as config:
                seen |= remember(config.on_request_headers, seen)
            case Router():
                return _route(routes, host, seen), seen
            case other:
                raise UnknownConfigurationError(other)
    raise UnknownConfigurationError("a connection manager without a router")


def _is_allowed(config: Rbac, host: str) -> bool:
    rules = need(config.rules, "a gate without rules")
    expect(rules.action is RbacAction.ALLOW, "a gate that denies what matches")
    for policy in rules.policies.values():
        expect([principal.any for principal in policy.principals] == [True], "a gate that knows who asks")
        for permission in policy.permissions:
            header = need(permission.header, "a permission that is not for a header")
            expect(header.name == ":authority", f"a permission for the header {header.name}")
            text = need(header.string_match, "a permission that compares no text")
            pattern = need(text.safe_regex, "a permission without a regular expression")
            if re.fullmatch(pattern.regex, host):
                return True
    return False


def _read_header(config: HeaderToMetadata, host: str) -> Seen:
    kept = {}
    for rule in config.request_rules:
        expect(rule.header == ":authority", f"metadata from the header {rule.header}")
        pair = need(rule.on_header_present, "metadata of what is not there")
        rewrite = need(pair.regex_value_rewrite, "metadata that is not rewritten")
        pattern = need(rewrite.pattern, "metadata that is not rewritten")
        kept[f"DYNAMIC_METADATA({pair.metadata_namespace}:{pair.key})"] = re.sub(
            pattern.regex, rewrite.substitution, host
        )
    return kept


def _route(routes: RouteConfiguration, name: str, seen: Seen) -> Outcome:
    host = find_virtual_host(routes, name)
    # Envoy answers 404 where nothing fits.
    candidates = [] if host is None else routes_in(host, seen)
    route = next((route for route in candidates if _fits(route, seen)), None)
    if route is None:
        return Outcome(Fate.FORBIDDEN)
    if route.direct_response is not None:
        expect(route.direct_response.status == _FORBIDDEN, f"an answer with {route.direct_response.status}")
        return Outcome(Fate.FORBIDDEN)
    action = need(route.route, "a route that redirects")
    cluster = need(action.cluster, "a route to several clusters")
    if not action.path_rewrite:
        return Outcome(Fate.DIRECT, cluster)
    return Outcome(Fate.FORWARDED, cluster, expand(action.path_rewrite, seen))


def routes_in(host: VirtualHost, seen: Mapping[str, str]) -> Sequence[Route]:
    """Return the routes among which Envoy takes the first that fits; none where its matcher does not match."""
    if host.matcher is None:
        return host.routes
    leaf = evaluate(host.matcher, seen)
    return [] if leaf is None else unpack_as(leaf, RouteList).routes


def _fits(route: Route, seen: Mapping[str, str]) -> bool:
    found = need(route.match, "a route without a match")
    expect(found.prefix == "/", "a route for some paths only")
    expect([header.name for header in found.headers] in ([], ["upgrade"]), "a route for some headers only")
    return not found.headers and has_state(route, seen)


def has_state(route: Route, seen: Mapping[str, str]) -> bool:
    """Whether the filter state is what the route wants."""
    found = need(route.match, "a route without a match")
    wanted = [(state.key, need(state.string_match, "a route for an address")) for state in found.filter_state]
    return all(seen.get(f"state:{key}") == need(text.exact, "a route for a pattern") for key, text in wanted)


def find_virtual_host(routes: RouteConfiguration, host: str) -> VirtualHost | None:
    """Choose by Host: exact, the longest `*suffix`, the longest `prefix*`, `*`."""
    table: dict[str, VirtualHost] = {}
    for item in routes.virtual_hosts:
        for domain in item.domains:
            expect(domain.lower() not in table, "a domain that is listed twice, which Envoy refuses")
            table[domain.lower()] = item
    different = {item.name for item in routes.virtual_hosts}
    expect(len(different) == len(routes.virtual_hosts), "two virtual hosts of one name, which Envoy refuses")
    value = _PORT.sub("", host.lower()) if routes.ignore_port_in_host_matching else host.lower()
    # A wildcard stands for at least one character.
    suffixes = [f"*{value[start:]}" for start in range(1, len(value))]
    prefixes = [f"{value[:end]}*" for end in range(len(value) - 1, 0, -1)]
    return next((table[key] for key in (value, *suffixes, *prefixes, "*") if key in table), None)
