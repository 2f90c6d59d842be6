"""
What decides for applications that know of a proxy, as look-ups: the plans of the explicit listener.

This module knows rules, names and addresses; it must not know Envoy. Invariant: nothing that the listener is asked for
leads back to itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv6Network
from typing import TYPE_CHECKING

from xds.compile.decisions import Plan, build_plan, unknown_action
from xds.compile.hosts import is_address
from xds.diagnostics import Where
from xds.policy.model import Deny, Destination, Direct, DnsMode, DomainPattern, Rule

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from xds.policy.model import Network, Policy

_MAPPED = IPv6Network("::ffff:0:0/96")
"""IPv4 as IPv6 writes it (RFC 4291, section 2.5.5.2): no rule for the IPv4 network would match it (N7)."""


@dataclass(frozen=True, slots=True)
class ExplicitPlans:
    """What decides CONNECT, and what decides plain HTTP."""

    connect: Plan
    http: Plan

    def for_names(self) -> ExplicitPlans:
        """Return what is left for requests that name a host, whose address nobody knows."""
        return ExplicitPlans(self.connect.without_addresses(), self.http.without_addresses())

    def for_addresses(self, policy: Policy) -> ExplicitPlans:
        """Return what is left for requests that name no host (N18)."""
        return ExplicitPlans(
            *(plan.without_names(unknown_action(policy, plan.default)) for plan in (self.connect, self.http))
        )


def build_explicit_plans(rules: Sequence[Rule], policy: Policy) -> ExplicitPlans:
    """Put the loop guard before `rules`."""
    is_captured = policy.dns_mode is DnsMode.CAPTURE
    refused = [_MAPPED, *(policy.synthetic_ranges if is_captured else ())]
    guarded = [*_guards(policy), _refuse_networks(refused), *rules]
    shields = () if is_captured else policy.synthetic_ranges
    return ExplicitPlans(
        build_plan(guarded, lambda rule: rule.action, policy.default.action, shields),
        build_plan(guarded, lambda rule: rule.http_action, policy.default.http_action, shields),
    )


def _guards(policy: Policy) -> list[Rule]:
    """
    Build the rules against going round in circles.

    A name that leads to this host can't be told from others, so that nothing is reached at the listener's own port.
    """
    assert policy.explicit_port is not None
    own = Rule(
        name="built-in: this listener",
        destinations=(Destination(None, (policy.explicit_port,)),),
        action=Deny(),
        http_action=Deny(),
        where=Where("built-in"),
    )
    proxies = {
        (endpoint.host, endpoint.port)
        for proxy in policy.proxies
        for endpoint in proxy.endpoints
        if not is_address(endpoint.host)
    }
    if not proxies:
        return [own]
    by_name = tuple(
        Destination(DomainPattern(host.rstrip("."), subdomains=False), (port,)) for host, port in sorted(proxies)
    )
    direct = replace(
        own, name="built-in: the proxy itself", destinations=by_name, action=Direct(), http_action=Direct()
    )
    return [own, direct]


def _refuse_networks(networks: Iterable[Network]) -> Rule:
    """Refuse addresses that stand for names: whoever asks for one knew the name. And other spellings of IPv4."""
    ranges = tuple(Destination(network) for network in networks)
    where = Where("built-in")
    return Rule(name="built-in: no such address", destinations=ranges, action=Deny(), http_action=Deny(), where=where)
