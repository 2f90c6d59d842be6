"""
What earlier rules of a policy leave to a later one: which of its destinations can still decide anything (N5).

Exact where it says that a destination is covered: then no connection whatever is decided by it. Not every covered one
is found: names are told to be covered by names alone, and every port of a host by one rule alone, though all addresses
together, or all ports one by one, would do as well. Nothing here reports. Efficient for tens of thousands of entries:
each costs about as many look-ups as its name has labels, or as there are lengths of networks.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from ipaddress import ip_network
from typing import TYPE_CHECKING

from xds.policy.model import Destination, Direct, DomainPattern, Network, Policy, Rule

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
LINK_LOCAL = tuple(map(ip_network, ("169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128")))
"""Link-local covers the metadata service of the clouds at 169.254.169.254; AWS has it on fd00:ec2::254 too."""

SYNTHETIC, BUILT_IN = -2, -1
"""In the place of a rule's number: the address stands for a name (N10), or a built-in bypass came first (N12)."""

_MOST_DECIDERS = 8
"""Rules that together cover one network and are told; nobody wants to read of more."""

Deciders = tuple[int, ...]
"""Numbers of earlier rules in the policy, sorted; or one of the words above."""


@dataclass(frozen=True, slots=True)
class Covered:
    """A destination of a rule that no connection gets to, and the rules before that decide instead."""

    destination: Destination
    by: Deciders


def find_covered(policy: Policy) -> Iterator[tuple[Rule, tuple[Covered, ...]]]:
    """Yield each rule with those of its destinations that earlier rules, or built-in ones, cover."""
    earlier = _Earlier(policy)
    for number, rule in enumerate(policy.rules):
        found = ((item, earlier.deciders(rule, item)) for item in rule.destinations)
        yield rule, tuple(Covered(item, by) for item, by in found if by is not None)
        if number + 1 < len(policy.rules):
            earlier.add(number, rule)


class _Ports:
    """Who decides on which port of one host. There may be as many as a document has entries."""

    __slots__ = ("every", "some")

    def __init__(self) -> None:
        self.every: Deciders | None = None
        self.some: dict[int, Deciders] | None = None

    @property
    def is_empty(self) -> bool:
        return self.every is None and self.some is None

    def on(self, port: int) -> Deciders | None:
        return self.every if self.some is None else self.some.get(port, self.every)

    def add(self, port: int | None, by: Deciders) -> bool:
        """Let `by` decide where nobody did before; return whether that was so."""
        if self.every is not None or (self.some is not None and port in self.some):
            return False
        if port is None:
            self.every = by
        elif self.some is None:
            self.some = {port: by}
        else:
            self.some[port] = by
        return True

    def add_all(self, ports: Iterable[int], by: Deciders) -> None:
        for port in tuple(ports) or (None,):
            self.add(port, by)


class _Names:
    """Names that were decided: each itself, and all below each."""

    def __init__(self) -> None:
        self._apexes: dict[str, _Ports] = defaultdict(_Ports)
        self._below: dict[str, _Ports] = defaultdict(_Ports)

    def add(self, pattern: DomainPattern, ports: Iterable[int], by: Deciders) -> None:
        if pattern.apex:
            self._apexes[pattern.name].add_all(ports, by)
        if pattern.subdomains:
            self._below[pattern.name].add_all(ports, by)

    def of_apex(self, name: str) -> list[_Ports]:
        """Return what was decided for the name itself."""
        own = self._apexes.get(name)
        _, _, parent = name.partition(".")
        above = self.of_below(parent) if parent else []
        return above if own is None else [own, *above]

    def of_below(self, name: str) -> list[_Ports]:
        """Return what was decided for every name below `name`."""
        found = []
        while name:
            known = self._below.get(name)
            if known is not None:
                found.append(known)
            _, _, name = name.partition(".")
        return found


