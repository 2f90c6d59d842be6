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
from xds.admission.connections import MAX_CONNECTIONS
from xds.admission.pods import UNDECIDED_POD, Known, Place, PodInjector
from xds.admission.policies import UNDECIDED_POLICY, PolicyReviewer
from xds.admission.server import INJECT, MAX_POD_BYTES, VALIDATE_POLICY, AdmissionServer, Desk, Outcome
from xds.admission.sidecars import Sidecars
from xds.errors import SettingsError
from xds.facts import merge_networks
from xds.kubernetes.connection import connect
from xds.kubernetes.keys import ClusterKeys
from xds.kubernetes.mirror import Mirror
from xds.kubernetes.replicas import Member
from xds.kubernetes.reporting import Reporting, Sight
from xds.kubernetes.review import TokenReviews
from xds.kubernetes.secrets import ClusterSecrets
from xds.kubernetes.source import ClusterFacts, KubernetesSource
from xds.kubernetes.status import count_pods, count_streams
from xds.kubernetes.version import ClusterVersion
from xds.reconcile import Inputs
from xds.server.authentication import Authentication
from xds.sources.facts import NetworkFacts
from xds.sources.files import WatchedFiles
from xds.workloads import Workloads

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds.cache import SnapshotCache
    from xds.clients import Clients
    from xds.flags import HostPort
    from xds.kubernetes.connection import ApiServer
    from xds.kubernetes.networks import ClusterNetworks
    from xds.kubernetes.reflector import Reflector
    from xds.policy.model import Network
    from xds.reconcile import Reconciler
    from xds.settings import Settings

_LONGEST_LINGER = 5.0
"""Seconds for which reviews are answered after this replica was told to end: endpoints are exchanged faster."""

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
        self._version = ClusterVersion(api)
        self._sidecars = self._build_sidecars()
        self._admission: _Admission | None = None
        self._reporting: Reporting | None = None

    @property
    def authentication(self) -> Authentication:
        """Return what is demanded of callers."""
        return Authentication(self._settings, keys=self._keys, reviews=self._reviews)

    @property
    def inputs(self) -> Inputs:
        """What goes into the reconcile loop."""
        return Inputs(KubernetesSource(self.mirror), ClusterFacts(self._facts, self.mirror), self._secrets)

    def review(self, cache: SnapshotCache) -> None:
        """Have the API server ask about policies, and about pods, as far as the settings say so."""
        settings = self._settings
        if settings.admission_listen is None:
            return
        assert settings.tls_certificate is not None, "the settings see to it"
        assert settings.tls_key is not None, "as above"
        certificate = ServerCertificate(settings.tls_certificate, settings.tls_key, settings.admission_client_ca)
        desks = {VALIDATE_POLICY: self._policy_desk()}
        if self._sidecars is not None:
            desks[INJECT] = self._pod_desk(cache, self._sidecars)
        server = AdmissionServer(desks, certificate)
        linger = min(settings.shutdown_grace, _LONGEST_LINGER)
        self._admission = _Admission(server, certificate, settings.admission_listen, self._sidecars, linger)

    def _build_sidecars(self) -> Sidecars | None:
        if not self._settings.injects:
            return None
        return Sidecars(self._settings, home=self.home, has_native=lambda: self._version.has_native_sidecars)

    def _policy_desk(self) -> Desk:
        reviewer = PolicyReviewer(
            home=self.home,
            documents=self.mirror.documents,
            clock=time.time,
            is_home_only=not self._settings.namespaced_policies,
        )
        return Desk(reviewer=reviewer, undecided=UNDECIDED_POLICY)

    def _pod_desk(self, cache: SnapshotCache, sidecars: Sidecars) -> Desk:
        def place(namespace: str, pod: Mapping[str, object]) -> Place | None:
            found, workload = self.mirror.namespaces.items.get(("", namespace)), self.mirror.expect(namespace, pod)
            if found is None or workload is None:
                return None
            return Place(workload=workload, annotations={**sidecars.defaults, **dict(found.annotations)})

        known = Known(
            place=place,
            is_served=lambda: cache.world is not None,
            policy_for=cache.policy_for,
            networks=_Ranges(self.mirror, self._settings.cluster_cidr),
            sidecar=sidecars.current,
            wait_for_namespace=self.mirror.wait_for_namespace,
        )
        injector = PodInjector(known)
        return Desk(
            reviewer=injector,
            undecided=UNDECIDED_POD,
            prepare=injector.prepare,
            most_waiting=MAX_CONNECTIONS,
            most_bytes=MAX_POD_BYTES,
            unchanged=Outcome.LEFT_ALONE,
        )

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

    def reviews(self) -> Mapping[tuple[str, str], int]:
        """Return how many questions the API server asked, by path and outcome, for metrics."""
        counted = {} if self._admission is None else self._admission.server.outcomes
        return {(path, outcome.value): total for (path, outcome), total in counted.items()}

    @property
    def certificate_ends_at(self) -> float | None:
        """When the certificate for reviews ends, in seconds since the epoch; None: there is none."""
        return None if self._admission is None else self._admission.certificate.ends_at

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
                if self._sidecars is not None:
                    group.create_task(self._version.run())
                if self._admission is not None:
                    group.create_task(self._admission.run())
        finally:
            await self._secrets.close()
            await self._api.close()


@dataclass(frozen=True, slots=True)
class _Admission:
    """The webhooks and what their certificate and the sidecars' authority come from."""

    server: AdmissionServer
    certificate: ServerCertificate
    listen: HostPort
    sidecars: Sidecars | None
    linger: float
    """Seconds."""

    async def run(self) -> None:
        """Answer until cancelled. Raises ListenError and SettingsError."""
        watched, sidecars = WatchedFiles(), self.sidecars
        paths = self.certificate.files | (frozenset[str]() if sidecars is None else {str(sidecars.ca)})
        files = await watched.collect(paths)
        self.certificate.load(files)
        if sidecars is not None:
            sidecars.load(files)
        await self.server.start(self.listen)
        try:
            async for _ in watched.changes():
                files = await watched.collect(paths)
                self.certificate.reload(files)
                if sidecars is not None:
                    sidecars.reload(files)
        finally:
            if self.server.was_asked:
                # Until the Service's endpoints name another replica, and a pod that nobody reviews is not made.
                await asyncio.sleep(self.linger)
            await self.server.stop()


class _Ranges:
    """The networks of the cluster and those of the settings; merged once for as long as they are the same."""

    def __init__(self, mirror: Mirror, given: tuple[Network, ...]) -> None:
        self._mirror = mirror
        self._given = given
        self._told: ClusterNetworks | None = None
        self._merged: tuple[Network, ...] = ()

    def __call__(self) -> tuple[Network, ...]:
        told = self._mirror.networks()
        if told is not self._told:
            self._told, self._merged = told, merge_networks((*self._given, *told.ranges))
        return self._merged


def _is_current(reflector: Reflector[Any]) -> bool:
    return reflector.problem is None and reflector.is_synced


async def open_cluster(settings: Settings) -> Cluster:
    """Return the cluster that the settings name. Raises SettingsError."""
    return Cluster(await connect(settings.kubeconfig, settings.context), settings)
