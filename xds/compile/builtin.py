"""
The rules that every policy starts with: what is always reached directly (N12, N15).

Loopback, link-local, names and addresses inside the cluster, the addresses that the edges found out, and the corporate
proxy itself: a connection to it is an application that still uses HTTP(S)_PROXY, or our own tunnel going round in a
circle, and is passed through raw. All but the last two can be switched off by the policy. Names inside the cluster are
believed in the cluster's ranges only, if those are known (N20).
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from xds.compile.hosts import is_address
from xds.diagnostics import Where
from xds.policy.coverage import LINK_LOCAL, LOOPBACK
from xds.policy.model import Destination, Direct, DomainPattern, Endpoint, Policy, Rule

if TYPE_CHECKING:
    from collections.abc import Collection

    from xds.facts import Address, DirectEndpoint, Facts

_CLUSTER_LOCAL = ("svc", "cluster.local")


def builtin_rules(policy: Policy, facts: Facts) -> tuple[Rule, ...]:
    """Return the built-in rules of `policy`, which come before its own."""
    chosen = policy.always_direct
    networks = LOOPBACK * chosen.loopback + LINK_LOCAL * chosen.link_local
    inside = "built-in: names inside the cluster"
    parts = {
        "built-in: the proxy itself": _proxies(policy, facts),
        "built-in: this host and its links": tuple(Destination(network) for network in networks),
        inside: tuple(Destination(DomainPattern(name, apex=False)) for name in _CLUSTER_LOCAL if chosen.cluster_local),
        **_found((*facts.always_direct, *(facts.cluster_direct if chosen.cluster_networks else ()))),
    }
    return tuple(
        Rule(
            name=name,
            destinations=found,
            action=Direct(),
            http_action=Direct(),
            verify=facts.cluster_ranges if name == inside else (),
            where=Where("built-in"),
        )
        for name, found in parts.items()
        if found
    )


def _found(endpoints: Collection[DirectEndpoint]) -> dict[str, tuple[Destination, ...]]:
    reasons = sorted({endpoint.reason for endpoint in endpoints})
    return {
        f"built-in: {reason}": tuple(
            Destination(endpoint.network, endpoint.ports) for endpoint in endpoints if endpoint.reason == reason
        )
        for reason in reasons
    }


def _proxies(policy: Policy, facts: Facts) -> tuple[Destination, ...]:
    reached = {
        (address, endpoint.port)
        for proxy in policy.proxies
        for endpoint in proxy.endpoints
        for address in _addresses(endpoint, facts)
    }
    ordered = sorted(reached, key=lambda item: (item[0].version, int(item[0]), item[1]))
    return tuple(Destination(ip_network(address), (port,)) for address, port in ordered)


def _addresses(endpoint: Endpoint, facts: Facts) -> tuple[Address, ...]:
    if is_address(endpoint.host):
        return (ip_address(endpoint.host),)
    return tuple(facts.addresses.get(endpoint.host, ()))
