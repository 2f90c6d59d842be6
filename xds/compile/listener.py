"""
The outbound listener: a few chains with constant names, and one tree that chooses among them.

Everything that changes often lives in the tree: an update that changes only `filter_chain_matcher` is applied in
place and cuts nothing, while a chain whose own content changes drains its connections. So a chain depends on
nothing but the name of its proxy; rules, lists and ports are in the tree (N23).
"""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, assert_never

from envoy_data_plane.envoy.config.core.v3 import Address, SocketAddress, TrafficDirection
from envoy_data_plane.envoy.config.listener.v3 import (
    AdditionalAddress,
    FilterChain,
    Listener,
    ListenerFilter,
    ListenerFilterChainMatchPredicate,
    ListenerFilterChainMatchPredicateMatchSet,
)
from envoy_data_plane.envoy.extensions.filters.listener.http_inspector.v3 import HttpInspector
from envoy_data_plane.envoy.extensions.filters.listener.original_dst.v3 import OriginalDst
from envoy_data_plane.envoy.extensions.filters.listener.tls_inspector.v3 import TlsInspector
from envoy_data_plane.envoy.type.v3 import Int32Range
from envoy_data_plane.google.protobuf import StringValue
from envoy_data_plane.xds.type.matcher.v3 import MatcherOnMatch

from xds import names
from xds.compile.access_log import build_refusal_log
from xds.compile.decisions import AddressSegment, Aspect, Plan, Segment, unknown_action
from xds.compile.hosts import NAME, SERVER_NAME_ADDRESS
from xds.compile.http import build_http_chain
from xds.compile.matchers import (
    APPLICATION_PROTOCOL,
    CONNECTION,
    SERVER_NAME,
    TRANSPORT_PROTOCOL,
    build_extension,
    build_map,
    build_names,
    build_networks,
    build_patterns,
    build_segments,
)
from xds.compile.routes import takes_plain_http
from xds.compile.synthetic_chains import admit, build_synthetic_chains, by_synthetic_address, divert
from xds.compile.tunnels import build_deny_chain, build_tcp_chain
from xds.compile.wire import pack
from xds.policy.coverage import LOOPBACK
from xds.policy.model import Action, Deny, Direct, Policy, Tunnel

if TYPE_CHECKING:
    from collections.abc import Callable

    from xds.compile.synthetic import Synthetic

_OR_MATCH_MEMBERS = 2
"""The fewest that Envoy takes (`ListenerFilterChainMatchPredicate.MatchSet.rules`)."""
_INSPECTION_TIMEOUT = timedelta(seconds=2)
"""How long a client may stay silent before it counts as one whose server speaks first."""


def build_listener(
    policy: Policy, plan: Plan, http_plan: Plan, *, has_ipv6: bool, synthetic: Synthetic | None = None
) -> Listener:
    """
    Build the outbound listener.

    It listens on loopback only, where REDIRECT delivers what the pod itself sends: on the pod's own address it
    would be an open proxy for its neighbours.

    Args:
        policy: for the proxies (chains) and the ports that speak first.
        plan: decides TLS and other TCP.
        http_plan: decides plain HTTP.
        has_ipv6: whether the pods' kernels know IPv6 at all.
        synthetic: the addresses that stand for names, if any do.

    """
    return Listener(
        per_connection_buffer_limit_bytes=names.BUFFER_LIMIT,
        name=names.OUTBOUND_LISTENER,
        address=build_loopback("127.0.0.1", names.OUTBOUND_PORT),
        additional_addresses=[AdditionalAddress(address=build_loopback("::1", names.OUTBOUND_PORT))]
        if has_ipv6
        else [],
        # A host whose loopback has no IPv6 address still takes the listener.
        freebind=True,
        traffic_direction=TrafficDirection.OUTBOUND,
        listener_filters=list(_listener_filters(policy.server_first_ports)),
        listener_filters_timeout=_INSPECTION_TIMEOUT,
        continue_on_listener_filters_timeout=True,
        filter_chains=[*_build_chains(policy), *build_synthetic_chains(synthetic, policy)],
        filter_chain_matcher=_build_tree(policy, plan, http_plan, synthetic).matcher,
        enable_reuse_port=True,
        access_log=build_refusal_log(policy),
    )


