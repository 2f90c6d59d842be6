"""
How connections to addresses that stand for names are decided, as parts of the listener's tree and as routes.

A client that shows a name is decided by the name it shows, as everywhere: the proxy is asked for what was decided on.
One that shows none is known by the address, if that belongs to a name in `to.tcp`. What is left is refused: nothing is
ever dialled at such an address, and no proxy is asked for one.

Each name in `to.tcp` has chains of its own. They depend on the name and its proxy only, so that a new name cuts no
connection of another.
"""

from __future__ import annotations

from functools import partial
from ipaddress import ip_network
from typing import TYPE_CHECKING

from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration, VirtualHost

from xds import names
from xds.compile.http import build_http_chain
from xds.compile.matchers import CONNECTION, build_clauses, build_networks, build_undecided
from xds.compile.routes import CAPTURED, RouteBuilder, build_hosts, build_refusal
from xds.compile.synthetic import Synthetic, without_direct
from xds.compile.tunnels import build_tcp_chain
from xds.compile.virtual_hosts import (
    Claim,
    Decision,
    build_claims,
    build_configuration,
    build_leaf,
    build_steps,
    steps_of,
)
from xds.policy.model import Action, Tunnel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from envoy_data_plane.envoy.config.listener.v3 import FilterChain
    from envoy_data_plane.xds.type.matcher.v3 import MatcherOnMatch

    from xds.compile.decisions import Plan
    from xds.facts import Address
    from xds.policy.model import Network, Policy


def build_synthetic_chains(synthetic: Synthetic | None, policy: Policy) -> Iterable[FilterChain]:
    """Yield a chain per name in `to.tcp` and proxy that carries it, and one for plain HTTP."""
    if synthetic is None:
        return
    yield build_http_chain(names.HTTP_SYNTHETIC_CHAIN, policy)
    for host, clauses in synthetic.decisions.items():
        for proxy in sorted({item.action.proxy for item in clauses if isinstance(item.action, Tunnel)}):
            asked = f"{_escape(host)}:%DOWNSTREAM_LOCAL_PORT%"
            yield build_tcp_chain(names.tcp_name_chain(proxy, host), names.proxy_cluster(proxy), asked, policy)


def admit(synthetic: Synthetic | None, deny: MatcherOnMatch, otherwise: MatcherOnMatch) -> MatcherOnMatch:
    """Refuse addresses that stand for no name."""
    if synthetic is None:
        return otherwise
    known = {address for addresses in synthetic.answers.values() for address in addresses}
    entries: list[tuple[Iterable[Network], MatcherOnMatch]] = [(synthetic.ranges, deny)]
    if known:
        entries.append((_hosts(known), build_undecided(CONNECTION, deny)))
    return build_networks(entries, CONNECTION, otherwise)


def divert(synthetic: Synthetic | None, inside: MatcherOnMatch, otherwise: MatcherOnMatch) -> MatcherOnMatch:
    """Choose `inside` for addresses that stand for names."""
    return otherwise if synthetic is None else build_networks([(synthetic.ranges, inside)], CONNECTION, otherwise)


def by_synthetic_address(
    synthetic: Synthetic | None,
    leaf: Callable[[Action, str], MatcherOnMatch],
    deny: MatcherOnMatch,
    otherwise: MatcherOnMatch,
) -> MatcherOnMatch:
    """Decide, for connections that show no name, by the name that their address stands for; `leaf` gets the name."""
    if synthetic is None:
        return otherwise
    entries: list[tuple[Iterable[Network], MatcherOnMatch]] = [(synthetic.ranges, deny)]
    for host, clauses in synthetic.decisions.items():
        decided = build_clauses(clauses, CONNECTION, partial(_leaf_of, leaf, host))
        assert decided is not None, "the default decides what no rule does"
        entries.append((_hosts(synthetic.plain[host]), decided))
    return build_networks(entries, CONNECTION, otherwise)


def _leaf_of(leaf: Callable[[Action, str], MatcherOnMatch], host: str, action: Action) -> MatcherOnMatch:
    return leaf(action, host)


def build_synthetic_routes(plan: Plan, policy: Policy) -> RouteConfiguration:
    """Build the routes of plain HTTP, by Host alone; `plan` decides it elsewhere."""
    plan = without_direct(plan)
    refusal = build_leaf([build_refusal()])
    ends = RouteBuilder(policy, CAPTURED)
    named = build_steps(Decision(plan, steps_of(plan, None), plan.default, Claim.NAME, ends))
    hosts = build_hosts(plan, policy)
    hosts.append(VirtualHost(domains=["*"], matcher=build_claims(refusal, refusal, named).matcher))
    return build_configuration(names.HTTP_SYNTHETIC_CHAIN, hosts)


def _hosts(addresses: Iterable[Address]) -> list[Network]:
    ordered = sorted(addresses, key=lambda address: (address.version, int(address)))
    return [ip_network(address) for address in ordered]


def _escape(host: str) -> str:
    """Take a name literally where Envoy expands formats."""
    return host.replace("%", "%%")
