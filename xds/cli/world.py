"""
How a command reads what it judges: policies, the facts around them, and pods; from paths, or once from a cluster.

The parts are those of `xds serve`, used once instead of followed. Nothing here prints, but that it takes long.
Invariant: what is handed out was read completely; a cluster that can't be read is an UnreachableError, never an empty
world.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

import click

from xds.cli.documents import read_piped, read_policies
from xds.cli.logs import configure_logging
from xds.cli.places import check_policies, check_resolv_conf
from xds.cli.progress import working
from xds.errors import SettingsError, UnreachableError
from xds.judge import Judge, SourceRead
from xds.names import NodeId
from xds.policy.secrets import read_secret_path
from xds.sources.facts import NetworkFacts
from xds.sources.files import read_files

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from xds.facts import Facts, File
    from xds.judge import Judgement
    from xds.kubernetes.mirror import Mirror
    from xds.kubernetes.objects import NamespaceObject
    from xds.settings import Settings
    from xds.workloads import Pod

_PATIENCE = 30.0
"""Seconds for which a cluster may be read."""
_LOOK = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where policies are: in `paths`, or else in the cluster that the settings name."""

    settings: Settings
    paths: tuple[Path, ...] = ()
    resolves: bool = True
    """Whether names of proxies are looked up."""
    reads_files: bool = True
    """Whether files and Secrets that policies name are read."""
    piped: SourceRead | None = field(default=None, repr=False)
    """What was piped in, if one of the paths is stdin."""

    @property
    def is_cluster(self) -> bool:
        """Whether the API server is asked."""
        return self.settings.kubernetes


def choose_place(
    paths: tuple[Path, ...],
    settings: Settings,
    *,
    resolves: bool = True,
    reads_files: bool = True,
    piped: SourceRead | None = None,
) -> Place:
    """
    Return the place; what is piped in is read here unless it was, so call it outside of an event loop.

    Raises click.UsageError unless there is exactly one source, and SourceError or SettingsError for a bad one.
    """
    if bool(paths) is settings.kubernetes:
        raise click.UsageError("give either paths of policies, or --kubernetes for those of the cluster")
    for path in paths:
        check_policies(path)
    check_resolv_conf(settings)
    return Place(
        settings=settings, paths=paths, resolves=resolves, reads_files=reads_files, piped=piped or read_piped(paths)
    )


class _Facts(Protocol):
    async def collect(self, hosts: frozenset[str]) -> Facts: ...


class _Files(Protocol):
    async def collect(self, paths: frozenset[str]) -> Mapping[str, File]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenWorld:
    """What was read. Documents may be judged as often as wanted: as they are, or as they might be."""

    place: Place
    read: SourceRead
    home: str = ""
    """The control plane's own namespace; empty outside of a cluster."""
    pods: Mapping[NodeId, Pod] = field(default_factory=lambda: MappingProxyType({}))
    """Those of the cluster, by node id."""
    injected: frozenset[NodeId] = frozenset()
    """Those of them that have a sidecar, as far as that is known."""
    namespaces: Mapping[str, NamespaceObject] = field(default_factory=lambda: MappingProxyType({}))
    """Those of the cluster, by name."""
    _facts: _Facts
    _files: _Files

    async def judge(self, read: SourceRead | None = None, *, builds: bool = True) -> tuple[Judgement, Facts]:
        """
        Judge `read`, or what was read, as a server would that starts now; return the facts, too.

        Unless it `builds`, snapshots are empty.
        """
        judge = Judge(builds=builds)
        with working("compiling policies"):
            results = judge.parse(self.read if read is None else read)
            facts = await self._facts.collect(judge.hosts(results) if self.place.resolves else frozenset())
            files = await self._files.collect(judge.files(results)) if self.place.reads_files else {}
            facts = replace(
                facts,
                files=files,
                reads_files=self.place.reads_files,
                reads_secrets=self.place.is_cluster,
                now=time.time(),
            )
            return judge.judge(results, facts), facts


@asynccontextmanager
async def open_world(place: Place) -> AsyncIterator[OpenWorld]:
    """
    Read the place once.

    Raises SourceError if a path can't be read or holds no document, SettingsError if the cluster's name or credentials
    are of no use, and UnreachableError if the API server does not answer, or forbids.
    """
    if place.is_cluster:
        async with _open_cluster(place) as world:
            yield world
    else:
        gathered = await asyncio.to_thread(read_policies, place.paths, piped=place.piped)
        yield OpenWorld(place=place, read=gathered.read, _facts=NetworkFacts(place.settings), _files=_FilesOfMachine())


class _FilesOfMachine:
    async def collect(self, paths: frozenset[str]) -> Mapping[str, File]:
        # What ConfigMaps that stand in no cluster yet name is not looked at.
        return await asyncio.to_thread(read_files, (path for path in paths if read_secret_path(path) is None))


@asynccontextmanager
async def _open_cluster(place: Place) -> AsyncIterator[OpenWorld]:
    try:
        from xds.kubernetes.connection import connect  # noqa: PLC0415  # an optional dependency, and a heavy one
        from xds.kubernetes.mirror import Mirror  # noqa: PLC0415  # as above
        from xds.kubernetes.secrets import ClusterSecrets  # noqa: PLC0415  # as above
        from xds.kubernetes.source import ClusterFacts  # noqa: PLC0415  # as above
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"--kubernetes needs the package {error.name}; install it: pip install '.[kubernetes]'"
        ) from error
    from xds.workloads import Workloads  # noqa: PLC0415  # only clusters know pods

    settings = place.settings
    # What goes wrong is told by the exception; log lines of those who would try again say it twice.
    configure_logging(replace(settings, log_level="critical"))
    api = await connect(settings.kubeconfig, settings.context)
    home = settings.namespace or api.namespace
    workloads = Workloads()
    mirror = Mirror(
        api,
        workloads,
        home=home,
        discovers_networks=settings.discover_networks,
        is_home_only=not settings.namespaced_policies,
    )
    secrets = ClusterSecrets(api)
    following = asyncio.create_task(mirror.run())
    try:
        with working("reading the cluster"):
            await _wait_for(mirror, api.url)
        if ("", home) not in mirror.namespaces.items:
            raise SettingsError(
                f"--namespace {home}: there is no such namespace in the cluster; name the one of the control plane"
            )
        yield OpenWorld(
            place=place,
            read=SourceRead(mirror.documents()),
            home=home,
            pods=workloads.pods(),
            injected=frozenset(NodeId(f"{workload.pod}.{workload.namespace}") for workload in mirror.injected()),
            namespaces={name: item for (_, name), item in mirror.namespaces.items.items()},
            _facts=ClusterFacts(NetworkFacts(settings), mirror),
            _files=secrets,
        )
    finally:
        following.cancel()
        await asyncio.wait([following])
        await secrets.close()
        await api.close()


async def _wait_for(mirror: Mirror, url: str) -> None:
    """Wait until everything was read once. Raises UnreachableError as soon as something can't be."""
    try:
        async with asyncio.timeout(_PATIENCE):
            while not all(reflector.is_synced for reflector in mirror.reflectors):
                for reflector in mirror.reflectors:
                    if reflector.problem is not None and not reflector.is_synced:
                        resource = reflector.collection.resource
                        raise UnreachableError(f"{resource} of the API server {url} can't be read: {reflector.problem}")
                await asyncio.sleep(_LOOK)
    except TimeoutError as error:
        raise UnreachableError(
            f"the API server {url} has not told everything within {_PATIENCE:g} s; see whether it answers: "
            "kubectl get --raw /readyz"
        ) from error
