"""
What a monitoring system may know: numbers, by variant, type and state.

They are looked up when somebody asks, so counting costs the streams nothing but additions. Invariant: no label has a
value that a client or a policy chooses (no node, no name, no text), so the number of series is bounded and no secret
can be among them.
"""

from __future__ import annotations

import platform
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import grpc
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from xds.admin.http import Page
from xds.canary import End, Stage
from xds.policy.model import HeldPolicy
from xds.staging import StagedCache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from prometheus_client.metrics_core import Metric

    from xds.admin.readiness import Readiness
    from xds.cache import SnapshotCache
    from xds.clients import Clients
    from xds.reconcile import Reconciler

_PREFIX = "egress_xds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A collection of the API server as it is followed; `resource` is a kind of object, such as `pods`."""

    resource: str
    objects: int
    lists: int
    watches: int
    events: int
    errors: int
    is_current: bool
    """Whether nothing keeps it from being up to date."""


def _nothing_watched() -> tuple[Watched, ...]:
    return ()


def _nothing_reviewed() -> Mapping[tuple[str, str], int]:
    return {}


def _no_certificate() -> Mapping[str, float]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """The parts of the process that are looked at."""

    clients: Clients
    cache: SnapshotCache
    reconciler: Reconciler
    readiness: Readiness
    watched: Callable[[], tuple[Watched, ...]] = _nothing_watched
    awaited: Callable[[], tuple[str, ...]] = tuple
    """What has to come before it can be ready, and what keeps it from coming; for people."""
    reviews: Callable[[], Mapping[tuple[str, str], int]] = _nothing_reviewed
    """Questions of the API server, by path and outcome."""
    certificate_ends: Callable[[], Mapping[str, float]] = _no_certificate
    """When the server's own certificate ends, in seconds since the epoch, by what it is in force for."""


