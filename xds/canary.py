"""
A changed policy goes to a few clients first; the others follow once these run it.

One `Rollout` per policy, each for itself: SETTLED on its good snapshot, in TRIAL of a newer one, or holding back one
that was REFUSED. A trial ends when every canary runs what changed, when one refuses it, or when the canaries had
their time. A refusal returns the canaries to the good snapshot and lasts until the policy's content changes.

Without a good snapshot (the process has just started, or the policy is new) there is nothing to return to, so those
who have a configuration keep it during the trial and after a refusal. Those who have none can only win: they get the
snapshot on trial.

Nothing here knows streams, time or randomness: moments and clients are passed in, and canaries are chosen by a hash
of version and node, so that it is not always the same ones. Invariant: a client that was not chosen and has something
is never told what is on trial or was refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from hashlib import sha256
from heapq import nsmallest
from types import MappingProxyType
from typing import TYPE_CHECKING

from xds.resources import ResourceType

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from xds.names import NodeId, Version
    from xds.snapshot import Snapshot

Key = tuple[str | None, str]
"""Namespace (None: cluster-wide) and name of a policy."""


class Stage(Enum):
    """Where a rollout stands."""

    SETTLED = "settled"
    TRIAL = "trial"
    REFUSED = "refused"


class End(Enum):
    """How a trial ended."""

    PASSED = "passed"
    REFUSED = "refused"
    TIMED_OUT = "timed_out"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Who refused what, and why in its own words."""

    node: NodeId
    kind: ResourceType
    version: Version
    text: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a trial; `nodes` were asked, and after TIMED_OUT it is those who have not answered."""

    key: Key
    end: End
    version: Version
    nodes: tuple[NodeId, ...]
    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One policy: what is good, what is offered since then, and who tries it."""

    offered: Snapshot
    good: Snapshot | None = None
    stage: Stage = Stage.TRIAL
    first: frozenset[NodeId] = frozenset()
    """The canaries."""
    applied: Mapping[NodeId, frozenset[ResourceType]] = field(default_factory=lambda: MappingProxyType({}))
    """Types of which a canary runs what is on trial."""
    since: float = 0.0
    """When somebody was first asked; further changes during a trial don't start the clock again."""
    refusal: Refusal | None = None

    @property
    def changed(self) -> frozenset[ResourceType]:
        """The types that a canary must run in the offered version: those that differ from the good one."""
        if self.good is None:
            return frozenset(kind for kind in ResourceType if self.offered.of(kind))
        good = self.good
        return frozenset(kind for kind in ResourceType if good.versions[kind] != self.offered.versions[kind])

    @property
    def silent(self) -> frozenset[NodeId]:
        """The canaries that do not run all of it yet."""
        return frozenset(node for node in self.first if not self.changed <= self.applied.get(node, frozenset()))


