"""
From an ordered list of rules to a short list of look-ups that decide the same.

First match wins (N5), but a list of thousands of entries must become tries (N22). So the rules are cut
into *segments*: each looks at one thing only (the name, the address, or the port) and needs one look-up;
a connection that a segment does not decide goes on to the next. Neighbouring rules with the same action
commute, which keeps the number of segments near the number of times that a policy really changes its mind.
What decided matters to a tunnel: a name is asked for by name, an address by address.
Inside a segment every node already holds, in the order of the policy, the clauses of all nodes above it, so
the most specific node alone decides.

This module knows rules, names and addresses; it must not know Envoy. Invariant: for every connection the
segments decide what the ordered list of rules decides (the property tests compare the two).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network
from itertools import groupby
from typing import TYPE_CHECKING, assert_never

from xds.policy.model import (
    Action,
    Deny,
    Destination,
    Direct,
    DomainPattern,
    Network,
    Policy,
    Rule,
    Tunnel,
    UnknownName,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Clause:
    """What happens on these ports, at addresses within these networks; none: on every port, at every address."""

    ports: tuple[int, ...]
    action: Action
    within: tuple[Network, ...] = ()

    @property
    def is_certain(self) -> bool:
        """Whether nothing more needs to be looked at."""
        return not self.ports and not self.within


Clauses = tuple[Clause, ...]
"""In the order of the policy; nothing follows a clause that is certain."""


class Aspect(Enum):
    """What a segment looks at. Addresses come before names where the order is free: they need no inspection."""

    ADDRESS = "address"
    NAME = "name"
    PORT = "port"


@dataclass(frozen=True)
class NameSegment:
    """
    Clauses by node of the name trie, in Envoy's spelling: `x.example` or `*.x.example`.

    `entries` holds what the policy says of the node itself, with the clause's rank in the policy.
    """

    entries: Mapping[str, tuple[tuple[int, Clause], ...]]

    def clauses_of(self, node: str) -> Clauses:
        """Return what decides for names whose most specific node (of any segment) is `node`."""
        ranked = [entry for ancestor in lineage(node) for entry in self.entries.get(ancestor, ())]
        return first_match(clause for _, clause in sorted(ranked, key=lambda entry: entry[0]))

    def believing(self) -> NameSegment:
        """Return what decides where names need no address to be believed."""
        return NameSegment(
            {
                node: tuple((rank, replace(clause, within=())) for rank, clause in ranked)
                for node, ranked in self.entries.items()
            }
        )


@dataclass(frozen=True)
class AddressSegment:
    """
    Clauses by network, decided by the longest prefix alone.

    `shields` are the synthetic ranges: addresses in them stand for names, so no network ever matches
    them (N10), and a network inside one is left out.
    """

    entries: Mapping[Network, tuple[tuple[int, Clause], ...]]
    shields: tuple[Network, ...] = ()

    @cached_property
    def nodes(self) -> Mapping[Network, Clauses]:
        """Every network with the clauses that decide there, sorted; an empty tuple means "not decided here"."""
        nodes: dict[Network, Clauses] = {}
        for network, ranked in _with_ancestors(self.entries):
            if not any(_contains(shield, network) for shield in self.shields):
                nodes[network] = first_match(clause for _, clause in sorted(ranked, key=lambda entry: entry[0]))
        if nodes:
            nodes.update((shield, ()) for shield in _sorted(self.shields))
        return nodes


@dataclass(frozen=True)
class PortSegment:
    """Clauses for any host, named or not."""

    clauses: Clauses


Segment = NameSegment | AddressSegment | PortSegment


@dataclass(frozen=True)
class Plan:
    """All segments of one protocol's traffic and what happens to what they leave undecided."""

    segments: tuple[Segment, ...]
    default: Action

    @cached_property
    def name_nodes(self) -> tuple[str, ...]:
        """Every node that some name segment knows, sorted."""
        segments = (segment for segment in self.segments if isinstance(segment, NameSegment))
        return tuple(sorted({node for segment in segments for node in segment.entries}))

    def split_leading(self) -> tuple[Plan, Plan]:
        """Cut before the first name segment: what needs no name, and the rest."""
        names = (index for index, segment in enumerate(self.segments) if isinstance(segment, NameSegment))
        cut = next(names, len(self.segments))
        return Plan(self.segments[:cut], self.default), Plan(self.segments[cut:], self.default)

    def without_names(self, default: Action) -> Plan:
        """Return what is left for connections that name no host."""
        return Plan(tuple(item for item in self.segments if not isinstance(item, NameSegment)), default)

    def without_addresses(self) -> Plan:
        """Return what is left for those whose address is not known, since their name is resolved by Envoy itself."""
        return Plan(
            tuple(
                item.believing() if isinstance(item, NameSegment) else item
                for item in self.segments
                if not isinstance(item, AddressSegment)
            ),
            self.default,
        )


