"""
What every pod is to be told at this moment: the newest world, and whose configuration is whose.

The reconcile loop publishes a `World`; streams ask for the snapshot of their workload and are woken when the
world changes. This room must not compile, decide when to publish, or know streams. Invariant: a published
world replaces the one before as a whole, so nobody ever sees a mixture.

Publishing and asking happen in one thread; a lock would guard nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from xds.names import CAPTURED_LISTENERS
from xds.policy.model import HeldPolicy, Mode
from xds.policy.selection import Candidates
from xds.resources import ResourceType
from xds.snapshot import drop_resources

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xds.policy.model import Policy, Workload
    from xds.snapshot import Snapshot

_MAX_WORKLOADS = 65_536
"""Workloads whose selection is remembered per world."""


@dataclass(frozen=True, slots=True)
class World:
    """
    The outcome of one reconciliation.

    `snapshots` are keyed by (policy's namespace, policy's name); `refuse_all` is for pods that no policy selects.
    """

    candidates: tuple[Policy | HeldPolicy, ...]
    snapshots: Mapping[tuple[str | None, str], Snapshot]
    refuse_all: Snapshot


class SnapshotCache:
    """The newest world, and who wants to know when there is a newer one."""

    def __init__(self) -> None:
        self._world: World | None = None
        self._changes = 0
        # By identity of the whole, which the value keeps alive.
        self._parts: dict[int, tuple[Snapshot, Snapshot]] = {}
        self._select: Callable[[Workload], Policy | HeldPolicy | None] = _select_none
        self._callbacks: dict[object, Callable[[], None]] = {}

    def publish(self, world: World) -> None:
        """Replace the world and wake everybody; an equal world changes nothing and wakes nobody."""
        if world == self._world:
            return
        self._replace(world)
        self.wake()

    def wake(self) -> None:
        """Have everybody look again at what they are to be told."""
        for callback in tuple(self._callbacks.values()):
            callback()

    @property
    def world(self) -> World | None:
        """The newest world; None: there was none yet."""
        return self._world

    @property
    def changes(self) -> int:
        """How often the world changed, the first time included."""
        return self._changes

    def policy_for(self, workload: Workload) -> Policy | HeldPolicy | None:
        """Return the one policy in force for `workload`; None: no policy selects it, or no world is known yet."""
        return self._select(workload)

    def snapshot_for(self, workload: Workload) -> Snapshot | None:
        """
        Return what `workload` is to be told; None: say nothing, so that it keeps what it has.

        That is so before the first world, and while the policy in force is held or has no snapshot. Whose connections
        are not captured is told of no listener for that: beside another mesh it would take that mesh's connections.
        """
        whole = self._whole_for(workload)
        return whole if whole is None or workload.mode is not Mode.EXPLICIT else self._without_capture(whole)

    def _whole_for(self, workload: Workload) -> Snapshot | None:
        """Return the snapshot that `workload` is told of, all or a part."""
        if self._world is None:
            return None
        match self._select(workload):
            case None:
                return self._world.refuse_all
            case HeldPolicy():
                return None
            case policy:
                return self._snapshot_of(policy, workload)

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after each change of the world, until the returned function is called."""
        key = object()
        self._callbacks[key] = callback

        def unsubscribe() -> None:
            self._callbacks.pop(key, None)

        return unsubscribe

    def _without_capture(self, whole: Snapshot) -> Snapshot:
        """Return a snapshot for explicit mode, made once for all pods that share it."""
        found = self._parts.get(id(whole))
        if found is None:
            found = self._parts[id(whole)] = whole, drop_captured(whole)
        return found[1]

    def _replace(self, world: World) -> None:
        self._world = world
        self._parts.clear()
        self._changes += 1
        self._select = lru_cache(_MAX_WORKLOADS)(Candidates(world.candidates).select)

    def _snapshot_of(self, policy: Policy, workload: Workload) -> Snapshot | None:  # noqa: ARG002  # for heirs
        assert self._world is not None, "a policy was selected, so there is a world"
        return self._world.snapshots.get((policy.namespace, policy.name))


def drop_captured(whole: Snapshot) -> Snapshot:
    """
    Return what pods in explicit mode are told of a policy's snapshot.

    Only listeners go. Clusters and routes that they alone referred to stay, so that these types are the same for all
    pods of a policy, and a pod that changes its mode is told of listeners only.
    """
    return drop_resources(whole, ResourceType.LISTENER, CAPTURED_LISTENERS)


def _select_none(_: Workload) -> None:
    """Nothing is known before the first world."""
