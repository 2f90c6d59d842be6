"""
Events on a policy's ConfigMap: what `kubectl describe` shows below it, each said once and then counted.

An Event is for people and may be lost: nothing waits for one, and none is tried again. Which to tell, and which
request that takes, is decided purely; sending is the last step. Invariants: the same Event is written at most every few
minutes, one object gets so many at once and few from then on, and what is remembered is bounded.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING

from xds.errors import redact_logins
from xds.kubernetes.asking import CONFLICT, NOT_FOUND, Complaints, Environs, whole_time
from xds.kubernetes.connection import ApiError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds.kubernetes.asking import Asking
    from xds.kubernetes.status import ObjectKey

COMPONENT = "egress-xds"

POLICY_ACCEPTED = "PolicyAccepted"
POLICY_REFUSED = "PolicyRefused"
REFUSED_BY_ENVOY = "RefusedByEnvoy"

_MAX_MESSAGE = 1_000
"""Bytes; the API server takes a kibibyte."""
_MAX_PREFIX = 200
_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something to tell about a ConfigMap."""

    key: ObjectKey
    uid: str
    """Of the ConfigMap: `kubectl describe` asks for the Events of exactly this one."""
    reason: str
    message: str
    is_warning: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How often Events are written; times are in seconds."""

    again: float = 180.0
    """Between two writes of the same Event."""
    burst: int = 25
    """Writes about one object at once."""
    refill: float = 300.0
    """Until an object has one write more."""
    remembered: int = 4096
    """Events and objects that are remembered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """An Event that the API server has."""

    name: str
    count: int
    first: str
    """RFC 3339."""
    at: float
    """When it was last written, on the own clock."""


@dataclass(frozen=True, slots=True)
class _Bucket:
    tokens: float
    at: float


class EventBook:
    """What was told already, and what may be told now; `now` is on a clock that nobody sets, `wall` is written."""

    def __init__(self, identity: str, limits: Limits | None = None) -> None:
        """`identity` tells this process from others."""
        self._identity = identity
        self._limits = limits or Limits()
        self._written: OrderedDict[Note, Written] = OrderedDict()
        # For each reason its own, so that what Envoys say, whose words are theirs, uses up nothing of the others.
        self._buckets: OrderedDict[tuple[ObjectKey, str], _Bucket] = OrderedDict()

    def plan(self, note: Note, now: float, wall: float) -> tuple[Written, bool] | None:
        """Return what to write, and whether it is a new Event; None: count it and write nothing."""
        known = self._written.get(note)
        if known is not None:
            known = replace(known, count=known.count + 1)
            self._written[note] = known
        if known is not None and now < known.at + self._limits.again:
            return None
        if not self._take((note.key, note.reason), now):
            return None
        if known is None:
            moment = whole_time(wall)
            known = Written(name=_name(note, self._identity, f"{wall!r}"), count=1, first=moment, at=now)
            self._remember(note, known)
            return known, True
        known = replace(known, at=now)
        self._remember(note, known)
        return known, False

    def forget(self, note: Note) -> None:
        """Learn that the API server does not have this Event: it failed, or is so old that it was dropped."""
        self._written.pop(note, None)

    def _remember(self, note: Note, written: Written) -> None:
        self._written[note] = written
        self._written.move_to_end(note)
        if len(self._written) > self._limits.remembered:
            self._written.popitem(last=False)

    def _take(self, key: tuple[ObjectKey, str], now: float) -> bool:
        """Take one write from the bucket of an object and a reason, if there is one."""
        limits = self._limits
        known = self._buckets.get(key, _Bucket(limits.burst, now))
        tokens = min(known.tokens + (now - known.at) / limits.refill, limits.burst)
        self._buckets[key] = _Bucket(tokens - (tokens >= 1), now)
        self._buckets.move_to_end(key)
        if len(self._buckets) > limits.remembered:
            self._buckets.popitem(last=False)
        return tokens >= 1


class EventWriter:
    """Sends what the book plans."""

    def __init__(
        self, api: Asking, *, identity: str, limits: Limits | None = None, environs: Environs | None = None
    ) -> None:
        self._api = api
        self._identity = identity
        self._environs = environs or Environs()
        self._book = EventBook(identity, limits)
        self._complaints = Complaints()

    async def tell(self, note: Note) -> None:
        """Tell `note`, or count it if it was told lately; never raises. Who is refused forgets it."""
        note = replace(note, message=_bounded(redact_logins(note.message)))
        # An Event lives for an hour in the API server, so that of two tries the second makes a new one.
        for _ in range(2):
            wall = self._environs.wall()
            planned = self._book.plan(note, self._environs.monotonic(), wall)
            if planned is None or await self._send(note, *planned, whole_time(wall)):
                return

    async def _send(self, note: Note, written: Written, is_new: bool, moment: str) -> bool:  # noqa: FBT001  # as planned
        """Return whether that is the end of it."""
        verb, (namespace, _) = "create" if is_new else "patch", note.key
        path = f"/api/v1/namespaces/{namespace}/events"
        try:
            if is_new:
                body = build_event(note, written, self._identity)
                await self._api.request("POST", path, body=body, timeout=_TIMEOUT)
            else:
                await self._api.request(
                    "PATCH",
                    f"{path}/{written.name}",
                    body={"count": written.count, "lastTimestamp": moment},
                    content_type="application/merge-patch+json",
                    timeout=_TIMEOUT,
                )
        except ApiError as error:
            self._book.forget(note)
            if error.status == NOT_FOUND and not is_new:
                return False
            if error.status != CONFLICT:
                self._complaints.note(error, verb, "events", namespace)
            return True
        self._complaints.settle(verb, "events", namespace)
        return True


def build_event(note: Note, written: Written, identity: str) -> Mapping[str, object]:
    """Return the Event (core/v1) of a note that is told for the first time."""
    namespace, name = note.key
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": written.name, "namespace": namespace},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "name": name,
            "namespace": namespace,
            "uid": note.uid,
        },
        "reason": note.reason,
        "message": note.message,
        "type": "Warning" if note.is_warning else "Normal",
        "count": written.count,
        "firstTimestamp": written.first,
        "lastTimestamp": written.first,
        "source": {"component": COMPONENT},
        "action": "Compile",
        "reportingComponent": COMPONENT,
        "reportingInstance": identity,
    }


def _name(note: Note, identity: str, moment: str) -> str:
    """Return a name that no other replica and no other moment gives."""
    told = (identity, moment, note.uid, note.reason, note.message)
    return f"{note.key[1][:_MAX_PREFIX].rstrip('.-')}.{sha256(repr(told).encode()).hexdigest()[:16]}"


def _bounded(message: str) -> str:
    encoded = message.encode(errors="replace")
    return (
        encoded.decode() if len(encoded) <= _MAX_MESSAGE else encoded[: _MAX_MESSAGE - 3].decode(errors="ignore") + "…"
    )
