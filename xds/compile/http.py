"""
Plain HTTP: the connection manager that adds nothing and cuts nothing, and the routes it chooses from.

A transparent path must not be noticed: no request id, no `x-envoy-*`, no `x-forwarded-*`, header names in the
case the application wrote them, and no time-out of its own. A request to a proxy goes out in absolute form
(RFC 9112, section 3.2.2) by rewriting the path, which works on an ordinary cluster. Which route a request takes is
decided by its Host, so it lives in a route configuration of its own (RDS) and changes without touching the chain.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from typing import assert_never

from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation as Mutation
from envoy_data_plane.envoy.config.core.v3 import (
    AggregatedConfigSource,
    ConfigSource,
    DataSource,
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
    Http1ProtocolOptions,
    Http1ProtocolOptionsHeaderKeyFormat,
    HttpProtocolOptions,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain
from envoy_data_plane.envoy.config.route.v3 import (
    DirectResponseAction,
    Route,
    RouteAction,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
)
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpConnectionManagerCodecType,
    HttpConnectionManagerServerHeaderTransformation,
    HttpFilter,
    Rds,
)
from envoy_data_plane.envoy.extensions.filters.network.set_filter_state.v3 import Config as SetFilterState
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 import HeaderMutation
from envoy_data_plane.envoy.extensions.http.header_formatters.preserve_case.v3 import PreserveCaseFormatterConfig
from envoy_data_plane.google.protobuf import Any
from envoy_data_plane.xds.type.matcher.v3 import MatcherOnMatch

from xds import names
from xds.compile.access_log import build_access_log, build_filter_state_value
from xds.compile.decisions import AddressSegment, Clauses, NameSegment, Plan, PortSegment
from xds.compile.matchers import (
    ADDRESS_KEY,
    PORT_KEY,
    REQUEST,
    build_clauses,
    build_extension,
    build_segment,
    spellings,
)
from xds.policy.model import Action, Deny, Direct, PlainHttp, Policy, Tunnel, UnknownName

NO_TIMEOUT = timedelta(0)
_MAX_HEADERS_KB = 8192
"""Envoy's own limit; a header that the origin would accept must not fail here."""
_MAX_HEADERS = 1000
_KEPT_PROTO = "x-egress-xds-forwarded-proto"
"""Carries the application's own x-forwarded-proto past the place where Envoy would make one up."""
_REFUSAL = "egress-xds: the egress policy refuses this request.\n"

Step = Clauses | int
"""One part of a virtual host's decision: clauses that its names settled, or the segment still to look up, by index."""


def build_http1_options() -> Http1ProtocolOptions:
    """HTTP/1 as the application wrote it: the case of header names, HTTP/1.0, trailers."""
    formatter = TypedExtensionConfig(
        name="envoy.http.stateful_header_formatters.preserve_case",
        typed_config=Any.pack(PreserveCaseFormatterConfig(forward_reason_phrase=True)),
    )
    return Http1ProtocolOptions(
        accept_http_10=True,
        enable_trailers=True,
        header_key_format=Http1ProtocolOptionsHeaderKeyFormat(stateful_formatter=formatter),
    )


def build_http_chain(name: str, routes: Rds | RouteConfiguration) -> FilterChain:
    """Build a chain that reads plain HTTP and routes it by `routes`."""
    manager = HttpConnectionManager(
        stat_prefix=name,
        codec_type=HttpConnectionManagerCodecType.HTTP1,
        rds=routes if isinstance(routes, Rds) else None,
        route_config=routes if isinstance(routes, RouteConfiguration) else None,
        http_filters=[
            HttpFilter(name="envoy.filters.http.router", typed_config=Any.pack(Router(suppress_envoy_headers=True)))
        ],
        http_protocol_options=build_http1_options(),
        common_http_protocol_options=HttpProtocolOptions(idle_timeout=NO_TIMEOUT, max_headers_count=_MAX_HEADERS),
        max_request_headers_kb=_MAX_HEADERS_KB,
        stream_idle_timeout=NO_TIMEOUT,
        generate_request_id=False,
        preserve_external_request_id=True,
        use_remote_address=False,
        skip_xff_append=True,
        server_header_transformation=HttpConnectionManagerServerHeaderTransformation.PASS_THROUGH,
        early_header_mutation_extensions=[
            TypedExtensionConfig(
                name="envoy.http.early_header_mutation.header_mutation",
                typed_config=Any.pack(HeaderMutation(mutations=[Mutation(append=_kept_proto())])),
            )
        ],
        access_log=build_access_log(),
    )
    state = SetFilterState(
        on_new_connection=[
            build_filter_state_value(ADDRESS_KEY, "%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%"),
            build_filter_state_value(PORT_KEY, "%DOWNSTREAM_LOCAL_PORT%"),
        ]
    )
    return FilterChain(
        name=name,
        filters=[
            Filter(name="envoy.filters.network.set_filter_state", typed_config=Any.pack(state)),
            Filter(name="envoy.filters.network.http_connection_manager", typed_config=Any.pack(manager)),
        ],
    )


def build_rds() -> Rds:
    """Refer to the route configuration that is delivered on the same ADS stream."""
    source = ConfigSource(ads=AggregatedConfigSource(), initial_fetch_timeout=NO_TIMEOUT)
    return Rds(config_source=source, route_config_name=names.HTTP_ROUTES)


def build_constant_routes(name: str, route: Route) -> RouteConfiguration:
    """Route every request the same way, whatever its Host."""
    return _build_configuration(name, [VirtualHost(name="any", domains=["*"], routes=[route])])


