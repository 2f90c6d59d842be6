"""
The cluster as the reconcile loop wants it: documents, and facts about networks beside those of this machine.

Nothing here watches; the mirror does. Invariant: nothing is handed out before the mirror has read everything once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from xds.facts import merge_networks
from xds.judge import SourceRead

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from xds.facts import Facts, Network
    from xds.kubernetes.mirror import Mirror
    from xds.kubernetes.networks import ClusterNetworks
    from xds.reconcile import FactsSource

_MOST_SHOWN = 20

_log = structlog.get_logger(__name__)


class KubernetesSource:
    """The policy documents of the cluster."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror

    async def read(self) -> SourceRead:
        """Return every document that there is; the first time, wait until the cluster was read."""
        await self._mirror.wait_until_synced()
        return SourceRead(documents=self._mirror.documents())

    async def changes(self) -> AsyncIterator[None]:
        """Yield once, then whenever a document or a network of the cluster changed; never raises."""
        yield
        while True:
            await self._mirror.changed.wait()
            yield


class ClusterFacts:
    """The facts of `machine`, and where the cluster is."""

    def __init__(self, machine: FactsSource, mirror: Mirror) -> None:
        self._machine = machine
        self._mirror = mirror
        self._told: ClusterNetworks | None = None

    async def collect(self, hosts: frozenset[str]) -> Facts:
        """Return what is known now; never raises."""
        facts = await self._machine.collect(hosts)
        networks = self._mirror.networks()
        if networks != self._told:
            self._told = networks
            _log.info(
                "networks of the cluster", services=_show(networks.services), pods_and_nodes=_show(networks.nodes)
            )
        return replace(
            facts,
            cluster_direct=networks.direct,
            cluster_ranges=merge_networks((*facts.cluster_ranges, *networks.ranges)),
        )

    def changes(self) -> AsyncIterator[None]:
        """Yield whenever a fact of the machine changed; the source tells of those of the cluster."""
        return self._machine.changes()


def _show(networks: tuple[Network, ...]) -> str:
    shown = " ".join(map(str, networks[:_MOST_SHOWN]))
    return f"{shown} and {len(networks) - _MOST_SHOWN} more" if len(networks) > _MOST_SHOWN else shown
