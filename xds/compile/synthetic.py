"""
Which names have addresses that stand for them, and which addresses those are.

An address follows from the name and the range alone: it is the same on every replica and after every restart, and
neither moves nor is used again when other names come and go. A name in `to.tcp` has one of its own, since connections
to it may show no name. Names whose clients show them (TLS, plain HTTP) share the first thousand of the range; nothing
is decided by which of them: a hash of thousands of names without any two on one address would need a range larger than
anybody has. They are still spread, because clients of HTTP/2 take names on one address for one server.

A name is answered only if no connection to it would go direct: what does must be resolved for real (N14). So names
that do go direct and lie below an answered wildcard are holes in it.

This module must not know Envoy. Invariant: no name shares the address of one in `to.tcp`.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING

from xds.compile.decisions import (
    AddressSegment,
    Clause,
    Clauses,
    NameSegment,
    Plan,
    PortSegment,
    first_match,
    lineage,
)
from xds.compile.hosts import is_address
from xds.diagnostics import Diagnostic
from xds.policy.model import Deny, Direct, DnsMode, DomainPattern, Network, Policy, Rule

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from xds.facts import Address

_DIGEST_BYTES = 16
_SHARED = 1000
"""How many addresses of a range are for names that clients show; of a small range, half."""


@dataclass(frozen=True)
class Synthetic:
    """The addresses of one policy's names."""

    ranges: tuple[Network, ...]
    shown: Mapping[str, tuple[Address, ...]]
    """By node of the name trie (`x.example`, `*.x.example`): names that clients show when they connect."""
    plain: Mapping[str, tuple[Address, ...]]
    """By name: those of `to.tcp`."""
    decisions: Mapping[str, Clauses]
    """By name of `plain`: what becomes, by port, of connections that show no name."""
    holes: tuple[str, ...]
    """Nodes below answered wildcards that are resolved for real."""
    findings: tuple[Diagnostic, ...] = field(default=())

    @cached_property
    def answers(self) -> Mapping[str, tuple[Address, ...]]:
        """Every node with its addresses, sorted."""
        return dict(sorted({**self.shown, **self.plain}.items()))


def build_synthetic(policy: Policy, rules: Sequence[Rule], plan: Plan, http_plan: Plan) -> Synthetic | None:
    """
    Give the names of `policy` their addresses; None if it leaves name servers alone.

    Args:
        policy: for the ranges, and for the proxies, whose names are resolved for real.
        rules: all of them, built-in ones first.
        plan: decides TLS and other TCP.
        http_plan: decides plain HTTP.

    """
    if policy.dns_mode is DnsMode.OFF:
        return None
    ranges = _chosen(policy.synthetic_ranges)
    listed, proxies = _plain_names(policy), _proxy_names(policy)
    direct = {node for node in plan.name_nodes if goes_direct(plan, node) or goes_direct(http_plan, node)}
    # What the default sends direct on other ports does not keep a name in `to.tcp` from its address.
    plain = [name for name in listed if name not in proxies and not _is_wholly_direct(plan, name)]
    nodes = [node for node in plan.name_nodes if node not in direct and node not in proxies and node not in plain]
    shown = [node for node in nodes if not _is_too_short(node)]
    answered = {*shown, *plain}
    asked = {*plan.name_nodes, *proxies} - answered
    return Synthetic(
        ranges=policy.synthetic_ranges,
        shown={node: _addresses(node, ranges, is_plain=False) for node in shown},
        plain={name: _addresses(name, ranges, is_plain=True) for name in plain},
        decisions={name: _without_direct(decided(plan, name)) for name in plain},
        holes=tuple(sorted(node for node in asked if answered.intersection(lineage(node)[1:]))),
        findings=(
            *_find_unanswered(rules, [node for node in nodes if _is_too_short(node)]),
            *_find_partly_direct(rules, [name for name in listed if name not in proxies], (plan, http_plan)),
            *_find_proxies(rules, [name for name in listed if name in proxies]),
        ),
    )


def check_synthetic(synthetic: Synthetic, policy: Policy, rules: Iterable[Rule]) -> Iterable[Diagnostic]:
    """Say what keeps the names from having their addresses; `rules` are the built-in ones."""
    yield from _check_collisions(synthetic, policy)
    for rule in rules:
        for destination in rule.destinations:
            for network in policy.synthetic_ranges:
                if _covers(network, destination.host):
                    message = f"dns.syntheticRange {network} covers {destination.host} ({rule.name})"
                    yield Diagnostic("EX503", policy.where, message, "choose another range")
    yield from synthetic.findings


def _covers(network: Network, host: DomainPattern | Network | None) -> bool:
    if host is None or isinstance(host, DomainPattern):
        return False
    is_inside = host.version == network.version and host.network_address in network
    return is_inside and host.prefixlen >= network.prefixlen


def _check_collisions(synthetic: Synthetic, policy: Policy) -> Iterable[Diagnostic]:
    names: dict[Address, list[str]] = defaultdict(list)
    for name, addresses in synthetic.plain.items():
        for address in addresses:
            names[address].append(name)
    for address, sharing in sorted(names.items(), key=lambda item: (item[0].version, int(item[0]))):
        for one, other in combinations(sharing, 2):
            (network,) = (item for item in policy.synthetic_ranges if address in item)
            rule = _rule_of(policy.rules, DomainPattern(other, subdomains=False))
            message = f"{one} and {other} both come to {address}"
            yield Diagnostic("EX504", rule.where, message, f"take a larger dns.syntheticRange than {network}")


