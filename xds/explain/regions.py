"""
Which addresses a policy tells apart: one for each part of the address space that all its networks agree on.

Where a name leads is not known before it is resolved, and a decision may depend on it. Invariant: two addresses of one
region are in the same networks.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import pairwise
from typing import TYPE_CHECKING

from xds.compile.builtin import builtin_rules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from xds.explain.connection import Address
    from xds.facts import Facts
    from xds.policy.model import Network, Policy

MOST = 200
"""Regions that are looked at; more only say that the address matters."""


@dataclass(frozen=True, slots=True)
class Region:
    """
    A part of the address space.

    `network` is the smallest network that holds it (None: no network does), `size` the number of its addresses.
    """

    network: Network | None
    address: Address
    size: int


def find_regions(policy: Policy, facts: Facts) -> tuple[Region, ...]:
    """Return the regions that `policy` tells apart, the largest first; IPv4 before IPv6."""
    known = set(_networks(policy, facts))
    of_v4 = _split(IPv4Address, 32, {net for net in known if isinstance(net, IPv4Network)})
    of_v6 = _split(IPv6Address, 128, {net for net in known if isinstance(net, IPv6Network)})
    return (*of_v4, *of_v6)


def _networks(policy: Policy, facts: Facts) -> Iterable[Network]:
    for rule in builtin_rules(policy, facts) + policy.rules:
        yield from rule.verify
        for item in rule.destinations:
            if isinstance(item.host, (IPv4Network, IPv6Network)):
                yield item.host
    yield from policy.synthetic_ranges


def _split(address: Callable[[int], Address], bits: int, networks: Iterable[Network]) -> list[Region]:
    """Cut one family at every edge of a network."""
    opened: dict[int, list[Network]] = defaultdict(list)
    edges = {0, 1 << bits}
    for network in networks:
        start = int(network.network_address)
        opened[start].append(network)
        edges |= {start, start + network.num_addresses}
    regions: list[Region] = []
    around: list[Network] = []
    ordered = sorted(edges)
    for start, end in pairwise(ordered):
        around = [item for item in around if int(item.broadcast_address) >= start]
        around += sorted(opened[start], key=lambda item: item.prefixlen)
        regions.append(Region(around[-1] if around else None, address(start), end - start))
    return sorted(regions, key=lambda item: -item.size)


def is_within(network: Network, outer: Network) -> bool:
    """Whether `network` is a smaller part of `outer`."""
    is_inside = network.version == outer.version and network.network_address in outer
    return is_inside and network.prefixlen > outer.prefixlen
