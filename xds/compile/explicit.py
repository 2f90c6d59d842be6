"""
Explicit mode: a proxy on loopback for applications that keep HTTP_PROXY and HTTPS_PROXY, or that can't be captured.

It takes CONNECT and requests in absolute form. The same rules decide, by the name or address that the application
asks for: its name is matched by rules for names, an address by rules for networks. A name is not resolved before it
is decided on, so a rule for networks does not see where a name leads. What goes directly is resolved and dialled by
Envoy itself. Connections to the proxies are not wrapped again, and nothing leads back to this listener.

Invariant: what the proxy is asked for is what was decided on.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, assert_never

from envoy_data_plane.envoy.config.cluster.v3 import (
    Cluster,
    ClusterCustomClusterType,
    ClusterDnsLookupFamily,
    ClusterLbPolicy,
)
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation as Mutation
from envoy_data_plane.envoy.config.core.v3 import (
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
    TrafficDirection,
    TypedExtensionConfig,
    UpstreamHttpProtocolOptions,
)
from envoy_data_plane.envoy.config.listener.v3 import AdditionalAddress, FilterChain, Listener
from envoy_data_plane.envoy.config.rbac.v3 import Permission, PermissionSet
from envoy_data_plane.envoy.config.route.v3 import (
    DirectResponseAction,
    HeaderMatcher,
    Route,
    RouteAction,
    RouteActionUpgradeConfig,
    RouteActionUpgradeConfigConnectConfig,
    RouteConfiguration,
    RouteMatch,
    RouteMatchConnectMatcher,
    VirtualHost,
)
from envoy_data_plane.envoy.extensions.clusters.dynamic_forward_proxy.v3 import ClusterConfig
from envoy_data_plane.envoy.extensions.common.dynamic_forward_proxy.v3 import DnsCacheConfig
from envoy_data_plane.envoy.extensions.filters.http.dynamic_forward_proxy.v3 import FilterConfig
from envoy_data_plane.envoy.extensions.filters.http.header_to_metadata.v3 import Config as HeaderToMetadata
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManagerUpgradeConfig,
    HttpFilter,
)
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 import HeaderMutation
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher

from xds import names
from xds.compile.access_log import build_explicit_log, build_filter_state_value
from xds.compile.asked import ASKED_BY_NAME, build_asked
from xds.compile.clusters import CONNECT_TIMEOUT, build_http1, no_limits
from xds.compile.hosts import HOST, HOST_AT_PLAIN_PORT, PORT_OR_80, UNBRACKETED
from xds.compile.http import (
    build_filter,
    build_gate,
    build_host_reader,
    build_manager,
    build_manager_filter,
    build_metadata_rule,
    build_router,
)
from xds.compile.listener import build_loopback
from xds.compile.matchers import ADDRESS_KEY, METHOD, PORT_KEY, build_map, spellings
from xds.compile.routes import (
    DENY,
    DIRECT,
    HOST_METADATA,
    HOST_OF_METADATA,
    NO_TIMEOUT,
    TUNNEL,
    Requests,
    RouteBuilder,
    build_refusal,
    find_proxy,
    match_port,
)
from xds.compile.virtual_hosts import (
    Claim,
    Decision,
    Routes,
    Step,
    build_claims,
    build_configuration,
    build_leaf,
    build_steps,
    steps_of,
)
from xds.compile.wire import pack
from xds.policy.model import Action, Deny, Direct, Policy, Tunnel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from envoy_data_plane.envoy.extensions.filters.http.rbac.v3 import Rbac
    from envoy_data_plane.envoy.extensions.filters.http.set_filter_state.v3 import Config as SetFilterState
    from envoy_data_plane.xds.type.matcher.v3 import MatcherOnMatch

    from xds.compile.decisions import Plan
    from xds.compile.explicit_plans import ExplicitPlans

_CONNECT = "CONNECT"
_NAMESPACE = HOST_METADATA[0]
_AUTHORITY_HEADER = "x-egress-xds-authority"
"""Carries the authority with `:80` behind it: what is meant where no port is written (RFC 9110, section 4.2.1)."""
_PORT = f"%DYNAMIC_METADATA({_NAMESPACE}:port)%"
_ASKED = f"{HOST_OF_METADATA}:{_PORT}"
_REQUESTS = Requests(_ASKED, _PORT, names.DIRECT_BY_NAME_CLUSTER, kept_back=("proxy-authorization",))
_MAX_HOSTS = 65536
"""Names that Envoy remembers; each is forgotten when nothing has asked for it for five minutes."""


def build_explicit_listener(policy: Policy, *, has_ipv6: bool) -> Listener:
    """Build the listener."""
    assert policy.explicit_port is not None
    port = policy.explicit_port
    return Listener(
        per_connection_buffer_limit_bytes=names.BUFFER_LIMIT,
        name=names.EXPLICIT_LISTENER,
        address=build_loopback("127.0.0.1", port),
        additional_addresses=[AdditionalAddress(address=build_loopback("::1", port))] if has_ipv6 else [],
        freebind=True,
        traffic_direction=TrafficDirection.OUTBOUND,
        filter_chains=[_build_chain(policy)],
        enable_reuse_port=True,
    )


def _build_chain(policy: Policy) -> FilterChain:
    log = build_explicit_log(policy, f"%FILTER_STATE({ASKED_BY_NAME}:PLAIN)%")
    manager = build_manager(names.EXPLICIT_CHAIN, _build_filters(), log)
    manager.upgrade_configs.append(HttpConnectionManagerUpgradeConfig(upgrade_type=_CONNECT))
    manager.early_header_mutation_extensions.append(_build_early_mutation())
    return FilterChain(name=names.EXPLICIT_CHAIN, filters=[build_manager_filter(manager)])


@lru_cache(maxsize=1)
def _build_filters() -> tuple[HttpFilter, ...]:
    return (
        build_filter("envoy.filters.http.rbac", _build_gate()),
        build_host_reader(),
        # The port and the address are read before the state that remembers them.
        build_filter("envoy.filters.http.header_to_metadata", _build_reader()),
        build_filter("envoy.filters.http.set_filter_state", _build_state()),
        build_filter("envoy.filters.http.dynamic_forward_proxy", FilterConfig(dns_cache_config=_build_cache())),
        build_router(),
    )


def _build_gate() -> Rbac:
    """Let in what is for a plain host, and either CONNECT or for `http`: a URL of another kind would become `http`."""
    connect = HeaderMatcher(name=":method", string_match=StringMatcher(exact=_CONNECT))
    http = HeaderMatcher(name=":scheme", string_match=StringMatcher(exact="http", ignore_case=True))
    either = PermissionSet(rules=[Permission(header=connect), Permission(header=http)])
    # Two expressions, since Envoy limits the size of each.
    port = StringMatcher(safe_regex=RegexMatcher(regex=HOST_AT_PLAIN_PORT))
    plain = Permission(header=HeaderMatcher(name=":authority", string_match=port))
    return build_gate(HOST, plain, Permission(or_rules=either))


def _build_early_mutation() -> TypedExtensionConfig:
    option = HeaderValueOption(
        header=HeaderValue(key=_AUTHORITY_HEADER, value="%REQ(:AUTHORITY)%:80"),
        append_action=HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
    )
    return TypedExtensionConfig(
        name="envoy.http.early_header_mutation.header_mutation",
        typed_config=pack(HeaderMutation(mutations=[Mutation(append=option)])),
    )


def _build_reader() -> HeaderToMetadata:
    port = build_metadata_rule(_AUTHORITY_HEADER, "port", PORT_OR_80, r"\1")
    port.remove = True
    return HeaderToMetadata(request_rules=[port, build_metadata_rule(":authority", "address", UNBRACKETED, r"\1\2")])


def _build_state() -> SetFilterState:
    """Build the filter that notes where a request goes, after which its route is chosen."""
    state = build_asked(_ASKED, _ASKED)
    state.on_request_headers += [
        build_filter_state_value(ADDRESS_KEY, f"%DYNAMIC_METADATA({_NAMESPACE}:address)%"),
        build_filter_state_value(PORT_KEY, _PORT),
    ]
    state.clear_route_cache = True
    return state


def _build_cache() -> DnsCacheConfig:
    return DnsCacheConfig(
        name=names.DIRECT_BY_NAME_CLUSTER,
        dns_lookup_family=ClusterDnsLookupFamily.V4_PREFERRED,
        max_hosts=_MAX_HOSTS,
    )


def build_direct_by_name_cluster() -> Cluster:
    """Build the cluster that resolves and dials what a request asks for."""
    config = ClusterConfig(dns_cache_config=_build_cache())
    return Cluster(
        per_connection_buffer_limit_bytes=names.BUFFER_LIMIT,
        name=names.DIRECT_BY_NAME_CLUSTER,
        cluster_type=ClusterCustomClusterType(name="envoy.clusters.dynamic_forward_proxy", typed_config=pack(config)),
        lb_policy=ClusterLbPolicy.CLUSTER_PROVIDED,
        connect_timeout=CONNECT_TIMEOUT,
        circuit_breakers=no_limits(),
        # Envoy wants this of any such cluster, though no TLS is spoken.
        typed_extension_protocol_options=build_http1(
            None, upstream=UpstreamHttpProtocolOptions(auto_sni=True, auto_san_validation=True)
        ),
    )


def build_explicit_routes(plans: ExplicitPlans, policy: Policy) -> RouteConfiguration:
    """Build the routes: per group of names that decide the same, one tree for CONNECT and one for plain HTTP."""
    nodes = sorted({*plans.connect.name_nodes, *plans.http.name_nodes})
    by_name, by_address = _Tables(plans.for_names(), policy), _Tables(plans.for_addresses(policy), policy)
    groups: dict[tuple[tuple[Step, ...], tuple[Step, ...]], list[str]] = defaultdict(list)
    for node in nodes:
        groups[by_name.steps(node)].append(node)
    hosts = [
        VirtualHost(domains=spellings(group), matcher=by_name.build(steps, Claim.NAME).matcher)
        for steps, group in sorted(groups.items(), key=lambda item: item[1][0])
    ]
    claims = build_claims(
        build_leaf([build_refusal(), _refuse_connect()]),
        by_address.build(by_address.steps(None), Claim.ADDRESS),
        by_name.build(by_name.steps(None), Claim.NAME),
    )
    hosts.append(VirtualHost(domains=["*"], matcher=claims.matcher))
    return build_configuration(names.EXPLICIT_CHAIN, hosts)


@dataclass(frozen=True, slots=True)
class _Tables:
    """Builds what is left to decide of both kinds of requests."""

    plans: ExplicitPlans
    policy: Policy

    def steps(self, node: str | None) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
        return steps_of(self.plans.connect, node), steps_of(self.plans.http, node)

    def build(self, steps: tuple[tuple[Step, ...], tuple[Step, ...]], claim: Claim) -> MatcherOnMatch:
        connect, http = steps
        by_connect, by_url = _Connects(self.policy), RouteBuilder(self.policy, _REQUESTS)
        return build_map(
            METHOD,
            {_CONNECT: build_steps(self._decision(self.plans.connect, connect, claim, by_connect))},
            build_steps(self._decision(self.plans.http, http, claim, by_url)),
        )

    def _decision(self, plan: Plan, steps: tuple[Step, ...], claim: Claim, ends: Routes) -> Decision:
        return Decision(plan, steps, plan.default, claim, ends)


@dataclass(frozen=True, slots=True)
class _Connects:
    """Builds the routes of CONNECT for each action, of which the first that matches counts."""

    policy: Policy

    def leaf_of(self, action: Action, claim: Claim) -> MatcherOnMatch:
        """Build the end of a look-up."""
        return build_leaf(self.routes_of(action, claim))

    def routes_of(self, action: Action, claim: Claim) -> list[Route]:  # noqa: ARG002 - as asked for, whatever it is
        """Build the routes of one action."""
        match action:
            case Direct():
                # Here Envoy takes the place of the proxy, and what follows CONNECT goes to the host itself.
                return [_connect(DIRECT, names.DIRECT_BY_NAME_CLUSTER, RouteActionUpgradeConfigConnectConfig())]
            case Deny():
                return [_refuse_connect()]
            case Tunnel(name):
                return self._tunnel_routes(name)
            case other:
                assert_never(other)

    def _tunnel_routes(self, name: str) -> list[Route]:
        """Pass CONNECT on, to the ports that the proxy takes it for (N19)."""
        proxy, cluster = find_proxy(self.policy, name), names.proxy_cluster(name)
        hidden = () if proxy.login is None else ("proxy-authenticate",)
        if proxy.connect_ports is None:
            return [_connect(TUNNEL, cluster, hidden=hidden)]
        ports = [_connect(TUNNEL, cluster, hidden=hidden, port=str(port)) for port in proxy.connect_ports]
        return [*ports, _refuse_connect()]


def _connect(
    name: str,
    cluster: str,
    terminate: RouteActionUpgradeConfigConnectConfig | None = None,
    *,
    hidden: Sequence[str] = (),
    port: str | None = None,
) -> Route:
    """
    Build a route for CONNECT; `terminate` unless it is passed on.

    An application is not asked for the login that is ours to give: `hidden` are response headers.
    """
    upgrade = RouteActionUpgradeConfig(upgrade_type=_CONNECT, connect_config=terminate)
    only = [] if port is None else [match_port(port)]
    return Route(
        name=name,
        match=RouteMatch(connect_matcher=RouteMatchConnectMatcher(), filter_state=only),
        route=RouteAction(cluster=cluster, timeout=NO_TIMEOUT, idle_timeout=NO_TIMEOUT, upgrade_configs=[upgrade]),
        response_headers_to_remove=list(hidden),
    )


def _refuse_connect() -> Route:
    return Route(
        name=DENY,
        match=RouteMatch(connect_matcher=RouteMatchConnectMatcher()),
        direct_response=DirectResponseAction(status=403),
    )
