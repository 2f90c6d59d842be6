"""
The loop that keeps what operators read true: status on the ConfigMaps of policies, and Events about them.

Level-triggered: each turn compares what is to be told now with what is on the object, and writes what differs. What is
on an object is read once, when this replica begins to lead, and again from time to time, so that a new leader writes
nothing that is there already and what somebody removed comes back. Nothing here counts or judges. Invariants: who does
not lead writes nothing, a write touches no key but our own, and no ConfigMap ever comes into being by it.

What is not told: that a proxy refused a login. Envoys know it, the control plane does not.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING

from xds.kubernetes.asking import CONFLICT, FORBIDDEN, INVALID, NOT_FOUND, Complaints, Environs
from xds.kubernetes.backoff import Backoff
from xds.kubernetes.connection import METADATA_EVENTS, ApiError
from xds.kubernetes.events import POLICY_ACCEPTED, POLICY_REFUSED, REFUSED_BY_ENVOY, Note
from xds.kubernetes.status import ACCEPTED, OURS, counted_keys, read_statuses, told_refusal, told_verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping

    from xds.judge import PolicyKey
    from xds.kubernetes.asking import Asking
    from xds.kubernetes.events import EventWriter
    from xds.kubernetes.status import ObjectKey, PolicyStatus, Tally
    from xds.reconcile import State

FIELD_MANAGER = "egress-xds-status"
"""Owns the keys that are written, so that nobody's apply takes them away or is blamed for them."""

_HOPELESS = 60.0
"""Seconds until what was forbidden or not found is tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often to look and to write, in seconds."""

    look: float = 1.0
    """Between two looks at the reconciler's state, and between two writes of one object."""
    counts: float = 5.0
    """Between two counts of pods, and between two writes of one object for no more than its counts."""
    check: float = 300.0
    """Until an object is read again."""
    timeout: float = 5.0
    """Of a request: less than others wait after a leader stops to lead."""
    at_once: int = 4
    """Requests at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What is on an object: our own keys, and nothing else."""

    uid: str
    annotations: Mapping[str, str]
    labels: Mapping[str, str]
    read_at: float
    written_at: float = -inf
    status: PolicyStatus | None = None
    """What was last compared with it, so that it need not be rendered again."""

    def has(self, status: PolicyStatus) -> bool:
        return self.annotations == status.annotations() and self.labels == status.labels()


@dataclass(frozen=True, slots=True)
class _Failing:
    """An object that could not be read or written."""

    backoff: Backoff
    retry_at: float