@dataclass
class _Builder:
    """Collects one segment while neighbouring rules still fit into it."""

    aspect: Aspect
    names: dict[str, list[tuple[int, Clause]]] = field(default_factory=lambda: defaultdict(list))
    networks: dict[Network, list[tuple[int, Clause]]] = field(default_factory=lambda: defaultdict(list))
    ports: list[Clause] = field(default_factory=list)

    def add(self, rank: int, destination: Destination, clause: Clause) -> None:
        match destination.host:
            case None:
                self.ports.append(clause)
            case DomainPattern() as pattern:
                for node in nodes_of(pattern):
                    self.names[node].append((rank, clause))
            case network:
                self.networks[network].append((rank, clause))

    def build(self, shields: tuple[Network, ...]) -> Segment:
        match self.aspect:
            case Aspect.NAME:
                return NameSegment({node: tuple(self.names[node]) for node in sorted(self.names)})
            case Aspect.ADDRESS:
                return AddressSegment({net: tuple(self.networks[net]) for net in _sorted(self.networks)}, shields)
            case Aspect.PORT:
                return PortSegment(first_match(self.ports))
            case other:
                assert_never(other)


def build_plan(
    rules: Sequence[Rule], action_of: Callable[[Rule], Action], default: Action, shields: tuple[Network, ...] = ()
) -> Plan:
    """
    Cut `rules` into segments.

    Args:
        rules: in the order of the policy, built-in ones first.
        action_of: which of a rule's actions counts for this protocol (N16).
        default: what happens when no rule matches.
        shields: synthetic ranges (N10).

    """
    builders: list[_Builder] = []
    for action, run in groupby(enumerate(rules), key=lambda ranked: action_of(ranked[1])):
        wanted = [(rank, *item) for rank, rule in run for item in _clauses_of(rule, action, shields)]
        for aspect in _free_order({aspect_of(item) for _, item, _ in wanted}, builders, action):
            if not builders or builders[-1].aspect is not aspect:
                builders.append(_Builder(aspect))
            for rank, destination, clause in wanted:
                if aspect_of(destination) is aspect:
                    builders[-1].add(rank, destination, clause)
    return Plan(tuple(builder.build(shields) for builder in builders), default)


def _clauses_of(rule: Rule, action: Action, shields: tuple[Network, ...]) -> Iterable[tuple[Destination, Clause]]:
    """
    Yield each destination of `rule` with what happens there.

    A tunnel asks the proxy for the name itself; only a bypass has to believe it (N20). A synthetic address proves
    nothing (N10), so that names that could be nowhere else never match.
    """
    is_bound = bool(rule.verify) and action == Direct()
    within = subtract(rule.verify, shields) if is_bound else ()
    for destination in rule.destinations:
        if not is_bound or aspect_of(destination) is not Aspect.NAME:
            yield destination, Clause(destination.ports, action)
        elif within:
            yield destination, Clause(destination.ports, action, within)


