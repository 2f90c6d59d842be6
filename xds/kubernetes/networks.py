"""
Where the cluster is: the networks of its Services, pods and nodes, as few as say it.

Traffic within the cluster is recognised by address (NO_PROXY rule N11). Addresses of Services that no known network
holds are listed one by one, as in clusters whose API server does not tell the networks. Pure. Invariant: the result
depends on what there is and not on the order in which it came.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_network
from typing import TYPE_CHECKING

from xds.facts import DirectEndpoint, merge_networks

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from xds.facts import Address, Network

SERVICES, PODS_AND_NODES = "Services of the cluster", "pods and nodes of the cluster"
"""Reasons, as they are shown to people."""

_WIDEST = {4: 8, 6: 16}
"""The shortest prefix of a cluster's network, by version of IP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterNetworks:
    """The networks of the cluster."""

    services: tuple[Network, ...] = ()
    nodes: tuple[Network, ...] = ()
    """Of pods and of nodes."""

    @property
    def ranges(self) -> tuple[Network, ...]:
        """All of them."""
        return merge_networks((*self.services, *self.nodes))

    @property
    def direct(self) -> tuple[DirectEndpoint, ...]:
        """All of them as what no policy sends through a proxy, unless it says so (N12)."""
        return (
            *(DirectEndpoint(reason=PODS_AND_NODES, network=network) for network in self.nodes),
            *(DirectEndpoint(reason=SERVICES, network=network) for network in self.services),
        )


def build_networks(
    *,
    service_cidrs: Iterable[tuple[Network, ...]],
    services: Iterable[tuple[Address, ...]],
    nodes: Iterable[tuple[Network, ...]],
) -> ClusterNetworks:
    """Merge what the API server tells, but for what is too wide to be a cluster's: half of the Internet went direct."""
    known = _merge(network for found in service_cidrs for network in found)
    single = [address for found in services for address in found if not _holds(known, address)]
    return ClusterNetworks(
        services=_merge((*known, *map(ip_network, single))),
        nodes=_merge(network for found in nodes for network in found),
    )


def _merge(networks: Iterable[Network]) -> tuple[Network, ...]:
    """Merge those that are credible; of credible ones that make up what is not, nothing is left."""
    return tuple(filter(_is_credible, merge_networks(filter(_is_credible, networks))))


def _is_credible(network: Network) -> bool:
    return network.prefixlen >= _WIDEST[network.version]


def _holds(networks: Sequence[Network], address: Address) -> bool:
    return any(address in network for network in networks)