class _Networks:
    """Networks that were decided. Two halves that were make a whole."""

    def __init__(self) -> None:
        self._nodes: dict[tuple[int, int, int], _Ports] = {}
        self._lengths: dict[int, set[int]] = {4: set(), 6: set()}

    def add(self, network: Network, ports: Iterable[int], by: Deciders) -> None:
        for port in tuple(ports) or (None,):
            self._add(network, port, by)

    def of(self, network: Network) -> list[_Ports]:
        """Return what was decided for every address of `network`."""
        version, bits, address = network.version, network.max_prefixlen, int(network.network_address)
        return [
            known
            for length in self._lengths[version]
            if length <= network.prefixlen
            and (known := self._nodes.get((version, length, address >> (bits - length)))) is not None
        ]

    def _add(self, network: Network, port: int | None, by: Deciders) -> None:
        version, length = network.version, network.prefixlen
        prefix = int(network.network_address) >> (network.max_prefixlen - length)
        waiting = [(length, prefix, port, by)]
        while waiting:
            length, prefix, port, by = waiting.pop()
            if (version, length, prefix) not in self._nodes:
                self._nodes[version, length, prefix] = _Ports()
                self._lengths[version].add(length)
            if not self._nodes[version, length, prefix].add(port, by) or not length:
                continue
            sibling = self._nodes.get((version, length, prefix ^ 1))
            for shared, other in () if sibling is None else _shared(sibling, port):
                waiting.append((length - 1, prefix >> 1, shared, _join(by, other)))


def _shared(sibling: _Ports, port: int | None) -> Iterator[tuple[int | None, Deciders]]:
    """Yield the ports that both halves of a network are decided on, now that one of them is on `port`."""
    if port is not None:
        other = sibling.on(port)
        if other is not None:
            yield port, other
        return
    yield from (sibling.some or {}).items()
    if sibling.every is not None:
        yield None, sibling.every


def _join(*deciders: Deciders) -> Deciders:
    return tuple(sorted({one for group in deciders for one in group}))[:_MOST_DECIDERS]


class _Earlier:
    """All that the rules so far decide."""

    def __init__(self, policy: Policy) -> None:
        self._any = _Ports()
        # A bypass by name decides in its networks only (N20), so that it covers only what is confined to the same.
        self._names: dict[object, _Names] = defaultdict(_Names)
        self._networks = _Networks()
        for network in policy.synthetic_ranges:
            self._networks.add(network, (), (SYNTHETIC,))
        chosen = policy.always_direct
        for network in (*LOOPBACK * chosen.loopback, *LINK_LOCAL * chosen.link_local):
            self._networks.add(network, (), (BUILT_IN,))
        # What stands for a name by its address is never without use: it gives the name one.
        self._named: dict[str, _Ports] = defaultdict(_Ports)

    def add(self, number: int, rule: Rule) -> None:
        by = (number,)
        for item in rule.destinations:
            match item.host:
                case None:
                    self._any.add_all(item.ports, by)
                case DomainPattern() as pattern:
                    self._names[_confines(rule)].add(pattern, item.ports, by)
                    if item.plain_tcp:
                        self._named[pattern.name].add_all(item.ports, by)
                case network:
                    self._networks.add(network, item.ports, by)

    def deciders(self, rule: Rule, item: Destination) -> Deciders | None:
        """Return who decides all that `item` matches; None: nobody does, of some of it."""
        match item.host:
            case None:
                return _decide([self._any], item.ports)
            case DomainPattern(name) if item.plain_tcp:
                return _decide([self._named[name]], item.ports) if name in self._named else None
            case DomainPattern() as pattern:
                return self._deciders_of_name(rule, pattern, item.ports)
            case network:
                return _decide([self._any, *self._networks.of(network)], item.ports)

    def _deciders_of_name(self, rule: Rule, pattern: DomainPattern, ports: tuple[int, ...]) -> Deciders | None:
        tables = [self._names[key] for key in {None, _confines(rule)} if key in self._names]
        if not tables and self._any.is_empty:
            return None
        halves: list[Deciders] = []
        for is_wanted, is_apex in ((pattern.apex, True), (pattern.subdomains, False)):
            if not is_wanted:
                continue
            known = [
                found
                for table in tables
                for found in (table.of_apex(pattern.name) if is_apex else table.of_below(pattern.name))
            ]
            by = _decide([self._any, *known], ports)
            if by is None:
                return None
            halves.append(by)
        return _join(*halves)


def _confines(rule: Rule) -> object:
    """Return what must be equal for two rules to believe names at the same addresses; None: this one believes all."""
    if not rule.verify:
        return None
    return rule.verify, rule.action == Direct(), rule.http_action == Direct()


def _decide(known: list[_Ports], ports: tuple[int, ...]) -> Deciders | None:
    """Return who, of those who decide on some ports, decides on all of `ports`, the earliest for each."""
    found: list[Deciders] = []
    for port in ports or (None,):
        candidates = [entry.every if port is None else entry.on(port) for entry in known]
        by = min((one for one in candidates if one is not None), default=None, key=lambda one: one[-1])
        if by is None:
            return None
        found.append(by)
    return _join(*found)
