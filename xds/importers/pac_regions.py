"""
Sets of connections, and ordered lists of what becomes of them: what a PAC file is compiled through.

A `Region` is what one line of a rule can match: a pattern of names, a network, ports, or what they have in common.
`Rows` are tried in order, the first that matches decides, and the last one matches everything. Nothing here knows
JavaScript or documents. Invariants: rows are total; and where it is not known which of two lists holds, a connection
is direct only if both say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from itertools import product
from typing import TYPE_CHECKING, TypeVar

from xds.errors import SourceError
from xds.policy.model import DomainPattern, Network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from xds.importers.pac_budget import Budget

_Prefix = tuple[int, int, int]
"""Version, length and the bits of a network."""

MOST_ROWS = 4000
"""More than any file needs, and few enough to compare each with all others."""


class Way(Enum):
    """The kinds of verdict."""

    DIRECT = "direct"
    DENY = "deny"
    TUNNEL = "tunnel"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a connection; `proxies` are the URLs of a tunnel's proxies, those to try first at the front."""

    way: Way
    proxies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Region:
    """The connections that show such a name, go to such an address and to such a port; None: any."""

    name: DomainPattern | None = None
    network: Network | None = None
    ports: frozenset[int] | None = None


EVERYTHING = Region()

V = TypeVar("V")
W = TypeVar("W")
X = TypeVar("X")

Rows = tuple[tuple[Region, V], ...]


def always(verdict: V) -> Rows[V]:
    """Return the list that says `verdict` of everything."""
    return ((EVERYTHING, verdict),)


def intersect(one: Region, other: Region) -> Region | None:
    """Return what both have in common; None: nothing."""
    if other is EVERYTHING or one is other:
        return one
    if one is EVERYTHING:
        return other
    ports = one.ports
    if other.ports is not None:
        ports = other.ports if ports is None else ports & other.ports
        if not ports:
            return None
    name, network = one.name, one.network
    if other.name is not None:
        name = other.name if name is None else _common_name(name, other.name)
        if name is None:
            return None
    if other.network is not None:
        network = other.network if network is None else _common_network(network, other.network)
        if network is None:
            return None
    return Region(name, network, ports)


def _common_name(one: DomainPattern, other: DomainPattern) -> DomainPattern | None:
    if one.name == other.name:
        apex, subdomains = one.apex and other.apex, one.subdomains and other.subdomains
        return DomainPattern(one.name, apex, subdomains) if apex or subdomains else None
    if one.name.endswith(f".{other.name}"):
        return one if other.subdomains else None
    if other.name.endswith(f".{one.name}"):
        return other if one.subdomains else None
    return None


def _common_network(one: Network, other: Network) -> Network | None:
    if one.version != other.version:
        return None
    longer, shorter = (one, other) if one.prefixlen >= other.prefixlen else (other, one)
    # Ten times as fast as `overlaps`.
    difference = int(longer.network_address) ^ int(shorter.network_address)
    return None if difference >> (shorter.max_prefixlen - shorter.prefixlen) else longer


def covers(one: Region, other: Region) -> bool:
    """Whether all of `other` is in `one`."""
    return one == EVERYTHING or intersect(one, other) == other


