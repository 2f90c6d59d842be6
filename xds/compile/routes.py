"""
The routes of plain HTTP: what becomes of a request, by its Host and by where its connection was going.

A request to a proxy goes out in absolute form (RFC 9112, section 3.2.2) by rewriting the path, which works on an
ordinary cluster, or inside a tunnel. What the proxy is asked for names what the policy decided on and nothing else:
the Host's name if a name decided, the dialled address if an address did, and always the dialled port. Otherwise a
client could be allowed one thing and ask the proxy for another. Routes hold no secret and no time-out of their own.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
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
    RouteMatch,
    VirtualHost,
)
from envoy_data_plane.envoy.type.matcher.v3 import FilterStateMatcher, StringMatcher

from xds import names
from xds.compile.decisions import Aspect, Plan, unknown_action
from xds.compile.matchers import PORT_KEY, spellings
from xds.compile.virtual_hosts import (
    KEPT_PROTO,
    Claim,
    Decision,
    Step,
    build_claims,
    build_configuration,
    build_leaf,
    build_steps,
    build_virtual_host,
    steps_of,
)
from xds.policy.model import Action, Deny, Direct, PlainHttp, Policy, Proxy, TlsOrigination, Tunnel

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from envoy_data_plane.xds.type.matcher.v3 import MatcherOnMatch


NO_TIMEOUT = timedelta(0)
DIRECT, TUNNEL, DENY = "direct", "tunnel", "deny"
"""The names of routes, which the access log shows as what was done."""
HOST_METADATA = ("egress-xds", "host")
"""Namespace and key of the dynamic metadata that holds the Host without its port."""
HOST_OF_METADATA = "%DYNAMIC_METADATA({}:{})%".format(*HOST_METADATA)
_PATH = "%PATH(NQ)%"
_UPGRADE = (HeaderMatcher(name="upgrade", present_match=True),)
"""A request that wants another protocol afterwards, which no proxy passes on in absolute form."""
HTTPS_PORT = 443
_FEW_PORTS = 16
"""As many as routes may name that are remembered."""
_HTTP_PORT = "80"
"""Left out of a URL, as every client leaves it out (RFC 9110, section 4.2.1)."""


@dataclass(frozen=True, slots=True)
class Requests:
    """Where the requests of a listener were going, as formats, and how they get there directly."""

    dialled: str
    """Host and port."""
    port: str
    direct: str
    """A cluster."""
    kept_back: tuple[str, ...] = ()
    """Headers that are for a proxy only."""


CAPTURED = Requests("%DOWNSTREAM_LOCAL_ADDRESS%", "%DOWNSTREAM_LOCAL_PORT%", names.DIRECT_CLUSTER)
"""Those whose connections were redirected here."""


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
        return RouteBuilder(policy, CAPTURED).leaf_of(action, claim)

    claims = build_claims(leaf(Claim.NOTHING), leaf(Claim.ADDRESS), leaf(named))
    return build_configuration(name, [VirtualHost(domains=["*"], matcher=claims.matcher)])


def _build_routes_by_host(plan: Plan, policy: Policy) -> RouteConfiguration:
    """
    Build the route configuration that decides by Host.

    Virtual hosts are grouped by what they decide, so their number grows with the decisions of a policy and not with
    its names; Hosts that no rule names share the last one. Envoy compares domains without regard to case and, here,
    to the port.
    """
    ends = RouteBuilder(policy, CAPTURED)
    hosts = build_hosts(plan, policy)
    undecided, unknown = steps_of(plan, None), unknown_action(policy, plan.default)
    claims = build_claims(
        build_steps(Decision(plan, undecided, unknown, Claim.NOTHING, ends)),
        build_steps(Decision(plan, undecided, unknown, Claim.ADDRESS, ends)),
        build_steps(Decision(plan, undecided, plan.default, Claim.NAME, ends)),
    )
    hosts.append(VirtualHost(domains=["*"], matcher=claims.matcher))
    return build_configuration(names.HTTP_ROUTES, hosts)


def build_hosts(plan: Plan, policy: Policy) -> list[VirtualHost]:
    """Build the virtual hosts of the names that rules know, for captured requests."""
    ends = RouteBuilder(policy, CAPTURED)
    groups: dict[tuple[Step, ...], list[str]] = defaultdict(list)
    for node in plan.name_nodes:
        groups[steps_of(plan, node)].append(node)
    return [
        build_virtual_host(spellings(nodes), Decision(plan, steps, plan.default, Claim.NAME, ends))
        for steps, nodes in sorted(groups.items(), key=lambda group: group[1][0])
    ]


def takes_plain_http(policy: Policy, name: str) -> bool:
    """Whether the policy's proxy `name` is sent plain HTTP at all."""
    return find_proxy(policy, name).plain_http is not PlainHttp.DENY


def find_proxy(policy: Policy, name: str) -> Proxy:
    """Return the policy's proxy `name`."""
    return next(proxy for proxy in policy.proxies if proxy.name == name)


def build_refusal() -> Route:
    """Build the route of a request that is answered with 403."""
    return Route(name=DENY, match=RouteMatch(prefix="/"), direct_response=DirectResponseAction(status=403))


