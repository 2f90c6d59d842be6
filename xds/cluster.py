"""
The composition root's half for clusters: builds what speaks to the API server, wires it, and ends it in order.

Only `serve --kubernetes` imports this, because the packages behind it take a second and fifty megabytes. Nothing is
decided here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from xds.admin.metrics import Watched
from xds.kubernetes.connection import connect
from xds.kubernetes.mirror import Mirror
from xds.kubernetes.secrets import ClusterSecrets
from xds.kubernetes.source import ClusterFacts, KubernetesSource
from xds.reconcile import Inputs
from xds.sources.facts import NetworkFacts
from xds.workloads import Workloads

if TYPE_CHECKING:
    from xds.kubernetes.connection import ApiServer
    from xds.settings import Settings

_log = structlog.get_logger(__name__)


class Cluster:
    """One cluster, seen through its API server. Create it inside a running loop."""

    def __init__(self, api: ApiServer, settings: Settings) -> None:
        self.home = settings.namespace or api.namespace
        self.workloads = Workloads()
        self.mirror = Mirror(api, self.workloads, home=self.home, discovers_networks=settings.discover_networks)
        self._api = api
        self._secrets = ClusterSecrets(api)
        self._facts = NetworkFacts(settings)

    @property
    def inputs(self) -> Inputs:
        """What goes into the reconcile loop."""
        return Inputs(KubernetesSource(self.mirror), ClusterFacts(self._facts, self.mirror), self._secrets)

    def watched(self) -> tuple[Watched, ...]:
        """Return how the collections are followed, for metrics."""
        return tuple(
            Watched(
                resource=reflector.collection.resource,
                objects=len(reflector.items),
                lists=reflector.lists,
                watches=reflector.watches,
                events=reflector.events,
                errors=reflector.errors,
                is_current=reflector.problem is None and reflector.is_synced,
            )
            for reflector in self.mirror.reflectors
        )

    async def run(self) -> None:
        """Follow the cluster until cancelled."""
        _log.info("following the cluster", api_server=self._api.url, namespace=self.home)
        try:
            await self.mirror.run()
        finally:
            await self._secrets.close()
            await self._api.close()


async def open_cluster(settings: Settings) -> Cluster:
    """Return the cluster that the settings name. Raises SettingsError."""
    return Cluster(await connect(settings.kubeconfig, settings.context), settings)