def metrics_page(observed: Observed) -> Callable[[], Page]:
    """Return the page `/metrics`, in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(observed))
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    return lambda: Page(generate_latest(registry), content_type=CONTENT_TYPE_PLAIN_0_0_4)


class _Collector(Collector):
    def __init__(self, observed: Observed) -> None:
        self._observed = observed

    def collect(self) -> Iterable[Metric]:
        yield _build_info()
        yield GaugeMetricFamily(
            f"{_PREFIX}_ready", "Whether new clients may come.", float(self._observed.readiness.reason is None)
        )
        yield from self._streams()
        yield from self._exchanges()
        yield from self._policies()
        yield from self._passes()
        yield from _collections(self._observed.watched())
        yield _reviews(self._observed.reviews())
        yield _certificate(self._observed.certificate_ends())
        if isinstance(self._observed.cache, StagedCache):
            yield from _trials(self._observed.cache)

    def _streams(self) -> Iterable[Metric]:
        clients = self._observed.clients.connected()
        opened = CounterMetricFamily(f"{_PREFIX}_streams_opened", "Streams opened.", labels=["variant"])
        now = GaugeMetricFamily(f"{_PREFIX}_streams", "Streams that are open.", labels=["variant"])
        count = Counter(client.variant for client in clients)
        for variant, total in self._observed.clients.opened.items():
            opened.add_metric([variant], total)
            now.add_metric([variant], count[variant])
        rejecting = GaugeMetricFamily(
            f"{_PREFIX}_streams_rejecting", "Streams whose last answer for a type was a NACK.", labels=["type"]
        )
        refused = Counter(kind for client in clients for kind, status in client.types.items() if status.is_rejected)
        for kind in sorted({kind for _, kind in self._observed.clients.totals}, key=lambda kind: kind.name):
            rejecting.add_metric([kind.name.lower()], refused[kind])
        behind = sum(any(not status.is_current for status in client.types.values()) for client in clients)
        turned_away = CounterMetricFamily(
            f"{_PREFIX}_streams_refused", "Streams refused before they began.", labels=["status"]
        )
        for status, total in self._observed.clients.refused.items():
            turned_away.add_metric([status], total)
        yield from (opened, now, rejecting, turned_away)
        yield GaugeMetricFamily(
            f"{_PREFIX}_streams_behind", "Streams that have not accepted the newest they were sent.", behind
        )

    def _exchanges(self) -> Iterable[Metric]:
        labels = ["variant", "type"]
        responses = CounterMetricFamily(f"{_PREFIX}_responses", "Responses sent.", labels=labels)
        sent = CounterMetricFamily(f"{_PREFIX}_response_bytes", "Bytes of responses, without HTTP/2.", labels=labels)
        acks = CounterMetricFamily(f"{_PREFIX}_acks", "Responses that clients applied.", labels=labels)
        nacks = CounterMetricFamily(f"{_PREFIX}_nacks", "Responses that clients refused.", labels=labels)
        for (variant, kind), totals in self._observed.clients.totals.items():
            values = [variant, kind.name.lower()]
            responses.add_metric(values, totals.responses)
            sent.add_metric(values, totals.sent_bytes)
            acks.add_metric(values, totals.acks)
            nacks.add_metric(values, totals.nacks)
        yield from (responses, sent, acks, nacks)

    def _policies(self) -> Iterable[Metric]:
        state, world = self._observed.reconciler.state, self._observed.cache.world
        candidates = () if world is None else world.candidates
        policies = GaugeMetricFamily(
            f"{_PREFIX}_policies", "Policies in force, and such as keep their pods from any other.", labels=["state"]
        )
        held = sum(isinstance(candidate, HeldPolicy) for candidate in candidates)
        policies.add_metric(["in_force"], len(candidates) - held)
        policies.add_metric(["held"], held)
        documents = GaugeMetricFamily(
            f"{_PREFIX}_documents",
            "Policy documents: good, refused with the last good version in force, refused without one.",
            labels=["state"],
        )
        bad = [document for document in state.documents if not document.is_good]
        kept = sum(document.has_last_good for document in bad)
        documents.add_metric(["good"], len(state.documents) - len(bad))
        documents.add_metric(["last_good"], kept)
        documents.add_metric(["bad"], len(bad) - kept)
        yield from (policies, documents)

    def _passes(self) -> Iterable[Metric]:
        passes, state = self._observed.reconciler.passes, self._observed.reconciler.state
        yield SummaryMetricFamily(
            f"{_PREFIX}_pass_seconds", "Passes that read, compiled and published.", passes.count, passes.seconds
        )
        yield GaugeMetricFamily(
            f"{_PREFIX}_last_pass_timestamp_seconds", "When the last pass without a problem ended.", passes.last_at
        )
        yield GaugeMetricFamily(
            f"{_PREFIX}_pass_failing", "Whether the last pass came to nothing.", float(state.problem is not None)
        )
        yield CounterMetricFamily(
            f"{_PREFIX}_pushes", "Changes of what is served, each pushed at once.", self._observed.cache.changes
        )


def _collections(watched: tuple[Watched, ...]) -> Iterable[Metric]:
    if not watched:
        return
    prefix, labels = f"{_PREFIX}_kubernetes", ["resource"]
    objects = GaugeMetricFamily(f"{prefix}_objects", "Objects of the API server that are known.", labels=labels)
    current = GaugeMetricFamily(f"{prefix}_current", "Whether they can be followed at the moment.", labels=labels)
    lists = CounterMetricFamily(f"{prefix}_lists", "Lists that were begun.", labels=labels)
    watches = CounterMetricFamily(f"{prefix}_watches", "Watches that were begun.", labels=labels)
    events = CounterMetricFamily(f"{prefix}_events", "Events that came.", labels=labels)
    errors = CounterMetricFamily(f"{prefix}_errors", "Requests that failed or were refused.", labels=labels)
    for one in watched:
        values = [one.resource]
        objects.add_metric(values, one.objects)
        current.add_metric(values, float(one.is_current))
        lists.add_metric(values, one.lists)
        watches.add_metric(values, one.watches)
        events.add_metric(values, one.events)
        errors.add_metric(values, one.errors)
    yield from (objects, current, lists, watches, events, errors)


def _certificate(ends: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(
        f"{_PREFIX}_tls_certificate_not_after_seconds",
        "When the server's certificate ends, in seconds since the epoch.",
        labels=["use"],
    )
    for use, moment in ends.items():
        family.add_metric([use], moment)
    return family


def _reviews(counted: Mapping[tuple[str, str], int]) -> Metric:
    reviews = CounterMetricFamily(
        f"{_PREFIX}_reviews", "Questions of the API server, by what became of them.", labels=["path", "outcome"]
    )
    for labels, total in counted.items():
        reviews.add_metric(labels, total)
    return reviews


def _trials(cache: StagedCache) -> Iterable[Metric]:
    policies = GaugeMetricFamily(
        f"{_PREFIX}_canary_policies", "Policies whose newest version is on trial or was refused.", labels=["state"]
    )
    stages = Counter(rollout.stage for rollout in cache.rollouts.values())
    for stage in (Stage.TRIAL, Stage.REFUSED):
        policies.add_metric([stage.value], stages[stage])
    ended = CounterMetricFamily(f"{_PREFIX}_canary_trials", "Trials that ended, by how.", labels=["outcome"])
    for end in End:
        ended.add_metric([end.value], cache.ended[end])
    yield from (policies, ended)


def _build_info() -> Metric:
    try:
        own = version("egress-xds")
    except PackageNotFoundError:  # run from a source tree
        own = "unknown"
    info = GaugeMetricFamily(f"{_PREFIX}_build_info", "What runs.", labels=["version", "python", "grpc"])
    info.add_metric([own, platform.python_version(), str(grpc.__version__)], 1)
    return info
