"""
Which replica leads: the one that holds a Lease.

Who leads writes what operators read; who does not only looks. The Lease is renewed well before it ends, and a leader
that can't renew it stops leading before anybody else may take it. Nothing here says what a leader does. Invariant: as
long as no clock runs half as fast again as another, there are never two leaders at one moment, whatever becomes of
requests; moments that other machines wrote are never compared with a clock here, only with one another.

The package `kubernetes` has an election too, in `kubernetes.aio.leaderelection`. It is not used: it measures on a
clock that may be set, waits for a renewal without a limit while it goes on leading, knows no release, ends once it
lost, falls over a connection that breaks, and writes local time as if it were UTC.

One gap is left, the one that every election of this kind has: if somebody deletes the Lease, a replica that never saw
it takes the lead at once, while the old leader goes on until its time is over.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import ceil, inf
from typing import TYPE_CHECKING

import structlog

from xds.kubernetes.asking import CONFLICT, NOT_FOUND, Complaints, Environs, micro_time
from xds.kubernetes.connection import ApiError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds.kubernetes.asking import Asking

_RELEASED = 1
"""Seconds that a Lease is good for which nobody holds; the API server takes no 0."""

_LONGEST = 3600
"""Seconds of a Lease that are believed."""

_RELEASE_TIMEOUT = 2.0

_REMEMBERED = 32
"""Own bids: more than there are in the time of a Lease."""

_log = structlog.get_logger(__name__)


def leases_path(namespace: str) -> str:
    """Return the path of the Leases in `namespace` (coordination.k8s.io/v1)."""
    return f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"


@dataclass(frozen=True, slots=True, kw_only=True)
class Durations:
    """How long things take, in seconds."""

    lease: float = 15.0
    """Others wait that long after the last renewal that they saw."""
    renew_deadline: float = 10.0
    """A leader leads that long after it asked for the last renewal that succeeded."""
    retry: float = 2.0
    """Between two attempts."""

    def __post_init__(self) -> None:
        assert 0 < self.retry < self.renew_deadline < self.lease, "a leader must stop before others may start"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a Lease says."""

    holder: str
    duration: float
    acquired: str
    renewed: str
    transitions: int


def read_record(lease: Mapping[str, object], durations: Durations) -> Record:
    """Read a Lease; what is missing or odd counts as held by nobody, or as the usual time."""
    spec = lease.get("spec")
    spec = spec if isinstance(spec, dict) else {}
    duration, transitions = spec.get("leaseDurationSeconds"), spec.get("leaseTransitions")
    return Record(
        holder=_text(spec.get("holderIdentity")),
        duration=min(duration, _LONGEST) if isinstance(duration, int) and duration > 0 else durations.lease,
        acquired=_text(spec.get("acquireTime")),
        renewed=_text(spec.get("renewTime")),
        transitions=transitions if isinstance(transitions, int) else 0,
    )


class Election:
    """
    What one candidate knows and may do; it asks nobody, and all times are on its own clock.

    `bid` says what to write after looking; `win` has to be told when that was taken. What was bid may have been taken
    though the answer was lost, so the Lease is its own if it says what it bid lately.
    """

    def __init__(self, identity: str, durations: Durations) -> None:
        self._identity = identity
        self._durations = durations
        self._seen: Record | None = None
        self._seen_at = -inf
        self._leads_until = -inf
        self._bids: deque[str] = deque(maxlen=_REMEMBERED)

    def is_leader(self, now: float) -> bool:
        """Whether this candidate leads."""
        return now < self._leads_until

    def bid(self, found: Record | None, now: float, wall: str) -> Record | None:
        """Look at the Lease (None: there is none) and return what to write; None: somebody else holds it."""
        if found is not None and found != self._seen:
            self._seen, self._seen_at = found, now
        held = self._seen
        is_mine = held is not None and self._is_mine(held)
        if found is not None and not is_mine:
            self.resign()
        if held is not None and held.holder and not is_mine and now < self._seen_at + held.duration:
            return None
        self._bids.append(wall)
        return Record(
            holder=self._identity,
            duration=ceil(self._durations.lease),
            acquired=held.acquired if held is not None and is_mine and held.acquired else wall,
            renewed=wall,
            transitions=0 if held is None else held.transitions + (not is_mine),
        )

    def win(self, written: Record, asked_at: float, now: float) -> None:
        """Learn that the API server took `written`, which it was asked at `asked_at`."""
        self._seen, self._seen_at = written, now
        self._leads_until = asked_at + self._durations.renew_deadline

    def resign(self) -> None:
        """Lead no longer."""
        self._leads_until = -inf

    def patience(self, now: float) -> float:
        """Return the seconds until there is something to do, if nobody writes meanwhile."""
        held = self._seen
        if held is None or not held.holder or self._is_mine(held):
            return self._durations.retry
        return min(self._durations.retry, max(self._seen_at + held.duration - now, 0.0))

    def _is_mine(self, held: Record) -> bool:
        return held.holder == self._identity and held.renewed in self._bids


