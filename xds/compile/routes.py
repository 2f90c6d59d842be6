"""
The routes of plain HTTP: what becomes of a request, by its Host and by where its connection was going.

A request to a proxy goes out in absolute form (RFC 9112, section 3.2.2) by rewriting the path, which works on an
ordinary cluster, or inside a tunnel. What the proxy is asked for names what the policy decided on and nothing else:
the Host's name if a name decided, the dialled address if an address did, and always the dialled port. Otherwise a
client could be allowed one thing and ask the proxy for another. Routes hold no secret and no time-out of their own.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, assert_never

from envoy_data_plane.envoy.config.core.v3 import (
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
)
from envoy_data_plane.envoy.config.route.v3 import (
    DirectResponseAction,
    HeaderMatcher,
    Route,
    RouteAction,
    RouteConfiguration,
    RouteList,
    RouteMatch,
    VirtualHost,
)
from envoy_data_plane.envoy.type.matcher.v3 import FilterStateMatcher, StringMatcher
from envoy_data_plane.xds.type.matcher.v3 import MatcherOnMatch

from xds import names
from xds.compile.decisions import AddressSegment, Aspect, Clauses, NameSegment, Plan, PortSegment
from xds.compile.hosts import ADDRESS_HOST, UNNAMED_HOST
from xds.compile.matchers import (
    AUTHORITY,
    PORT_KEY,
    REQUEST,
    build_clauses,
    build_extension,
    build_patterns,
    build_segment,
    spellings,
)
from xds.policy.model import Action, Deny, Direct, PlainHttp, Policy, Proxy, TlsOrigination, Tunnel, UnknownName

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


NO_TIMEOUT = timedelta(0)
DIRECT, TUNNEL, DENY = "direct", "tunnel", "deny"
"""The names of routes, which the access log shows as what was done."""
KEPT_PROTO = "x-egress-xds-forwarded-proto"
"""Carries the application's own x-forwarded-proto past the place where Envoy would make one up."""
HOST_METADATA = ("egress-xds", "host")
"""Namespace and key of the dynamic metadata that holds the Host without its port."""
HOST_OF_METADATA = "%DYNAMIC_METADATA({}:{})%".format(*HOST_METADATA)
_PATH = "%PATH(NQ)%"
_DIALLED = "%DOWNSTREAM_LOCAL_ADDRESS%"
_UPGRADE = (HeaderMatcher(name="upgrade", present_match=True),)
"""A request that wants another protocol afterwards, which no proxy passes on in absolute form."""
HTTPS_PORT = 443
_HTTP_PORT = "80"
"""Left out of a URL, as every client leaves it out (RFC 9110, section 4.2.1)."""

Step = Clauses | int
"""One part of a virtual host's decision: clauses that its names settled, or the segment still to look up, by index."""


class Claim(Enum):
    """What a request says of its host."""

    NAME = "a name"
    ADDRESS = "an address, or a name that decides nothing here"
    NOTHING = "no Host (HTTP/1.0)"


def build_routes(plan: Plan, policy: Policy) -> Iterable[RouteConfiguration]:
    """
    Yield the route configurations of all chains that read plain HTTP.

    Args:
        plan: what is left to decide by Host.
        policy: for its proxies, and for connections that name no host.

    """
    yield _build_routes_by_host(plan, policy)
    yield _build_constant_routes(names.HTTP_DENY_CHAIN, Deny(), policy, Aspect.NAME)
    for proxy in policy.proxies:
        if proxy.plain_http is not PlainHttp.DENY:
            action = Tunnel(proxy.name)
            yield _build_constant_routes(names.http_proxy_chain(proxy.name), action, policy, Aspect.NAME)
            yield _build_constant_routes(names.http_address_chain(proxy.name), action, policy, Aspect.ADDRESS)