class _Kept:
    """Regions by their names and networks: few of them may cover another region, and people write thousands."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._found: dict[tuple[str | None, _Prefix | None], list[Region]] = {}
        self._lengths: dict[tuple[int, int], None] = {}
        """The versions and prefix lengths that are there."""

    def add(self, region: Region) -> None:
        network = region.network
        if network is not None:
            self._lengths[network.version, network.prefixlen] = None
        prefix = None if network is None else _cut(network, network.prefixlen)
        name = None if region.name is None else region.name.name
        self._found.setdefault((name, prefix), []).append(region)

    def has_all_of(self, region: Region) -> bool:
        """Whether one of them covers `region`."""
        for key in product(_suffixes(region.name), self._prefixes(region.network)):
            candidates = self._found.get(key, ())
            self._budget.spend(1 + len(candidates))
            if any(covers(earlier, region) for earlier in candidates):
                return True
        return False

    def _prefixes(self, network: Network | None) -> list[_Prefix | None]:
        found: list[_Prefix | None] = [None]
        if network is not None:
            found += [
                _cut(network, length)
                for version, length in self._lengths
                if version == network.version and length <= network.prefixlen
            ]
        return found


def _suffixes(pattern: DomainPattern | None) -> list[str | None]:
    """Return the names whose patterns may cover `pattern`; None: no name."""
    found: list[str | None] = [None]
    rest = "" if pattern is None else pattern.name
    while rest:
        found.append(rest)
        rest = rest.partition(".")[2]
    return found


def _cut(network: Network, length: int) -> _Prefix:
    return network.version, length, int(network.network_address) >> (network.max_prefixlen - length)


def choose(regions: Iterable[Region], then: Rows[V], otherwise: Rows[V], budget: Budget) -> Rows[V]:
    """Return what holds if `then` decides in one of `regions`, and `otherwise` elsewhere."""
    # A branch that goes on where the other does says nothing new there.
    shared = len(then) >= len(otherwise) and then[-len(otherwise) :] == otherwise
    own = then[: -len(otherwise)] if shared else then
    added: list[tuple[Region, V]] = []
    earlier = _Kept(budget)
    for region in regions:
        budget.spend(len(own))
        for row, verdict in own:
            common = intersect(region, row)
            if common is not None and not earlier.has_all_of(common):
                earlier.add(common)
                added.append((common, verdict))
    # Where all added rows say one thing, none says otherwise.
    others = added if any(verdict != added[0][1] for _, verdict in added) else []
    kept = [item for item in added if not _is_said_later(item, others, otherwise, budget)]
    return _limit((*kept, *otherwise))


def _is_said_later(item: tuple[Region, V], added: Sequence[tuple[Region, V]], rest: Rows[V], budget: Budget) -> bool:
    """Whether the rows after the added ones say the same of `item`, and no other added row says otherwise of it."""
    region, verdict = item
    budget.spend(len(added))
    if any(said != verdict and intersect(region, other) is not None for other, said in added):
        return False
    for row, said in rest:
        budget.spend()
        if intersect(region, row) is None:
            continue
        if said != verdict:
            return False
        if covers(row, region):
            return True
    return False


def multiply(one: Rows[V], other: Rows[W], join: Callable[[V, W], X], budget: Budget) -> Rows[X]:
    """Return the list that decides by both lists at once: `join` of what each says."""
    budget.spend(len(one))
    if one == other:
        pairs = zip(one, other, strict=True)
        return tuple(_without_repeats([(row, join(first, second)) for (row, first), (_, second) in pairs]))
    found: list[tuple[Region, X]] = []
    seen: set[Region] = set()
    earlier = _Kept(budget)
    for row, first in one:
        budget.spend(len(other))
        for column, second in other:
            common = intersect(row, column)
            if common is None or common in seen:
                continue
            if earlier.has_all_of(common):
                continue
            seen.add(common)
            earlier.add(common)
            found.append((common, join(first, second)))
            _limit(found)
    return tuple(_without_repeats(found))


def _without_repeats(rows: list[tuple[Region, X]]) -> list[tuple[Region, X]]:
    """Leave out the rows at the end that say what the last one says."""
    last = rows[-1]
    while len(rows) > 1 and rows[-2][1] == last[1]:
        del rows[-2]
    return rows


def hedge(then: Rows[Verdict], otherwise: Rows[Verdict], budget: Budget) -> Rows[Verdict]:
    """Return what is safe while nobody knows which of the two holds."""
    return multiply(then, otherwise, _safer, budget)


def _safer(then: Verdict, otherwise: Verdict) -> Verdict:
    """Return a proxy rather than nothing, anything rather than a direct connection, and else what comes last."""
    if otherwise.way is Way.TUNNEL or then.way is Way.DIRECT:
        return otherwise
    if then.way is Way.TUNNEL or otherwise.way is Way.DIRECT:
        return then
    return otherwise


def _limit(rows: Sequence[tuple[Region, V]]) -> Rows[V]:
    if len(rows) > MOST_ROWS:
        raise SourceError(f"the PAC file becomes more than {MOST_ROWS} rules; import what matters of it")
    return tuple(rows) if not isinstance(rows, tuple) else rows
