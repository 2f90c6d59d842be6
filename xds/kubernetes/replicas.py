"""
What the streams of all replicas make of the policies: each tells of its own, and everybody can add them up.

A replica keeps a Lease of its own, whose annotation holds three numbers for each policy. Who reads them notes on its
own clock when each last changed, so that one which is gone stops to count, whatever its clock said. The leader removes
those long gone. Nothing here decides who leads or writes on policies. Invariants: no two processes write one Lease,
even if they are called the same; what is told is bounded, and a text that somebody else wrote into such a Lease can't
do more than make numbers wrong.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from hashlib import sha256
from math import inf
from secrets import token_hex
from typing import TYPE_CHECKING

from xds.kubernetes.asking import CONFLICT, NOT_FOUND, Complaints, Environs, micro_time
from xds.kubernetes.connection import ApiError
from xds.kubernetes.lease import leases_path
from xds.kubernetes.status import MAX_REFUSAL, Streams, one_line, tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from xds.judge import PolicyKey
    from xds.kubernetes.asking import Asking
    from xds.kubernetes.status import Tally

REPLICA_LABEL = "egress-xds/replica"
STREAMS_ANNOTATION = "egress-xds/streams"

_MAX_POLICIES = 5_000
"""Policies that one replica tells of: some 200 KiB of the 256 KiB that all annotations of an object may have."""
_MAX_REFUSALS = 20
_MAX_COUNT = 10_000_000
_MAX_TEXT = 250_000
_TIMEOUT = 5.0
_SHARE = 40
"""Counting takes at most one part in so many of the time: with thousands of streams it holds up what serves them."""
_UNSAFE = re.compile(r"[^a-z0-9-]+")
_LONGEST_IDENTITY = 100
"""Characters of it in the name of a Lease, which has at most 253."""

Counts = dict[str, Streams]
"""Streams by the digest of their policy: the longest names of policies would not fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often replicas tell and look, in seconds."""

    look: float = 5.0
    """Between two looks; a change of the own numbers is told then, too."""
    refresh: float = 15.0
    """What did not change is told again."""
    stale: float = 40.0
    """What was not told again for so long counts no more."""
    gone: float = 120.0
    """What was not told again for so long is removed; who was only slow tells it anew."""


@dataclass(frozen=True, slots=True)
class _Report:
    """What was last seen of a replica, and since when it is unchanged."""

    version: str
    since: float
    counts: Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One replica among those of an installation."""

    namespace: str
    """The control plane's own."""
    identity: str
    """What people call it; a pod's name. Nothing breaks if two have the same."""
    prefix: str = "egress-xds"
    """Begins the name of the Lease."""
    token: str = field(default_factory=lambda: token_hex(4))
    """Tells this process from every other: of its predecessor's numbers and lead it has nothing."""

    @property
    def process(self) -> str:
        """The identity, with what no other process has."""
        return f"{self.identity}_{self.token}"

    @property
    def lease(self) -> str:
        """The name of the Lease that holds its report."""
        plain = _UNSAFE.sub("-", self.identity.lower()).strip("-")[:_LONGEST_IDENTITY]
        return f"{self.prefix}-replica-{plain}-{self.token}"


