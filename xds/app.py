"""
The composition root of `serve`: builds the parts, wires them, and ends them in order.

Nothing is decided here. The server begins to listen once the first world is published, so a client that gets
through to it gets its configuration, and a replica that knows nothing yet leaves its clients to others.
"""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import structlog

from xds.admin.administration import Administration
from xds.admin.metrics import Observed
from xds.admin.readiness import Readiness
from xds.cache import SnapshotCache
from xds.canary import Canary
from xds.clients import Clients
from xds.errors import EgressXdsError, ListenError, SettingsError
from xds.reconcile import Debounce, Inputs, Reconciler
from xds.server.ads import AdsServer
from xds.server.authentication import Authentication
from xds.server.collection import relax_collection
from xds.server.limits import Limits
from xds.server.reminders import remind_of_end
from xds.server.trials import expire_trials, log_outcome
from xds.sources.directory import DirectorySource
from xds.sources.facts import NetworkFacts
from xds.sources.files import WatchedFiles
from xds.staging import StagedCache

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from pathlib import Path

    from xds.cache import World
    from xds.cluster import Cluster
    from xds.flags import HostPort
    from xds.settings import Settings

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """The wired parts of one process. `first_world` is set once there is something to serve."""

    settings: Settings
    cache: SnapshotCache
    clients: Clients
    reconciler: Reconciler
    server: AdsServer
    authentication: Authentication
    first_world: asyncio.Event
    administration: Administration
    cluster: Cluster | None = None


def read_directory(policies: Path, settings: Settings) -> Inputs:
    """Return what goes into a control plane whose policies are in a directory."""
    source = DirectorySource(policies, rescan=settings.rescan_interval)
    return Inputs(source, NetworkFacts(settings), WatchedFiles())


def build_control_plane(
    inputs: Inputs, settings: Settings, *, clock: Callable[[], float], cluster: Cluster | None = None
) -> ControlPlane:
    """
    Wire everything inside the running loop; nothing is started. `clock` gives seconds since the epoch.

    With a `cluster`, pods are what it says that they are.
    """
    cache, clients = _build_registry(settings, clock)
    first_world = asyncio.Event()

    readiness = Readiness()

    def publish(world: World) -> None:
        cache.publish(world)
        first_world.set()
        readiness.note_synced()

    reconciler = Reconciler(
        inputs=inputs,
        publish=publish,
        debounce=Debounce(settings.debounce_quiet, settings.debounce_max),
        clock=clock,
    )
    authentication = Authentication(settings, clock=clock) if cluster is None else cluster.authentication
    server = AdsServer(
        cache,
        clients,
        clock=clock,
        identifier=settings.identifier or socket.gethostname(),
        authentication=authentication,
        workloads=None if cluster is None else cluster.workloads,
        limits=Limits(streams_per_node=settings.max_streams_per_node, connection_age=settings.max_connection_age),
        resource_ttl=settings.resource_ttl,
    )
    ends = partial(_certificate_ends, authentication, cluster)
    observed = Observed(clients=clients, cache=cache, reconciler=reconciler, readiness=readiness, certificate_ends=ends)
    if cluster is not None:
        observed = replace(observed, watched=cluster.watched, awaited=cluster.awaited, reviews=cluster.reviews)
        cluster.report(reconciler, clients, cache)
        cluster.review(cache)
    administration = Administration(observed, settings, check=check_address)
    administration.health.register(server.grpc_server, watches=False)
    return ControlPlane(
        settings, cache, clients, reconciler, server, authentication, first_world, administration, cluster
    )


def _certificate_ends(authentication: Authentication, cluster: Cluster | None) -> Mapping[str, float]:
    ends = {
        "streams": authentication.certificate_ends_at,
        "reviews": None if cluster is None else cluster.certificate_ends_at,
    }
    return {use: moment for use, moment in ends.items() if moment is not None}


def _build_registry(settings: Settings, clock: Callable[[], float]) -> tuple[SnapshotCache, Clients]:
    if settings.canary is None:
        return SnapshotCache(), Clients()
    cache = StagedCache(Canary(settings.canary.of, settings.canary_timeout), clock=clock, tell=log_outcome)
    return cache, Clients(cache)


async def run_control_plane(
    control_plane: ControlPlane, stop: asyncio.Event, announce: Callable[[HostPort], None]
) -> None:
    """
    Serve until `stop` is set; `announce` is called with the address once it is taken.

    Raises SourceError if the policies can't be read at the start, SettingsError if the server's own files can't be
    used then, and ListenError.
    """
    files = WatchedFiles()
    control_plane.authentication.load(await files.collect(control_plane.authentication.files))
    try:
        async with asyncio.TaskGroup() as group:
            going_on = (
                control_plane.reconciler.run(),
                control_plane.administration.health.run(),
                expire_trials(control_plane.cache),
                _follow_files(files, control_plane.authentication),
                remind_of_end(control_plane.authentication),
            )
            tasks = [group.create_task(each) for each in going_on]
            cluster = control_plane.cluster
            following_cluster = group.create_task(cluster.run()) if cluster is not None else None
            try:
                await control_plane.administration.start()
                await _first(control_plane.first_world.wait(), stop.wait())
                if cluster is not None:
                    await _first(cluster.wait_until_ready(), stop.wait())
                relax_collection()
                if not stop.is_set():
                    listen = control_plane.settings.listen
                    await asyncio.to_thread(check_address, listen)
                    announce(replace(listen, port=await control_plane.server.start(str(listen))))
                    control_plane.administration.readiness.note_listening()
                await stop.wait()
            finally:
                await control_plane.administration.end()
                await control_plane.server.stop(control_plane.settings.shutdown_grace)
                await control_plane.administration.stop()
                for task in tasks:
                    task.cancel()
                if following_cluster is not None:
                    following_cluster.cancel()
    except BaseExceptionGroup as group:
        expected = group.subgroup(EgressXdsError)
        if expected is None:
            raise
        raise _innermost(expected) from None


