"""
What of a policy decides a request to the listener for applications that know of a proxy, read as `cause` does.

A name is not resolved before it is decided on: rules for networks don't see it, and what goes directly is believed.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING

from xds.explain.cause import BUILT_IN, Cause, Reading, Verdict
from xds.explain.claims import Shown, read_claim
from xds.explain.connection import Connection, Protocol
from xds.explain.explicit import CONNECT
from xds.facts import Facts, merge_networks
from xds.policy.model import Direct, DnsMode, DomainPattern

if TYPE_CHECKING:
    from collections.abc import Collection

    from xds.explain.connection import Address
    from xds.policy.model import Network, Policy

_NOWHERE = ip_network("0.0.0.0/32").network_address
"""In place of the address of a name, which nobody knows yet."""
_MAPPED = IPv6Network("::ffff:0:0/96")


def find_explicit(policy: Policy, facts: Facts, method: str, host: str, port: int) -> Cause:
    """Return the cause; `host` is as in the request, an IPv6 address in brackets."""
    asked = Connection(_NOWHERE, port, Protocol.HTTP_11, f"{host}:{port}")
    claim = read_claim(asked)
    if not host or claim.shown is Shown.ODD:
        return _built_in("plain names only", "what is asked for is neither a name nor an address")
    if port == policy.explicit_port:
        return _built_in("this listener", f"port {port} is this listener's own")
    believing = _believing(policy)
    if claim.shown is Shown.NAME:
        if (claim.name, port) in _proxies(policy):
            return _built_in("the proxy itself", f"{claim.name}:{port} is a proxy", Verdict.DIRECT)
        seen = replace(asked, protocol=Protocol.TLS, name=host) if method == CONNECT else asked
        return Reading(_for_names(believing, facts, is_http=method != CONNECT), Facts()).find(seen)[0]
    address = ip_address(host.strip("[]"))
    if address in _MAPPED or (policy.dns_mode is DnsMode.CAPTURE and _is_synthetic(policy, address)):
        return _built_in("no such address", "the address stands for a name, or is another spelling of an IPv4 address")
    seen = replace(asked, address=address)
    if method == CONNECT:
        seen = replace(seen, protocol=Protocol.OTHER, name="")
    return Reading(believing, facts).find(seen)[0]


def _built_in(rule: str, reason: str, verdict: Verdict = Verdict.REFUSED) -> Cause:
    return Cause(rule=f"built-in: {rule}", where=BUILT_IN, verdict=verdict, reason=reason)


def _believing(policy: Policy) -> Policy:
    """Return what counts here of a policy: nobody waits for first bytes, and names have no synthetic addresses."""
    ranges = () if policy.dns_mode is DnsMode.CAPTURE else policy.synthetic_ranges
    return replace(policy, server_first_ports=(), dns_mode=DnsMode.OFF, synthetic_ranges=ranges)


def _for_names(policy: Policy, facts: Facts, *, is_http: bool) -> Policy:
    """
    Return what counts of a policy for names, whose addresses nobody knows yet: they are believed.

    Only those that are said to be at synthetic addresses are not, for nothing is there (N10).
    """
    rules = []
    for rule in policy.rules:
        action = rule.http_action if is_http else rule.action
        is_nowhere = action == Direct() and _are_synthetic(policy, rule.verify)
        kinds = (IPv4Network, IPv6Network, *([DomainPattern] if is_nowhere else []))
        left = tuple(item for item in rule.destinations if not isinstance(item.host, kinds))
        rules.append(replace(rule, verify=(), destinations=left))
    inside = policy.always_direct.cluster_local and not _are_synthetic(policy, facts.cluster_ranges)
    return replace(
        policy,
        rules=tuple(rules),
        always_direct=replace(policy.always_direct, cluster_local=inside),
        synthetic_ranges=(),
    )


def _are_synthetic(policy: Policy, networks: Collection[Network]) -> bool:
    """Whether there are networks, and all lie in ranges that stand for names."""
    ranges = merge_networks(policy.synthetic_ranges)
    return bool(networks) and all(any(_is_within(network, item) for item in ranges) for network in networks)


def _is_within(network: Network, outer: Network) -> bool:
    return (
        network.version == outer.version and network.prefixlen >= outer.prefixlen and network.network_address in outer
    )


def _proxies(policy: Policy) -> set[tuple[str, int]]:
    return {(item.host.rstrip(".").lower(), item.port) for proxy in policy.proxies for item in proxy.endpoints}


def _is_synthetic(policy: Policy, address: Address) -> bool:
    return any(address in network for network in policy.synthetic_ranges)