def decided(plan: Plan, node: str) -> Clauses:
    """Return what becomes, by port, of connections to names whose most specific node is `node`, at no real address."""
    return first_match([*_ruled(plan, node), Clause((), plan.default)])


def goes_direct(plan: Plan, node: str) -> bool:
    """Whether any connection to the names of `node` would be dialled as they resolve."""
    return any(clause.action == Direct() for clause in decided(plan, node))


def _ruled(plan: Plan, node: str) -> list[Clause]:
    """Return what rules say of `node`, leaving out the default."""
    found: list[Clause] = []
    for segment in plan.segments:
        match segment:
            case NameSegment():
                found += segment.clauses_of(node)
            case PortSegment(clauses):
                found += clauses
            case AddressSegment():
                pass
    return found


def _is_wholly_direct(plan: Plan, name: str) -> bool:
    return all(clause.action == Direct() for clause in decided(plan, name))


def _without_direct(clauses: Clauses) -> Clauses:
    """Refuse what would be dialled: nothing is at a synthetic address (N14), which verifies no name either (N20)."""
    left = (item for item in clauses if not item.within)
    return first_match(replace(item, action=Deny()) if item.action == Direct() else item for item in left)


def without_direct(plan: Plan) -> Plan:
    """Return what decides connections to synthetic addresses: no network matches there, and nothing is dialled."""
    segments = [
        _names_without_direct(segment)
        if isinstance(segment, NameSegment)
        else PortSegment(_without_direct(segment.clauses))
        for segment in plan.segments
        if not isinstance(segment, AddressSegment)
    ]
    return Plan(tuple(segments), Deny() if plan.default == Direct() else plan.default)


def _names_without_direct(segment: NameSegment) -> NameSegment:
    refused = {
        node: tuple((rank, left) for rank, clause in entries for left in _without_direct((clause,)))
        for node, entries in segment.entries.items()
    }
    return NameSegment({node: entries for node, entries in refused.items() if entries})


def _chosen(ranges: tuple[Network, ...]) -> list[Network]:
    """Return the largest range of each family, and of equal ones the lowest."""
    chosen = []
    for version in (4, 6):
        family = [network for network in ranges if network.version == version]
        if family:
            chosen.append(min(family, key=lambda network: (network.prefixlen, int(network.network_address))))
    return chosen


def _addresses(node: str, ranges: Iterable[Network], *, is_plain: bool) -> tuple[Address, ...]:
    return tuple(_address(node, network, is_plain=is_plain) for network in ranges)


def _address(node: str, network: Network, *, is_plain: bool) -> Address:
    """Hash a node into its part of `network`; the first and the last address are nobody's."""
    usable = network.num_addresses - 2
    shared = min(usable // 2, _SHARED)
    digest = int.from_bytes(hashlib.sha256(node.encode()).digest()[:_DIGEST_BYTES], "big")
    return network.network_address + 1 + (shared + digest % (usable - shared) if is_plain else digest % shared)


def _plain_names(policy: Policy) -> list[str]:
    found = {
        item.host.name
        for rule in policy.rules
        for item in rule.destinations
        if item.plain_tcp and isinstance(item.host, DomainPattern)
    }
    return sorted(found)


def _proxy_names(policy: Policy) -> set[str]:
    """Return what an application that uses its proxy variables must find for real (N15)."""
    hosts = {endpoint.host for proxy in policy.proxies for endpoint in proxy.endpoints}
    return {host.rstrip(".").lower() for host in hosts if not is_address(host)}


def _is_too_short(node: str) -> bool:
    """Whether Envoy's DNS filter never matches a wildcard: it wants two labels behind the star."""
    return node.startswith("*.") and node.count(".") == 1


def _find_unanswered(rules: Sequence[Rule], nodes: list[str]) -> Iterable[Diagnostic]:
    for node in nodes:
        rule = _rule_of(rules, DomainPattern(node.removeprefix("*."), apex=False))
        message = f"names below {node.removeprefix('*.')!r} are not answered, but resolved by the pod's name servers"
        yield Diagnostic("EX505", rule.where, message, "write wildcards below two labels, or the names")


def _find_proxies(rules: Sequence[Rule], names: Iterable[str]) -> Iterable[Diagnostic]:
    for name in names:
        rule = _rule_of(rules, DomainPattern(name, subdomains=False))
        message = f"{name!r} is a proxy, which is resolved for real, so that TCP to it is not recognised by name"
        yield Diagnostic("EX506", rule.where, message, "take the name out of `to.tcp`")


def _find_partly_direct(rules: Sequence[Rule], names: Iterable[str], plans: Sequence[Plan]) -> Iterable[Diagnostic]:
    for name in names:
        before = [clause for plan in plans for clause in first_match(_ruled(plan, name))]
        # One that goes direct to some networks only matches no synthetic address, and leaves the name to other rules.
        if any(clause == Clause(clause.ports, Direct()) for clause in before):
            rule = _rule_of(rules, DomainPattern(name, subdomains=False))
            message = f"an earlier rule sends {name!r} direct; its connections there are refused"
            yield Diagnostic("EX506", rule.where, message, "put this rule first, or leave out what goes direct")


def _rule_of(rules: Sequence[Rule], pattern: DomainPattern) -> Rule:
    """Return the first rule that speaks of `pattern`."""
    return next(
        rule
        for rule in rules
        for item in rule.destinations
        if isinstance(item.host, DomainPattern)
        and item.host.name == pattern.name
        and (item.plain_tcp or not pattern.apex)
        and (item.host.apex >= pattern.apex and item.host.subdomains >= pattern.subdomains)
    )