async def _follow_files(files: WatchedFiles, authentication: Authentication) -> None:
    """Hand over what changed in the server's own files until cancelled."""
    async for _ in files.changes():
        authentication.reload(await files.collect(authentication.files))


async def serve(policies: Path | None, settings: Settings) -> None:
    """Serve `policies`, or None: those of the cluster, until SIGTERM or SIGINT. Raises as `run_control_plane`."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    def announce(address: HostPort) -> None:
        if settings.address_file is not None:
            write_address(settings.address_file, address)

    _warn(settings)
    if policies is None:
        cluster = await _open_cluster(settings)
        control_plane = build_control_plane(cluster.inputs, settings, clock=time.time, cluster=cluster)
    else:
        control_plane = build_control_plane(read_directory(policies, settings), settings, clock=time.time)
    await run_control_plane(control_plane, stop, announce)


def _warn(settings: Settings) -> None:
    """Tell of what works, and may not be meant."""
    if not settings.listen.is_loopback and not settings.demands_tokens and settings.client_ca is None:
        _log.warning(
            "clients are not authenticated: whoever reaches this address is served, logins of proxies included; demand "
            "tokens with --jwks or --token-source, or certificates with --client-ca, or keep others away by a network "
            "policy",
            address=str(settings.listen),
        )
    if not settings.cluster_cidr and not (settings.kubernetes and settings.discover_networks):
        _log.warning(
            "names below .svc and .cluster.local go direct wherever they lead, as clients claim; give the ranges of "
            "services, pods and nodes with --cluster-cidr, or switch off alwaysDirect.clusterLocal in policies"
        )
    if settings.resource_ttl is not None:
        _log.warning(
            "sidecars that lose all control planes drop their configuration after --resource-ttl and refuse new "
            "connections until one is back; state-of-the-world clients keep theirs",
            seconds=settings.resource_ttl,
        )


async def _open_cluster(settings: Settings) -> Cluster:
    """Return the cluster that the settings name. Raises SettingsError."""
    try:
        from xds.cluster import open_cluster  # noqa: PLC0415  # an optional dependency, and a heavy one
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"--kubernetes needs the package {error.name}; install it: pip install '.[kubernetes]'"
        ) from error
    return await open_cluster(settings)


def check_address(listen: HostPort) -> None:
    """
    Take the address for a moment, for gRPC does not tell why it can't. Raises ListenError.

    As in gRPC, one address of a name's is enough.
    """
    try:
        found = socket.getaddrinfo(listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ListenError(
            f"can't listen on {listen}: the name {listen.host} does not resolve here; give an address of this machine"
        ) from error
    refusals = [refusal for family, *_, address in found if (refusal := _try_to_listen(family, address)) is not None]
    if len(refusals) == len(found):
        raise ListenError(f"can't listen on {listen}: {_explain_refusal(refusals[0], listen)}") from refusals[0]


def _try_to_listen(family: int, address: tuple[object, ...]) -> OSError | None:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # Connections of an earlier server that have not quite ended are no reason to refuse.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return error
    return None


def _explain_refusal(error: OSError, listen: HostPort) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"the port is in use; see by whom: ss -ltnp 'sport = :{listen.port}', or choose another address"
        case errno.EACCES | errno.EPERM:
            return "low ports are for root; choose one of 1024 or above, or grant CAP_NET_BIND_SERVICE"
        case errno.EADDRNOTAVAIL:
            return "that is no address of this machine; choose one that `ip address` shows, or 0.0.0.0 for all of them"
        case errno.EAFNOSUPPORT:
            return "this machine has no IPv6; choose an IPv4 address, such as 0.0.0.0"
        case _:
            return f"{error.strerror}; choose another address"


def write_address(path: Path, address: HostPort) -> None:
    """Write `host:port` to `path` at once, so that no reader sees half of it. Raises ListenError."""
    partial = path.parent / f".{path.name}.partial"
    try:
        partial.write_text(f"{address}\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise ListenError(
            f"--address-file {path} can't be written: {error.strerror}; give a path in a writable directory"
        ) from error


async def _first(*waited_for: Coroutine[None, None, object]) -> None:
    """Wait until one of them has come."""
    waits = [asyncio.create_task(one) for one in waited_for]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