def build_loopback(address: str, port: int) -> Address:
    """Build an address of this host that no other host can reach."""
    return Address(socket_address=SocketAddress(address=address, port_value=port))


@lru_cache(maxsize=8)
def _listener_filters(server_first_ports: tuple[int, ...]) -> tuple[ListenerFilter, ...]:
    inspectors = [
        ("envoy.filters.listener.tls_inspector", TlsInspector()),
        ("envoy.filters.listener.http_inspector", HttpInspector()),
    ]
    silent = _on_ports(server_first_ports)
    original = ListenerFilter(name="envoy.filters.listener.original_dst", typed_config=pack(OriginalDst()))
    return (
        original,
        *(ListenerFilter(name=name, typed_config=pack(config), filter_disabled=silent) for name, config in inspectors),
    )


def _on_ports(ports: tuple[int, ...]) -> ListenerFilterChainMatchPredicate | None:
    """Match connections to any of `ports`."""
    rules = [
        ListenerFilterChainMatchPredicate(destination_port_range=Int32Range(start=port, end=port + 1)) for port in ports
    ]
    if len(rules) < _OR_MATCH_MEMBERS:
        return rules[0] if rules else None
    return ListenerFilterChainMatchPredicate(or_match=ListenerFilterChainMatchPredicateMatchSet(rules=rules))


def _build_chains(policy: Policy) -> list[FilterChain]:
    chains = [
        build_tcp_chain(names.DIRECT_CHAIN, names.DIRECT_CLUSTER, None, policy),
        build_deny_chain(),
        build_http_chain(names.HTTP_DENY_CHAIN, policy),
        build_http_chain(names.HTTP_CHAIN, policy),
    ]
    for proxy in sorted(policy.proxies, key=lambda item: item.name):
        cluster = names.proxy_cluster(proxy.name)
        tls_chain, tcp_chain = names.tls_tunnel_chain(proxy.name), names.tcp_tunnel_chain(proxy.name)
        chains.append(build_tcp_chain(tls_chain, cluster, "%REQUESTED_SERVER_NAME%:%DOWNSTREAM_LOCAL_PORT%", policy))
        chains.append(build_tcp_chain(tcp_chain, cluster, "%DOWNSTREAM_LOCAL_ADDRESS%", policy))
        if takes_plain_http(policy, proxy.name):
            chains.append(build_http_chain(names.http_proxy_chain(proxy.name), policy))
            chains.append(build_http_chain(names.http_address_chain(proxy.name), policy))
    return chains


def _build_tree(policy: Policy, plan: Plan, http_plan: Plan, synthetic: Synthetic | None) -> MatcherOnMatch:
    """
    Build the tree: what every protocol reaches directly, then one branch per protocol.

    1. TLS with a server name; one that is an address names nobody, and one that is neither is refused. 2. TLS without
    one, and any other TCP. 3. HTTP/1. What an address decided is asked for by address, so that a server name cannot
    turn the permission for a network into one for any host. What stands for a name is never dialled, and refused before
    all else if it stands for none.
    """
    deny = _chain_leaf(names.DENY_CHAIN)
    common = _common_leading(plan, http_plan)
    plan = Plan(plan.segments[len(common) :], plan.default)
    http_plan = Plan(http_plan.segments[len(common) :], http_plan.default)
    unnamed_plan = plan.without_names(unknown_action(policy, plan.default))

    def tls_leaf(action: Action, aspect: Aspect) -> MatcherOnMatch:
        by_address = aspect is Aspect.ADDRESS
        decided = _tunnel_leaf(policy, action, names.tcp_tunnel_chain if by_address else names.tls_tunnel_chain)
        return divert(synthetic, deny, decided) if action == Direct() and not by_address else decided

    def name_leaf(action: Action, host: str) -> MatcherOnMatch:
        return _tunnel_leaf(policy, action, lambda proxy: names.tcp_name_chain(proxy, host))

    def tcp_leaf(action: Action, aspect: Aspect = Aspect.ADDRESS) -> MatcherOnMatch:  # noqa: ARG001 - as a Leaf
        return _tunnel_leaf(policy, action, names.tcp_tunnel_chain)

    unnamed = build_segments(unnamed_plan.segments, CONNECTION, tcp_leaf, tcp_leaf(unnamed_plan.default))
    unnamed = by_synthetic_address(synthetic, name_leaf, deny, unnamed)
    named = build_segments(plan.segments, CONNECTION, tls_leaf, tls_leaf(plan.default, Aspect.NAME))
    claimed = build_patterns(SERVER_NAME, [(NAME, named), (SERVER_NAME_ADDRESS, unnamed)], deny)
    http = divert(synthetic, _chain_leaf(names.HTTP_SYNTHETIC_CHAIN), _build_http(policy, http_plan))
    # Envoy quotes the values of this input; the quotes belong to the keys.
    by_application = build_map(APPLICATION_PROTOCOL, {"'http/1.0'": http, "'http/1.1'": http}, unnamed)
    by_transport = build_map(TRANSPORT_PROTOCOL, {"tls": build_names([(["*"], claimed)], unnamed)}, by_application)
    tree = admit(synthetic, deny, build_segments(common, CONNECTION, tcp_leaf, by_transport))
    return _refuse_itself(deny, tree) if policy.always_direct.loopback else tree