class LeaderLease:
    """
    One replica's part in the election for the Lease `name`.

    `identity` is for people. A process knows its own renewals, so two of one name do not both lead, and one that was
    started again after a crash waits like any other.
    """

    def __init__(
        self,
        api: Asking,
        *,
        namespace: str,
        name: str,
        identity: str,
        durations: Durations | None = None,
        environs: Environs | None = None,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._durations = durations or Durations()
        self._environs = environs or Environs()
        self._election = Election(identity, self._durations)
        self._lease: dict[str, object] | None = None
        self._led = False
        self._complaints = Complaints()

    @property
    def is_leader(self) -> bool:
        """Whether this replica leads at this very moment."""
        return self._election.is_leader(self._environs.monotonic())

    async def run(self) -> None:
        """Take part until cancelled; then release the Lease, so that another takes it at once."""
        try:
            while True:
                await self._try()
                self._tell()
                pause = self._election.patience(self._environs.monotonic())
                # Earlier by chance, never later, so that candidates do not ask in step and none is late.
                await self._environs.sleep(max(pause * (0.8 + self._environs.chance() / 5), 0.01))
        finally:
            await self._release()

    async def _try(self) -> None:
        """Renew, take or look. A conflict means that the Lease is not what it was, so it is read anew once."""
        for _ in range(2):
            verb = "get"
            try:
                if self._lease is None or not self.is_leader:
                    self._lease = await self._read()
                verb = "create" if self._lease is None else "update"
                await self._bid()
            except ApiError as error:
                self._lease = None
                if error.status not in {CONFLICT, NOT_FOUND}:
                    self._complaints.note(error, verb, "leases", self._namespace)
                    return
            else:
                for done in ("get", verb):
                    self._complaints.settle(done, "leases", self._namespace)
                return

    async def _read(self) -> dict[str, object] | None:
        try:
            return await self._api.request("GET", self._path, timeout=self._timeout)
        except ApiError as error:
            if error.status == NOT_FOUND:
                return None
            raise

    async def _bid(self) -> None:
        asked_at = self._environs.monotonic()
        found = None if self._lease is None else read_record(self._lease, self._durations)
        record = self._election.bid(found, asked_at, micro_time(self._environs.wall()))
        if record is not None:
            self._lease = await self._write(record, self._timeout)
            self._election.win(read_record(self._lease, self._durations), asked_at, self._environs.monotonic())

    async def _write(self, record: Record, timeout: float) -> dict[str, object]:  # noqa: ASYNC109  # of one request
        if self._lease is None:
            body: dict[str, object] = {**_HEAD, "metadata": {"name": self._name}, "spec": _spec(record)}
            return await self._api.request("POST", leases_path(self._namespace), body=body, timeout=timeout)
        # The resource version in it makes the server refuse what is based on an older Lease.
        body = {**self._lease, "spec": _spec(record)}
        return await self._api.request("PUT", self._path, body=body, timeout=timeout)

    async def _release(self) -> None:
        was_leader = self.is_leader
        self._election.resign()
        self._tell()
        if not was_leader or self._lease is None:
            return
        held, now = read_record(self._lease, self._durations), micro_time(self._environs.wall())
        record = Record(
            holder="", duration=_RELEASED, acquired=held.acquired, renewed=now, transitions=held.transitions
        )
        try:
            await self._write(record, _RELEASE_TIMEOUT)
        except ApiError as error:
            _log.info("the lead could not be handed over; another takes it later", reason=error.reason)

    def _tell(self) -> None:
        leads = self.is_leader
        if leads != self._led:
            _log.info("this replica leads" if leads else "this replica leads no longer", lease=self._name)
        self._led = leads

    @property
    def _path(self) -> str:
        return f"{leases_path(self._namespace)}/{self._name}"

    @property
    def _timeout(self) -> float:
        """Seconds for a request: a second attempt must fit before the deadline."""
        return self._durations.renew_deadline / 2


_HEAD: Mapping[str, object] = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}


def _spec(record: Record) -> dict[str, object]:
    return {
        "holderIdentity": record.holder,
        "leaseDurationSeconds": int(record.duration),
        "acquireTime": record.acquired or None,
        "renewTime": record.renewed,
        "leaseTransitions": record.transitions,
    }


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