def _build_constant_routes(name: str, action: Action, policy: Policy, aspect: Aspect) -> RouteConfiguration:
    """Build the routes of a connection that is decided already, by looking at `aspect`."""
    named = Claim.ADDRESS if aspect is Aspect.ADDRESS else Claim.NAME

    def leaf(claim: Claim) -> MatcherOnMatch:
        return _build_leaf(_routes_of(action, policy, claim))

    claims = _build_claims(leaf(Claim.NOTHING), leaf(Claim.ADDRESS), leaf(named))
    return _build_configuration(name, [VirtualHost(domains=["*"], matcher=claims.matcher)])


def _build_routes_by_host(plan: Plan, policy: Policy) -> RouteConfiguration:
    """
    Build the route configuration that decides by Host.

    Virtual hosts are grouped by what they decide, so their number grows with the decisions of a policy and not with
    its names; Hosts that no rule names share the last one. Envoy compares domains without regard to case and, here,
    to the port.
    """
    groups: dict[tuple[Step, ...], list[str]] = defaultdict(list)
    for node in plan.name_nodes:
        groups[_steps_of(plan, node)].append(node)
    hosts = [
        _build_virtual_host(spellings(nodes), _Decision(plan, steps, plan.default, policy, Claim.NAME))
        for steps, nodes in sorted(groups.items(), key=lambda group: group[1][0])
    ]
    undecided, unknown = _steps_of(plan, None), unknown_action(policy, plan.default)
    claims = _build_claims(
        _build_steps(_Decision(plan, undecided, unknown, policy, Claim.NOTHING)),
        _build_steps(_Decision(plan, undecided, unknown, policy, Claim.ADDRESS)),
        _build_steps(_Decision(plan, undecided, plan.default, policy, Claim.NAME)),
    )
    hosts.append(VirtualHost(domains=["*"], matcher=claims.matcher))
    return _build_configuration(names.HTTP_ROUTES, hosts)


def _build_claims(nothing: MatcherOnMatch, address: MatcherOnMatch, name: MatcherOnMatch) -> MatcherOnMatch:
    return build_patterns(AUTHORITY, [(re.escape(UNNAMED_HOST), nothing), (ADDRESS_HOST, address)], name)


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


def takes_plain_http(policy: Policy, name: str) -> bool:
    """Whether the policy's proxy `name` is sent plain HTTP at all."""
    return _find(policy, name).plain_http is not PlainHttp.DENY


def _find(policy: Policy, name: str) -> Proxy:
    return next(proxy for proxy in policy.proxies if proxy.name == name)


def _routes_of(action: Action, policy: Policy, claim: Claim) -> list[Route]:
    """Build the routes of one action, of which the first that matches counts; what no proxy may carry is refused."""
    match action:
        case Direct():
            return [_forward(names.DIRECT_CLUSTER, claim)]
        case Deny():
            return [_refuse()]
        case Tunnel(name, origination):
            proxy = _find(policy, name)
            return _proxy_routes(proxy, claim) if origination is None else [_https_route(proxy, origination, claim)]
        case other:
            assert_never(other)


def _proxy_routes(proxy: Proxy, claim: Claim) -> list[Route]:
    match proxy.plain_http:
        case PlainHttp.DENY:
            return [_refuse()]
        case PlainHttp.CONNECT:
            return [*_tunnel_routes(proxy, claim), *([] if proxy.connect_ports is None else [_refuse()])]
        case PlainHttp.ABSOLUTE_FORM:
            return [*_tunnel_routes(proxy, claim, only=_UPGRADE), *_absolute_form_routes(proxy, claim)]
        case other:
            assert_never(other)


def _https_route(proxy: Proxy, origination: TlsOrigination, claim: Claim) -> Route:
    """Build the route to HTTPS. What names no host can't be verified, and goes nowhere."""
    takes_https = proxy.connect_ports is None or HTTPS_PORT in proxy.connect_ports
    if claim is not Claim.NAME or not takes_https:
        return _refuse()
    return _forward(names.https_tunnel(proxy.name, origination.ca_pem), claim)


def _tunnel_routes(proxy: Proxy, claim: Claim, *, only: Sequence[HeaderMatcher] = ()) -> list[Route]:
    """Build the routes into tunnels, one for each port that the proxy takes CONNECT for (N19)."""
    by_name = claim is Claim.NAME
    cluster = names.http_tunnel(proxy.name) if by_name else names.http_address_tunnel(proxy.name)
    ports = [None] if proxy.connect_ports is None else [str(port) for port in proxy.connect_ports]
    return [_forward(cluster, claim, port=port, headers=only) for port in ports]