def _refuse_itself(deny: MatcherOnMatch, otherwise: MatcherOnMatch) -> MatcherOnMatch:
    """
    Refuse what was not redirected here but sent: dialled directly, it would come back until no connection is left.

    Where loopback is not always direct, that is how connections arrive without capture, and names decide.
    """
    own_port = build_map(CONNECTION.port, {str(names.OUTBOUND_PORT): deny}, None)
    return build_networks([(LOOPBACK, own_port)], CONNECTION, otherwise)


def _common_leading(plan: Plan, http_plan: Plan) -> tuple[Segment, ...]:
    """Return the first look-ups that mean the same for every protocol: addresses that are reached directly."""
    common: list[Segment] = []
    for one, other in zip(plan.segments, http_plan.segments, strict=False):
        if one != other or not isinstance(one, AddressSegment) or not _is_direct(one):
            break
        common.append(one)
    return tuple(common)


def _is_direct(segment: AddressSegment) -> bool:
    return all(clause.action == Direct() for clauses in segment.nodes.values() for clause in clauses)


def _build_http(policy: Policy, plan: Plan) -> MatcherOnMatch:
    """Decide by address and port as long as no name matters; leave the rest to the routes."""
    leading, rest = plan.split_leading()

    def leaf(action: Action, aspect: Aspect) -> MatcherOnMatch:
        return _http_leaf(policy, action, aspect)

    by_host = rest.segments or _minds_unknown(policy, plan)
    otherwise = _chain_leaf(names.HTTP_CHAIN) if by_host else leaf(plan.default, Aspect.NAME)
    return build_segments(leading.segments, CONNECTION, leaf, otherwise)


def _minds_unknown(policy: Policy, plan: Plan) -> bool:
    """Whether a Host that is an address is treated differently from one that is a name."""
    return unknown_action(policy, plan.default) != plan.default


def _http_leaf(policy: Policy, action: Action, aspect: Aspect) -> MatcherOnMatch:
    match action:
        case Direct():
            return _chain_leaf(names.DIRECT_CHAIN)
        case Tunnel(name) if takes_plain_http(policy, name):
            by_address = aspect is Aspect.ADDRESS
            return _chain_leaf(names.http_address_chain(name) if by_address else names.http_proxy_chain(name))
        case _:
            return _chain_leaf(names.HTTP_DENY_CHAIN)


def _tunnel_leaf(policy: Policy, action: Action, chain_of: Callable[[str], str]) -> MatcherOnMatch:
    """Choose the chain of `action`; a port that the proxy takes no CONNECT for is refused here (N19)."""
    match action:
        case Direct():
            return _chain_leaf(names.DIRECT_CHAIN)
        case Deny():
            return _chain_leaf(names.DENY_CHAIN)
        case Tunnel(name):
            tunnel = _chain_leaf(chain_of(name))
            ports = next(proxy.connect_ports for proxy in policy.proxies if proxy.name == name)
            if ports is None:
                return tunnel
            return build_map(CONNECTION.port, {str(port): tunnel for port in ports}, _chain_leaf(names.DENY_CHAIN))
        case other:
            assert_never(other)


@lru_cache(maxsize=1024)
def _chain_leaf(name: str) -> MatcherOnMatch:
    return MatcherOnMatch(action=build_extension(name, StringValue(value=name)))