class StatusWriter:
    """
    See the module.

    `leads` says whether this replica may write, `state` is the reconciler's and `tallies` says how the pods of these
    stand, which are policies and refused documents (see `Replicas.tallies`); it is called every `pace.counts` seconds,
    by the leader.
    """

    def __init__(
        self,
        api: Asking,
        *,
        leads: Callable[[], bool],
        state: Callable[[], State],
        tallies: Callable[[Iterable[PolicyKey]], Mapping[PolicyKey, Tally]],
        events: EventWriter,
        pace: Pace | None = None,
        environs: Environs | None = None,
    ) -> None:
        self._api = api
        self._leads = leads
        self._state = state
        self._tallies = tallies
        self._events = events
        self._pace = pace or Pace()
        self._environs = environs or Environs()
        self._wake = asyncio.Event()
        self._known: dict[ObjectKey, _Known] = {}
        self._failing: dict[ObjectKey, _Failing] = {}
        self._seen: State | None = None
        self._counted_at = -inf
        self._statuses: Mapping[ObjectKey, PolicyStatus] = {}
        self._complaints = Complaints()

    def wake(self) -> None:
        """Have it look now, and not only at its next turn."""
        self._wake.set()

    async def run(self) -> None:
        """Write what differs, as long as this replica leads, until cancelled."""
        while True:
            if self._leads():
                await self._turn()
            else:
                self._forget()
            await self._pause()

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._pace.look):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    def _forget(self) -> None:
        """Know nothing: others write now."""
        self._known.clear()
        self._failing.clear()
        self._seen = None

    async def _turn(self) -> None:
        self._read()
        slots = asyncio.Semaphore(self._pace.at_once)
        async with asyncio.TaskGroup() as group:
            for gone in (self._known.keys() | self._failing.keys()) - self._statuses.keys():
                self._failing.pop(gone, None)
                if (known := self._known.pop(gone, None)) is not None:
                    group.create_task(self._clear(gone, known, slots))
            for key, status in self._statuses.items():
                if self._is_due(key, status):
                    group.create_task(self._converge(key, status, slots))

    def _read(self) -> None:
        """Find out what is to be told; that is work, and is done for a reason."""
        state, now = self._state(), self._environs.monotonic()
        if state is self._seen and now < self._counted_at + self._pace.counts:
            return
        self._statuses = read_statuses(state, self._tallies(counted_keys(state)))
        self._seen, self._counted_at = state, now

    def _is_due(self, key: ObjectKey, status: PolicyStatus) -> bool:
        now = self._environs.monotonic()
        failing, known = self._failing.get(key), self._known.get(key)
        if failing is not None and now < failing.retry_at:
            return False
        if known is None or now >= known.read_at + self._pace.check:
            return True
        if known.status == status:
            return False
        told = told_verdict(known.annotations)
        is_news = told is None or told[0] != status.verdict
        return now >= known.written_at + (self._pace.look if is_news else self._pace.counts)

    async def _converge(self, key: ObjectKey, status: PolicyStatus, slots: asyncio.Semaphore) -> None:
        """Read the object if it has to be, write it if it differs, and tell what changed."""
        async with slots:
            before = await self._attempt("get", key, self._get(key))
            if before is None or not self._leads():
                return
            dated = status.at_least_since(before.annotations)
            if before.has(dated):
                self._known[key] = replace(before, status=status)
                self._failing.pop(key, None)
                return
            after = await self._attempt("patch", key, self._apply(key, before, dated))
            if after is None:
                return
            self._known[key] = replace(after, status=status)
            self._failing.pop(key, None)
            for note in tell_changes(key, after.uid, before.annotations, dated):
                await self._events.tell(note)

    async def _clear(self, key: ObjectKey, known: _Known, slots: asyncio.Semaphore) -> None:
        """Take back what was told of an object that is no policy any more, if there still is one."""
        async with slots:
            try:
                found = await self._ask_for(key)
                if found.uid == known.uid and (found.annotations or found.labels) and self._leads():
                    await self._patch(key, found.uid, {}, {})
            except ApiError as error:
                if error.status not in {NOT_FOUND, CONFLICT}:
                    self._complaints.note(error, "get, patch", "configmaps", key[0])

    async def _attempt(self, verb: str, key: ObjectKey, request: Coroutine[object, object, _Known]) -> _Known | None:
        try:
            found = self._known[key] = await request
        except ApiError as error:
            self._fail(key, verb, error)
            return None
        self._complaints.settle(verb, "configmaps", key[0])
        return found

    def _fail(self, key: ObjectKey, verb: str, error: ApiError) -> None:
        """Note that an object could not be read or written, and when to try again."""
        # Deleted, or made anew under its name: what was known is of another object.
        if error.status in {NOT_FOUND, CONFLICT, INVALID}:
            self._known.pop(key, None)
        if error.status not in {NOT_FOUND, CONFLICT}:
            self._complaints.note(error, verb, "configmaps", key[0])
        backoff = self._failing[key].backoff if key in self._failing else Backoff(first=1.0, cap=_HOPELESS)
        wait = backoff.next(self._environs.chance(), retry_after=error.retry_after)
        if error.status in {NOT_FOUND, FORBIDDEN}:
            wait = max(wait, _HOPELESS)
        self._failing[key] = _Failing(backoff, self._environs.monotonic() + wait)

    async def _get(self, key: ObjectKey) -> _Known:
        known = self._known.get(key)
        if known is None:
            return await self._ask_for(key)
        if self._environs.monotonic() < known.read_at + self._pace.check:
            return known
        return replace(await self._ask_for(key), written_at=known.written_at)

    async def _ask_for(self, key: ObjectKey) -> _Known:
        found = await self._api.request("GET", _path(key), accept=METADATA_EVENTS, timeout=self._pace.timeout)
        metadata = found.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        # Not all at the same moment: the objects of one leader are all read when it begins.
        spread = self._pace.check * self._environs.chance() / 4
        return _Known(
            uid=str(metadata.get("uid", "")),
            annotations=_texts(metadata, "annotations", OURS),
            labels=_texts(metadata, "labels", (ACCEPTED,)),
            read_at=self._environs.monotonic() - spread,
        )

    async def _apply(self, key: ObjectKey, known: _Known, status: PolicyStatus) -> _Known:
        annotations, labels = status.annotations(), status.labels()
        await self._patch(key, known.uid, annotations, labels)
        return replace(known, annotations=annotations, labels=labels, written_at=self._environs.monotonic())

    async def _patch(self, key: ObjectKey, uid: str, annotations: Mapping[str, str], labels: Mapping[str, str]) -> None:
        # An apply makes what is not there. With the uid of what is to be written it is refused instead.
        metadata = {"name": key[1], "uid": uid, "annotations": annotations, "labels": labels}
        await self._api.request(
            "PATCH",
            _path(key),
            query={"fieldManager": FIELD_MANAGER, "force": "true"},
            body={"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata},
            content_type="application/apply-patch+yaml",
            accept=METADATA_EVENTS,
            timeout=self._pace.timeout,
        )


def tell_changes(key: ObjectKey, uid: str, before: Mapping[str, str], status: PolicyStatus) -> Iterable[Note]:
    """Yield the Events of what changed since `before`, the annotations that the object had."""
    told = told_verdict(before)
    if status.is_accepted and (told is None or not told[1]):
        text = f"in force: {status.policies} of its policies" if status.policies else "there is no policy in it"
        yield Note(key=key, uid=uid, reason=POLICY_ACCEPTED, message=text)
    if not status.is_accepted and (told is None or told[0] != status.verdict):
        yield Note(key=key, uid=uid, reason=POLICY_REFUSED, message=_refused(status), is_warning=True)
    refusal = status.tally.refusal
    if refusal and refusal != told_refusal(before):
        yield Note(key=key, uid=uid, reason=REFUSED_BY_ENVOY, message=refusal, is_warning=True)


def _refused(status: PolicyStatus) -> str:
    more = len(status.findings) - 1
    found = f"{status.findings[0]}" if status.findings else "see the log of the control plane"
    return found + (f" (and {more} more)" if more > 0 else "")


def _path(key: ObjectKey) -> str:
    return f"/api/v1/namespaces/{key[0]}/configmaps/{key[1]}"


def _texts(metadata: Mapping[str, object], kind: str, keys: Iterable[str]) -> Mapping[str, str]:
    found = metadata.get(kind)
    found = found if isinstance(found, dict) else {}
    return {key: found[key] for key in keys if isinstance(found.get(key), str)}