class Canary:
    """
    The rollouts of all policies.

    `share` says how many of so many clients of a policy come first, `patience` how many seconds they have. Methods
    return the trials that ended; whoever is told something else from then on must be woken.
    """

    def __init__(self, share: Callable[[int], int], patience: float) -> None:
        # Clients that are told of a part only: they are asked where there are not enough others, who try all of it.
        self.partial: set[NodeId] = set()
        self._share = share
        self._patience = patience
        self._rollouts: dict[Key, Rollout] = {}

    @property
    def rollouts(self) -> Mapping[Key, Rollout]:
        """Where each policy stands."""
        return MappingProxyType(self._rollouts)

    def publish(
        self, snapshots: Mapping[Key, Snapshot], members: Mapping[Key, Collection[NodeId]], now: float
    ) -> tuple[Outcome, ...]:
        """Take over a new world; `members` are the clients that are connected, by policy."""
        self._rollouts = {key: rollout for key, rollout in self._rollouts.items() if key in snapshots}
        ended: list[Outcome] = []
        for key, snapshot in snapshots.items():
            ended += self._offer(key, snapshot, members.get(key, ()), now)
        return tuple(ended)

    def pick(self, key: Key, node: NodeId, before: Snapshot | None, *, has_config: bool) -> Snapshot | None:
        """
        Return what `node` is to be told; None: nothing, so that it keeps what it has.

        `before` is the last good snapshot that it was given, maybe of another policy; `has_config` tells whether it
        came with a configuration from an earlier stream.
        """
        rollout = self._rollouts.get(key)
        if rollout is None:
            return None
        if rollout.stage is Stage.TRIAL and node in rollout.first:
            return rollout.offered
        known = rollout.good or before
        return rollout.offered if known is None and not has_config else known

    def join(self, key: Key, node: NodeId, members: Collection[NodeId], now: float) -> None:
        """Note a client; while a trial has nothing to return to, it may become a canary."""
        rollout = self._rollouts.get(key)
        if rollout is None or rollout.stage is not Stage.TRIAL or rollout.good is not None:
            return
        if len(rollout.first) < self._share(len(members)):
            since = rollout.since if rollout.first else now
            self._rollouts[key] = replace(rollout, first=rollout.first | {node}, since=since)

    def leave(self, key: Key, node: NodeId, members: Collection[NodeId], now: float) -> tuple[Outcome, ...]:
        """Note that a client is gone; `members` are the others. A canary that had not answered is replaced."""
        rollout = self._rollouts.get(key)
        if rollout is None or rollout.stage is not Stage.TRIAL or node not in rollout.silent:
            return ()
        first = self._choose(rollout.offered, rollout.first - {node}, members)
        return self._conclude(key, replace(rollout, first=first), now, is_deserted=not members)

    def settle(
        self, key: Key, node: NodeId, kinds: Collection[ResourceType], snapshot: Snapshot, now: float
    ) -> tuple[Outcome, ...]:
        """Note that `node` runs what `snapshot` has of `kinds`."""
        rollout = self._rollouts.get(key)
        if rollout is None or rollout.stage is not Stage.TRIAL or node not in rollout.first:
            return ()
        if snapshot is not rollout.offered:
            return ()
        applied = {**rollout.applied, node: rollout.applied.get(node, frozenset()) | frozenset(kinds)}
        return self._conclude(key, replace(rollout, applied=MappingProxyType(applied)), now)

    def refuse(self, key: Key, refusal: Refusal) -> tuple[Outcome, ...]:
        """Note a NACK. It ends the trial if it is about something that the trial changed."""
        rollout = self._rollouts.get(key)
        if rollout is None or rollout.stage is not Stage.TRIAL or refusal.kind not in rollout.changed:
            return ()
        # A SotW state that is not exactly the snapshot's has the snapshot's version and a mark behind it.
        if not refusal.version.startswith(rollout.offered.versions[refusal.kind]):
            return ()
        self._rollouts[key] = replace(rollout, stage=Stage.REFUSED, refusal=refusal)
        return (Outcome(key, End.REFUSED, rollout.offered.version, _sorted(rollout.first), refusal),)

    def expire(self, now: float) -> tuple[Outcome, ...]:
        """End the trials whose canaries had their time."""
        ended: list[Outcome] = []
        for key, rollout in tuple(self._rollouts.items()):
            if rollout.stage is Stage.TRIAL and rollout.first and now - rollout.since >= self._patience:
                self._adopt(key, rollout)
                silent = rollout.silent
                end = End.TIMED_OUT if silent else End.PASSED
                ended.append(Outcome(key, end, rollout.offered.version, _sorted(silent or rollout.first)))
        return tuple(ended)

    def _offer(self, key: Key, snapshot: Snapshot, members: Collection[NodeId], now: float) -> tuple[Outcome, ...]:
        rollout = self._rollouts.get(key)
        if rollout is None:
            return self._try(key, Rollout(offered=snapshot), members, now)
        if snapshot == rollout.offered:
            return self._refill(key, rollout, members, now)
        if snapshot == rollout.good:
            self._rollouts[key] = Rollout(offered=rollout.good, good=rollout.good, stage=Stage.SETTLED)
            return ()
        is_running = rollout.stage is Stage.TRIAL
        if is_running and rollout.first and not rollout.silent:
            rollout, is_running = replace(rollout, good=rollout.offered), False
        fresh = Rollout(
            offered=snapshot,
            good=rollout.good,
            first=rollout.first & frozenset(members) if is_running else frozenset(),
            since=rollout.since if is_running and rollout.first else now,
        )
        return self._try(key, fresh, members, now)

    def _refill(self, key: Key, rollout: Rollout, members: Collection[NodeId], now: float) -> tuple[Outcome, ...]:
        """Go on with a trial: other documents may have changed who belongs to the policy."""
        if rollout.stage is not Stage.TRIAL or (rollout.first and rollout.first <= frozenset(members)):
            return ()
        return self._try(key, replace(rollout, first=rollout.first & frozenset(members)), members, now)

    def _try(self, key: Key, rollout: Rollout, members: Collection[NodeId], now: float) -> tuple[Outcome, ...]:
        first = self._choose(rollout.offered, rollout.first, members)
        since = rollout.since if rollout.first else now
        return self._conclude(key, replace(rollout, first=first, since=since), now, is_deserted=not members)

    def _conclude(self, key: Key, rollout: Rollout, now: float, *, is_deserted: bool = False) -> tuple[Outcome, ...]:
        """End the trial if nobody is left to ask, or everybody asked runs what changed."""
        self._rollouts[key] = rollout
        if is_deserted:
            # Nobody is held back, so there is nothing to wait for; but the first of all clients may yet be canaries.
            if rollout.good is not None:
                self._adopt(key, rollout)
            return ()
        is_short = rollout.good is None and len(rollout.first) < self._share(0)
        if not rollout.first or rollout.silent or (is_short and now - rollout.since < self._patience):
            return ()
        self._adopt(key, rollout)
        return (Outcome(key, End.PASSED, rollout.offered.version, _sorted(rollout.first)),)

    def _adopt(self, key: Key, rollout: Rollout) -> None:
        self._rollouts[key] = Rollout(offered=rollout.offered, good=rollout.offered, stage=Stage.SETTLED)

    def _choose(self, snapshot: Snapshot, already: frozenset[NodeId], members: Collection[NodeId]) -> frozenset[NodeId]:
        missing = self._share(len(members)) - len(already)
        seed = snapshot.version.encode()
        others = (node for node in members if node not in already)
        chosen = nsmallest(
            missing, others, key=lambda node: (node in self.partial, sha256(seed + node.encode()).digest())
        )
        return already | frozenset(chosen)


def _sorted(nodes: frozenset[NodeId]) -> tuple[NodeId, ...]:
    return tuple(sorted(nodes))