def build_routes(plan: Plan, policy: Policy) -> RouteConfiguration:
    """
    Build the route configuration that decides by Host.

    Virtual hosts are grouped by what they decide, so their number grows with the decisions of a policy and
    not with its names. Envoy compares domains without regard to case and, here, to the port.
    """
    groups: dict[tuple[Step, ...], list[str]] = defaultdict(list)
    for node in plan.name_nodes:
        groups[_steps_of(plan, node)].append(node)
    hosts = [
        _build_virtual_host(spellings(nodes), plan, steps, plan.default, policy)
        for steps, nodes in sorted(groups.items(), key=lambda group: group[1][0])
    ]
    undecided = _steps_of(plan, None)
    if isinstance(plan.default, Tunnel) and policy.default.on_unknown_name is not UnknownName.CONNECT_IP:
        unknown = unknown_action(policy, plan.default)
        hosts.append(_build_virtual_host(_ADDRESS_HOSTS, plan, undecided, unknown, policy))
    hosts.append(_build_virtual_host(["*"], plan, undecided, plan.default, policy))
    for index, host in enumerate(hosts):
        host.name = f"{index}:{host.domains[0]}"
    return _build_configuration(names.HTTP_ROUTES, hosts)


_ADDRESS_HOSTS = [*(f"*.{octet}" for octet in range(256)), "[*"]
"""A Host that is an address names no host: IPv4 ends in a number, IPv6 starts with a bracket."""


def unknown_action(policy: Policy, default: Action) -> Action:
    """Return what happens to a connection that names no host and that no rule decides (N18)."""
    if not isinstance(default, Tunnel):
        return default
    match policy.default.on_unknown_name:
        case UnknownName.CONNECT_IP:
            return default
        case UnknownName.DENY:
            return Deny()
        case UnknownName.DIRECT:
            return Direct()
        case other:
            assert_never(other)


def build_route(action: Action, policy: Policy) -> Route:
    """Build the route of one action; a proxy that takes no plain HTTP refuses it."""
    match action:
        case Direct():
            return _forward(names.DIRECT_CLUSTER, "")
        case Tunnel(proxy) if _takes_plain_http(policy, proxy):
            return _forward(names.proxy_cluster(proxy), "http://%REQ(:AUTHORITY)%%PATH(NQ)%")
        case _:
            body = DataSource(inline_string=_REFUSAL)
            return Route(match=RouteMatch(prefix="/"), direct_response=DirectResponseAction(status=403, body=body))


def _takes_plain_http(policy: Policy, name: str) -> bool:
    return any(proxy.name == name and proxy.plain_http is PlainHttp.ABSOLUTE_FORM for proxy in policy.proxies)


def _forward(cluster: str, path_rewrite: str) -> Route:
    kept = HeaderValueOption(
        header=HeaderValue(key="x-forwarded-proto", value=f"%REQ({_KEPT_PROTO})%"),
        append_action=HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
    )
    return Route(
        match=RouteMatch(prefix="/"),
        route=RouteAction(cluster=cluster, path_rewrite=path_rewrite, timeout=NO_TIMEOUT, idle_timeout=NO_TIMEOUT),
        request_headers_to_remove=["x-forwarded-proto"],
        request_headers_to_add=[kept],
    )


def _kept_proto() -> HeaderValueOption:
    return HeaderValueOption(header=HeaderValue(key=_KEPT_PROTO, value="%REQ(x-forwarded-proto)%"))


def _build_configuration(name: str, hosts: list[VirtualHost]) -> RouteConfiguration:
    return RouteConfiguration(
        name=name,
        virtual_hosts=hosts,
        ignore_port_in_host_matching=True,
        request_headers_to_remove=[_KEPT_PROTO],
        validate_clusters=False,
    )


def _steps_of(plan: Plan, node: str | None) -> tuple[Step, ...]:
    """
    Settle every segment but those that look at addresses for the name `node`, up to the first certainty.

    None is a Host that no name segment knows. A segment that decides nothing is no step: a virtual host needs either
    something to look up or a route.
    """
    steps: list[Step] = []
    for index, segment in enumerate(plan.segments):
        if isinstance(segment, AddressSegment):
            steps += [index] if segment.nodes else []
        elif clauses := _clauses_of(segment, node):
            steps.append(clauses)
            if not clauses[-1].ports:
                break
    return tuple(steps)


def _clauses_of(segment: NameSegment | PortSegment, node: str | None) -> Clauses:
    if isinstance(segment, PortSegment):
        return segment.clauses
    return () if node is None else segment.clauses_of(node)


def _build_virtual_host(
    domains: list[str], plan: Plan, steps: tuple[Step, ...], default: Action, policy: Policy
) -> VirtualHost:
    match steps:
        case ():
            return VirtualHost(domains=domains, routes=[build_route(default, policy)])
        case ((clause,), *_) if not clause.ports:
            return VirtualHost(domains=domains, routes=[build_route(clause.action, policy)])
        case _:
            return VirtualHost(domains=domains, matcher=_build_steps(plan, steps, default, policy).matcher)


def _build_steps(plan: Plan, steps: tuple[Step, ...], default: Action, policy: Policy) -> MatcherOnMatch:
    def leaf(action: Action) -> MatcherOnMatch:
        return MatcherOnMatch(action=build_extension("route", build_route(action, policy)))

    result = leaf(default)
    for step in reversed(steps):
        if isinstance(step, int):
            result = build_segment(plan.segments[step], REQUEST, leaf, result)
        else:
            decided = build_clauses(step, REQUEST, leaf, result)
            assert decided is not None, "a step holds at least one clause"
            result = decided
    return result