def _absolute_form_routes(proxy: Proxy, claim: Claim) -> list[Route]:
    cluster = names.proxy_cluster(proxy.name)
    if claim is not Claim.NAME:
        return [_forward(cluster, claim, f"http://{_DIALLED}{_PATH}")]
    return [
        _forward(cluster, claim, f"http://{HOST_OF_METADATA}{_PATH}", port=_HTTP_PORT),
        _forward(cluster, claim, f"http://{HOST_OF_METADATA}:%DOWNSTREAM_LOCAL_PORT%{_PATH}"),
    ]


def _refuse() -> Route:
    return Route(name=DENY, match=RouteMatch(prefix="/"), direct_response=DirectResponseAction(status=403))


def _build_leaf(routes: list[Route]) -> MatcherOnMatch:
    return MatcherOnMatch(action=build_extension("routes", RouteList(routes=routes)))


def _forward(
    cluster: str,
    claim: Claim,
    path_rewrite: str = "",
    *,
    port: str | None = None,
    headers: Sequence[HeaderMatcher] = (),
) -> Route:
    kept = HeaderValueOption(
        header=HeaderValue(key="x-forwarded-proto", value=f"%REQ({KEPT_PROTO})%"),
        append_action=HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
    )
    only = [] if port is None else [FilterStateMatcher(key=PORT_KEY, string_match=StringMatcher(exact=port))]
    return Route(
        name=DIRECT if cluster == names.DIRECT_CLUSTER else TUNNEL,
        match=RouteMatch(prefix="/", filter_state=only, headers=list(headers)),
        route=RouteAction(
            cluster=cluster,
            path_rewrite=path_rewrite,
            host_rewrite=_DIALLED if claim is Claim.NOTHING else None,
            timeout=NO_TIMEOUT,
            idle_timeout=NO_TIMEOUT,
        ),
        request_headers_to_remove=["x-forwarded-proto"],
        request_headers_to_add=[kept],
    )


def _build_configuration(name: str, hosts: list[VirtualHost]) -> RouteConfiguration:
    for index, host in enumerate(hosts):
        host.name = f"{index}:{host.domains[0]}"
    return RouteConfiguration(
        name=name,
        virtual_hosts=hosts,
        ignore_port_in_host_matching=True,
        request_headers_to_remove=[KEPT_PROTO],
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


@dataclass(frozen=True, slots=True)
class _Decision:
    """What the requests of one virtual host have in common."""

    plan: Plan
    steps: tuple[Step, ...]
    default: Action
    policy: Policy
    claim: Claim

    def routes(self, action: Action) -> list[Route]:
        return _routes_of(action, self.policy, self.claim)

    def leaf(self, action: Action, aspect: Aspect) -> MatcherOnMatch:
        claim = Claim.ADDRESS if aspect is Aspect.ADDRESS and self.claim is Claim.NAME else self.claim
        return _build_leaf(_routes_of(action, self.policy, claim))


def _build_virtual_host(domains: Sequence[str], decision: _Decision) -> VirtualHost:
    match decision.steps:
        case ():
            return VirtualHost(domains=list(domains), routes=decision.routes(decision.default))
        case ((clause,), *_) if not clause.ports:
            return VirtualHost(domains=list(domains), routes=decision.routes(clause.action))
        case _:
            return VirtualHost(domains=list(domains), matcher=_build_steps(decision).matcher)


def _build_steps(decision: _Decision) -> MatcherOnMatch:
    result = decision.leaf(decision.default, Aspect.NAME)
    for step in reversed(decision.steps):
        if isinstance(step, int):
            result = build_segment(decision.plan.segments[step], REQUEST, decision.leaf, result)
        else:
            decided = build_clauses(step, REQUEST, partial(decision.leaf, aspect=Aspect.NAME), result)
            assert decided is not None, "a step holds at least one clause"
            result = decided
    return result