class Replicas:
    """
    A replica's part: telling of its own streams, and knowing of those of all.

    `streams` counts its own (see `count_streams`) and is called every `pace.look` seconds; `leads` says whether this
    replica is the one that tidies up.
    """

    def __init__(
        self,
        api: Asking,
        member: Member,
        *,
        streams: Callable[[], Mapping[PolicyKey, Streams]],
        leads: Callable[[], bool],
        pace: Pace | None = None,
        environs: Environs | None = None,
    ) -> None:
        self._api = api
        self._namespace = member.namespace
        self._name = member.lease
        self._holder = member.process
        self._streams = streams
        self._leads = leads
        self._pace = pace or Pace()
        self._environs = environs or Environs()
        self._own: Counts = {}
        self._told: tuple[str, float] = ("", -inf)
        self._reports: dict[str, _Report] = {}
        self._totals: Counts = {}
        self.has_looked = False
        """Whether the numbers of the others were asked for at least once, with or without success."""
        self._complaints = Complaints()

    def streams_of(self, policy: PolicyKey) -> Streams:
        """Return what the streams of all replicas make of a policy."""
        return self._totals.get(digest(policy), Streams())

    def tallies(
        self, policies: Iterable[PolicyKey], expected: Mapping[PolicyKey, int] | None
    ) -> Mapping[PolicyKey, Tally]:
        """
        Set them against the pods that are expected to have a stream; None: nobody knows which those are.

        Nor is it known of a policy for which none is expected, and which has streams: somebody added its sidecars.
        """
        return {key: tally(self.streams_of(key), None if expected is None else expected.get(key)) for key in policies}

    async def run(self) -> None:
        """Tell and look until cancelled; then strike the own report out, so that its streams stop to count."""
        try:
            while True:
                began = self._environs.monotonic()
                self._own = {digest(key): streams for key, streams in self._streams().items()}
                took = self._environs.monotonic() - began
                await self._turn()
                pause = min(max(self._pace.look, took * _SHARE), self._pace.refresh)
                await self._environs.sleep(pause * (0.9 + self._environs.chance() / 5))
        finally:
            await self._remove(self._name, None)

    async def _turn(self) -> None:
        await self._tell()
        await self._look()
        now = self._environs.monotonic()
        others = [item.counts for item in self._reports.values() if now < item.since + self._pace.stale]
        self._totals = add_up([self._own, *others])
        self.has_looked = True
        if self._leads():
            for name, report in tuple(self._reports.items()):
                if now >= report.since + self._pace.gone:
                    await self._remove(name, report.version)

    async def _tell(self) -> None:
        text, now = render_counts(self._own), self._environs.monotonic()
        if text == self._told[0] and now < self._told[1] + self._pace.refresh:
            return
        body = self._lease(text)
        try:
            try:
                await self._ask("PATCH", self._name, body)
            except ApiError as error:
                if error.status != NOT_FOUND:
                    raise
                await self._ask("POST", "", {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", **body})
        except ApiError as error:
            self._complaints.note(error, "create, patch", "leases", self._namespace)
            return
        self._complaints.settle("create, patch", "leases", self._namespace)
        self._told = (text, now)

    async def _look(self) -> None:
        try:
            found = await self._api.request(
                "GET",
                leases_path(self._namespace),
                query={"labelSelector": f"{REPLICA_LABEL}=true"},
                timeout=_TIMEOUT,
            )
        except ApiError as error:
            self._complaints.note(error, "list", "leases", self._namespace)
            return
        self._complaints.settle("list", "leases", self._namespace)
        now = self._environs.monotonic()
        items = found.get("items")
        leases = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
        seen = dict(_read_report(lease, now) for lease in leases)
        seen.pop(self._name, None)
        known = self._reports
        self._reports = {
            name: known[name] if name in known and known[name].version == report.version else report
            for name, report in seen.items()
        }

    async def _remove(self, name: str, version: str | None) -> None:
        """Delete a report, if it is still the one that was seen."""
        options = {} if version is None else {"preconditions": {"resourceVersion": version}}
        try:
            await self._ask("DELETE", name, {"apiVersion": "v1", "kind": "DeleteOptions", **options})
        except ApiError as error:
            if error.status not in {NOT_FOUND, CONFLICT}:
                self._complaints.note(error, "delete", "leases", self._namespace)
        else:
            self._reports.pop(name, None)

    async def _ask(self, method: str, name: str, body: Mapping[str, object]) -> None:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        path = leases_path(self._namespace) + (f"/{name}" if name else "")
        await self._api.request(method, path, body=body, content_type=kind, timeout=_TIMEOUT)

    def _lease(self, text: str) -> Mapping[str, object]:
        return {
            "metadata": {
                "name": self._name,
                "labels": {REPLICA_LABEL: "true"},
                "annotations": {STREAMS_ANNOTATION: text},
            },
            "spec": {
                "holderIdentity": self._holder,
                "leaseDurationSeconds": max(int(self._pace.stale), 1),
                "renewTime": micro_time(self._environs.wall()),
            },
        }


def digest(policy: PolicyKey) -> str:
    """Return a short name of a policy, which no two have in common."""
    namespace, name = policy
    return sha256(f"{'' if namespace is None else namespace}/{name}".encode()).hexdigest()[:12]


def add_up(reports: Iterable[Counts]) -> Counts:
    """Return the sums of what all replicas tell."""
    found: Counts = {}
    for report in reports:
        for key, streams in report.items():
            found[key] = found[key].plus(streams) if key in found else streams
    return found


def render_counts(counts: Counts) -> str:
    """Return counts as they are told: bounded, and equal for equal counts."""
    refusals = 0
    rows: dict[str, list[int | str]] = {}
    for key, streams in sorted(counts.items())[:_MAX_POLICIES]:
        rows[key] = [streams.connected, streams.acknowledged, streams.refused]
        if streams.refusal and refusals < _MAX_REFUSALS:
            rows[key].append(streams.refusal)
            refusals += 1
    return json.dumps(rows, separators=(",", ":"))


def read_counts(text: str) -> Counts:
    """Read what a replica tells; what is not as `render_counts` writes it is left out."""
    if len(text) > _MAX_TEXT:
        return {}
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(rows, dict):
        return {}
    return {key: streams for key, row in rows.items() if (streams := _read_row(row)) is not None}


def _read_row(row: object) -> Streams | None:
    match row:
        case [int(connected), int(acknowledged), int(refused), *rest] if (
            min(connected, acknowledged, refused) >= 0 and max(connected, acknowledged, refused) <= _MAX_COUNT
        ):
            refusal = one_line(rest[0][:MAX_REFUSAL]) if rest and isinstance(rest[0], str) else ""
            return Streams(connected=connected, acknowledged=acknowledged, refused=refused, refusal=refusal)
        case _:
            return None


def _read_report(lease: Mapping[str, object], now: float) -> tuple[str, _Report]:
    metadata = lease.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    annotations = metadata.get("annotations")
    text = annotations.get(STREAMS_ANNOTATION, "") if isinstance(annotations, dict) else ""
    counts = read_counts(text) if isinstance(text, str) else {}
    return str(metadata.get("name")), _Report(str(metadata.get("resourceVersion")), now, counts)