def _free_order(aspects: set[Aspect], builders: Sequence[_Builder], action: Action) -> list[Aspect]:
    """
    Order the aspects of one run: first the one that the last segment already looks at.

    But a tunnel that a name decides is asked for by that name, and one that an address decides by the address, so
    where both would do, names come first.
    """
    last = builders[-1].aspect if builders else None

    def rank(aspect: Aspect) -> tuple[bool, bool, int]:
        is_second = aspect is Aspect.ADDRESS and isinstance(action, Tunnel)
        return is_second, aspect is not last, list(Aspect).index(aspect)

    return sorted(aspects, key=rank)


def aspect_of(destination: Destination) -> Aspect:
    """Say what must be looked at to match `destination`."""
    if destination.host is None:
        return Aspect.PORT
    return Aspect.NAME if isinstance(destination.host, DomainPattern) else Aspect.ADDRESS


def nodes_of(pattern: DomainPattern) -> tuple[str, ...]:
    """Spell a pattern as trie nodes (N4: the apex needs its own entry)."""
    apex = (pattern.name,) if pattern.apex else ()
    below = (f"*.{pattern.name}",) if pattern.subdomains else ()
    return apex + below


def lineage(node: str) -> tuple[str, ...]:
    """Return `node` and every wildcard node that covers it, most specific first."""
    suffix = node.removeprefix("*.")
    labels = suffix.split(".")
    own = len(labels) if node != suffix else len(labels) - 1
    wildcards = tuple(f"*.{'.'.join(labels[-count:])}" for count in range(own, 0, -1))
    return wildcards if node != suffix else (node, *wildcards)


def first_match(clauses: Iterable[Clause]) -> Clauses:
    """
    Drop what can never be reached, and write neighbours with one action as one clause.

    Unreachable are ports that were decided before, and all after a clause that is certain. Clauses in one form make
    nodes that decide the same share their place in the tree, whatever order their entries were written in.
    """
    kept: list[Clause] = []
    decided: set[int] = set()
    for (action, within), run in groupby(clauses, key=lambda clause: (clause.action, clause.within)):
        neighbours = list(run)
        if not all(clause.ports for clause in neighbours):
            kept.append(Clause((), action, within))
            if not within:
                break
            continue
        ports = {port for clause in neighbours for port in clause.ports} - decided
        if not within:
            decided |= ports
        if ports:
            kept.append(Clause(tuple(sorted(ports)), action, within))
    return tuple(kept)


def _sorted(networks: Iterable[Network]) -> list[Network]:
    return sorted(networks, key=lambda net: (net.version, int(net.network_address), net.prefixlen))


def subtract(networks: Iterable[Network], holes: Iterable[Network]) -> tuple[Network, ...]:
    """Return what is left of `networks` without `holes`, sorted."""
    left = list(networks)
    for hole in holes:
        left = [part for network in left for part in _cut(network, hole)]
    return tuple(_sorted(left))


def _cut(network: Network, hole: Network) -> Iterable[Network]:
    if _contains(hole, network):
        return ()
    if not _contains(network, hole):
        return (network,)
    if isinstance(network, IPv4Network):
        assert isinstance(hole, IPv4Network), "networks contain their own kind"
        return network.address_exclude(hole)
    assert isinstance(hole, IPv6Network), "networks contain their own kind"
    return network.address_exclude(hole)


def _contains(outer: Network, inner: Network) -> bool:
    return outer.version == inner.version and outer.prefixlen <= inner.prefixlen and inner.network_address in outer


def _with_ancestors(
    entries: Mapping[Network, tuple[tuple[int, Clause], ...]],
) -> Iterable[tuple[Network, list[tuple[int, Clause]]]]:
    """Yield each network with the entries of all networks around it; `_sorted` puts the wider ones first."""
    around: list[Network] = []
    for network in _sorted(entries):
        while around and not _contains(around[-1], network):
            around.pop()
        around.append(network)
        yield network, [entry for outer in around for entry in entries[outer]]


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