@dataclass(frozen=True, slots=True)
class RouteBuilder:
    """Builds the routes of plain HTTP for each action, of which the first that matches counts."""

    policy: Policy
    requests: Requests

    def routes_of(self, action: Action, claim: Claim) -> list[Route]:
        """Build the routes of one action; what no proxy may carry is refused."""
        return self._way(action).build(claim)

    def leaf_of(self, action: Action, claim: Claim) -> MatcherOnMatch:
        """Build the end of a look-up."""
        way = self._way(action)
        return _share_leaf(way, claim) if way.is_small else build_leaf(way.build(claim))

    def _way(self, action: Action) -> _Way:
        if not isinstance(action, Tunnel):
            return _Way(self.requests, action)
        proxy = find_proxy(self.policy, action.proxy)
        return _Way(self.requests, action, proxy.plain_http, proxy.connect_ports)


@dataclass(frozen=True, slots=True)
class _Way:
    """All that the routes of an action depend on: much less than there is to a policy, so that policies share them."""

    requests: Requests
    action: Action
    plain_http: PlainHttp = PlainHttp.DENY
    connect_ports: tuple[int, ...] | None = None
    """What the proxy takes, if there is one."""

    @property
    def is_small(self) -> bool:
        """Whether it may be remembered: a thousand certificates or lists of ports would be too much."""
        originates = isinstance(self.action, Tunnel) and self.action.origination is not None
        return not originates and len(self.connect_ports or ()) <= _FEW_PORTS

    def build(self, claim: Claim) -> list[Route]:
        """Build the routes."""
        match self.action:
            case Direct():
                return [self._forward(self.requests.direct, claim)]
            case Deny():
                return [build_refusal()]
            case Tunnel(proxy, origination):
                if origination is None:
                    return self._proxy_routes(proxy, claim)
                return [self._https_route(proxy, origination, claim)]
            case other:
                assert_never(other)

    def _proxy_routes(self, proxy: str, claim: Claim) -> list[Route]:
        match self.plain_http:
            case PlainHttp.DENY:
                return [build_refusal()]
            case PlainHttp.CONNECT:
                refusal = [] if self.connect_ports is None else [build_refusal()]
                return [*self._tunnel_routes(proxy, claim), *refusal]
            case PlainHttp.ABSOLUTE_FORM:
                return [*self._tunnel_routes(proxy, claim, only=_UPGRADE), *self._absolute_form_routes(proxy, claim)]
            case other:
                assert_never(other)

    def _https_route(self, proxy: str, origination: TlsOrigination, claim: Claim) -> Route:
        """Build the route to HTTPS. What names no host can't be verified, and goes nowhere."""
        takes_https = self.connect_ports is None or HTTPS_PORT in self.connect_ports
        if claim is not Claim.NAME or not takes_https:
            return build_refusal()
        return self._forward(names.https_tunnel(proxy, origination.ca_pem), claim)

    def _tunnel_routes(self, proxy: str, claim: Claim, *, only: Sequence[HeaderMatcher] = ()) -> list[Route]:
        """Build the routes into tunnels, one for each port that the proxy takes CONNECT for (N19)."""
        by_name = claim is Claim.NAME
        cluster = names.http_tunnel(proxy) if by_name else names.http_address_tunnel(proxy)
        ports = [None] if self.connect_ports is None else [str(port) for port in self.connect_ports]
        return [self._forward(cluster, claim, port=port, headers=only) for port in ports]

    def _absolute_form_routes(self, proxy: str, claim: Claim) -> list[Route]:
        cluster = names.proxy_cluster(proxy)
        if claim is not Claim.NAME:
            return [self._forward(cluster, claim, f"http://{self.requests.dialled}{_PATH}")]
        return [
            self._forward(cluster, claim, f"http://{HOST_OF_METADATA}{_PATH}", port=_HTTP_PORT),
            self._forward(cluster, claim, f"http://{HOST_OF_METADATA}:{self.requests.port}{_PATH}"),
        ]

    def _forward(
        self,
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
        only = [] if port is None else [match_port(port)]
        kept_back = () if path_rewrite else self.requests.kept_back
        return Route(
            name=DIRECT if cluster == self.requests.direct else TUNNEL,
            match=RouteMatch(prefix="/", filter_state=only, headers=list(headers)),
            route=RouteAction(
                cluster=cluster,
                path_rewrite=path_rewrite,
                host_rewrite=self.requests.dialled if claim is Claim.NOTHING else None,
                timeout=NO_TIMEOUT,
                idle_timeout=NO_TIMEOUT,
            ),
            request_headers_to_remove=["x-forwarded-proto", *kept_back],
            request_headers_to_add=[kept],
        )


@lru_cache(maxsize=1024)
def _share_leaf(way: _Way, claim: Claim) -> MatcherOnMatch:
    return build_leaf(way.build(claim))


def match_port(port: str) -> FilterStateMatcher:
    """Match requests for hosts at `port`."""
    return FilterStateMatcher(key=PORT_KEY, string_match=StringMatcher(exact=port))
