"""
The composition root's half for clusters: builds what speaks to the API server, wires it, and ends it in order.

Only `serve --kubernetes` imports this, because the packages behind it take a second and fifty megabytes. Nothing is
decided here.
"""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from xds.admin.metrics import Watched
from xds.admission.certificate import ServerCertificate
from xds.admission.policies import PolicyReviewer
from xds.admission.server import VALIDATE_POLICY, AdmissionServer
from xds.errors import SettingsError
from xds.kubernetes.connection import connect
from xds.kubernetes.keys import ClusterKeys
from xds.kubernetes.mirror import Mirror
from xds.kubernetes.replicas import Member
from xds.kubernetes.reporting import Reporting, Sight
from xds.kubernetes.review import TokenReviews
from xds.kubernetes.secrets import ClusterSecrets
from xds.kubernetes.source import ClusterFacts, KubernetesSource
from xds.kubernetes.status import count_pods, count_streams
from xds.reconcile import Inputs
from xds.server.authentication import Authentication
from xds.sources.facts import NetworkFacts
from xds.sources.files import WatchedFiles
from xds.workloads import Workloads

if TYPE_CHECKING:
    from xds.cache import SnapshotCache
    from xds.clients import Clients
    from xds.flags import HostPort
    from xds.kubernetes.connection import ApiServer
    from xds.kubernetes.reflector import Reflector
    from xds.reconcile import Reconciler
    from xds.settings import Settings

_log = structlog.get_logger(__name__)


class Cluster:
    """One cluster, seen through its API server. Create it inside a running loop."""

    def __init__(self, api: ApiServer, settings: Settings) -> None:
        self.home = settings.namespace or api.namespace
        self.workloads = Workloads()
        self.mirror = Mirror(
            api,
            self.workloads,
            home=self.home,
            discovers_networks=settings.discover_networks,
            is_home_only=not settings.namespaced_policies,
        )
        self._api = api
        self._settings = settings
        self._secrets = ClusterSecrets(api)
        self._facts = NetworkFacts(settings)
        # Even where tokens are reviewed: what no key signed is not worth a question.
        self._keys = ClusterKeys(api) if settings.token_source in {"cluster", "review"} else None
        is_reviewed = settings.token_source == "review"  # noqa: S105  # as above
        self._reviews = TokenReviews(api, settings.token_audience, clock=time.time) if is_reviewed else None
        self._admission = _build_admission(self, settings)
        self._reporting: Reporting | None = None

    @property
    def authentication(self) -> Authentication:
        """Return what is demanded of callers."""
        return Authentication(self._settings, keys=self._keys, reviews=self._reviews)

    @property
    def inputs(self) -> Inputs:
        """What goes into the reconcile loop."""
        return Inputs(KubernetesSource(self.mirror), ClusterFacts(self._facts, self.mirror), self._secrets)

    def report(self, reconciler: Reconciler, clients: Clients, cache: SnapshotCache) -> None:
        """Have operators told what becomes of their policies, unless the settings say otherwise."""
        if not self._settings.write_status:
            return
        member = Member(namespace=self.home, identity=self._settings.identifier or socket.gethostname())
        sight = Sight(
            state=lambda: reconciler.state,
            streams=lambda: count_streams(clients, cache.policy_for),
            expected=lambda: count_pods(self.mirror.injected(), cache.policy_for),
        )
        self._reporting = Reporting(self._api, member, sight)

    def watched(self) -> tuple[Watched, ...]:
        """Return how the collections are followed, for metrics."""
        collections = tuple(
            Watched(
                resource=reflector.collection.resource,
                objects=len(reflector.items),
                lists=reflector.lists,
                watches=reflector.watches,
                events=reflector.events,
                errors=reflector.errors,
                is_current=_is_current(reflector),
            )
            for reflector in self.mirror.reflectors
        )
        named = self._secrets.reflectors
        secrets = Watched(
            resource="secrets",
            objects=sum(len(reflector.items) for reflector in named),
            is_current=all(map(_is_current, named)),
            **self._secrets.count(),
        )
        return (*collections, secrets)

    def awaited(self) -> tuple[str, ...]:
        """Return what was never read so far, and why."""
        unread = [reflector for reflector in self.mirror.reflectors if not reflector.is_synced]
        keys = self._keys
        lines = [f"{each.collection.resource}: {each.problem or 'not read yet'}" for each in unread]
        if keys is not None and not keys.known.is_set():
            lines.append(f"keys of tokens: {keys.problem or 'not read yet'}")
        return tuple(lines)

    async def wait_until_ready(self) -> None:
        """Wait until callers can be told from one another."""
        if self._keys is not None:
            await self._keys.known.wait()

    async def _check_home(self) -> None:
        """Raise SettingsError if the namespace of cluster-wide policies does not exist, and tell if none is in it."""
        await self.mirror.wait_until_synced()
        if ("", self.home) not in self.mirror.namespaces.items:
            raise SettingsError(
                f"--namespace {self.home}: there is no such namespace in the cluster, so that no policy would be "
                "cluster-wide; name the one that this control plane runs in"
            )
        if all(document.namespace is not None for document in self.mirror.documents()):
            _log.warning(
                "no policy is cluster-wide: pods of namespaces without one are refused every connection, except to "
                "addresses that are always direct",
                namespace=self.home,
                hint="put a ConfigMap with the label egress-xds/policy=true there",
            )

    async def run(self) -> None:
        """Follow the cluster until cancelled. Raises ListenError and SettingsError, in a group."""
        _log.info("following the cluster", api_server=self._api.url, namespace=self.home)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.mirror.run())
                group.create_task(self._check_home())
                if self._reporting is not None:
                    group.create_task(self._reporting.run())
                if self._keys is not None:
                    group.create_task(self._keys.run())
                if self._admission is not None:
                    group.create_task(self._admission.run())
        finally:
            await self._secrets.close()
            await self._api.close()


@dataclass(frozen=True, slots=True)
class _Admission:
    """The webhook and what its certificate comes from."""

    server: AdmissionServer
    certificate: ServerCertificate
    listen: HostPort

    async def run(self) -> None:
        """Answer until cancelled. Raises ListenError and SettingsError."""
        files = WatchedFiles()
        self.certificate.load(await files.collect(self.certificate.files))
        await self.server.start(self.listen)
        try:
            async for _ in files.changes():
                self.certificate.reload(await files.collect(self.certificate.files))
        finally:
            await self.server.stop()


def _build_admission(cluster: Cluster, settings: Settings) -> _Admission | None:
    if settings.admission_listen is None:
        return None
    assert settings.tls_certificate is not None, "the settings see to it"
    assert settings.tls_key is not None, "as above"
    certificate = ServerCertificate(settings.tls_certificate, settings.tls_key)
    reviewer = PolicyReviewer(
        home=cluster.home,
        documents=cluster.mirror.documents,
        clock=time.time,
        is_home_only=not settings.namespaced_policies,
    )
    return _Admission(AdmissionServer({VALIDATE_POLICY: reviewer}, certificate), certificate, settings.admission_listen)


def _is_current(reflector: Reflector[Any]) -> bool:
    return reflector.problem is None and reflector.is_synced


async def open_cluster(settings: Settings) -> Cluster:
    """Return the cluster that the settings name. Raises SettingsError."""
    return Cluster(await connect(settings.kubeconfig, settings.context), settings)
