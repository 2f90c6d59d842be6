"""
Which pods there are, as the cluster tells: who may be behind a node's id, and as what it is to be served.

Whoever watches the cluster updates, streams ask and follow their own pod. Nothing here decides which policy a pod gets
or who may connect. Invariant: a follower is called exactly when what `get` returns for its node is another value than
before, and all of an update is in place by then.

Updating and asking happen in one thread; a lock would guard nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xds.names import NodeId
    from xds.policy.model import Workload


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that the cluster knows."""

    workload: Workload
    uid: str
    """`metadata.uid`: tells a pod from an earlier one of the same name."""


@dataclass(slots=True, eq=False)
class _Follower:
    """One subscription; it is told from others by identity, whatever its callback is equal to."""

    callback: Callable[[], None]


class Workloads:
    """All pods by node id, and who wants to know what becomes of one."""

    def __init__(self) -> None:
        self._pods: dict[NodeId, Pod] = {}
        self._view = MappingProxyType(self._pods)
        # Tuples, for nearly every node has one follower, and a tuple does not change under whoever walks it.
        self._followers: dict[NodeId, tuple[_Follower, ...]] = {}

    def get(self, node_id: NodeId) -> Pod | None:
        """Return the pod behind `node_id`; None: none is known."""
        return self._pods.get(node_id)

    def pods(self) -> Mapping[NodeId, Pod]:
        """Return all pods: a view that changes with them."""
        return self._view

    def follow(self, node_id: NodeId, callback: Callable[[], None]) -> Callable[[], None]:
        """
        Call `callback` after each change of what `get` returns for `node_id`, until the returned function is called.

        That is: the pod appeared, is gone, changed, or was replaced by another of the same name. A callback must not
        raise; it may follow, and end what it or others follow, while it is called.
        """
        follower = _Follower(callback)
        self._followers[node_id] = (*self._followers.get(node_id, ()), follower)
        return partial(self._unfollow, node_id, follower)

    def update(self, changes: Mapping[NodeId, Pod | None]) -> None:
        """Take what became of pods (None: gone), then call the followers of those that are not as they were."""
        changed = [node_id for node_id, pod in changes.items() if self._put(node_id, pod)]
        for node_id in changed:
            for follower in self._followers.get(node_id, ()):
                if follower in self._followers.get(node_id, ()):  # another may have ended it meanwhile
                    follower.callback()

    def _put(self, node_id: NodeId, pod: Pod | None) -> bool:
        if self._pods.get(node_id) == pod:
            return False
        if pod is None:
            del self._pods[node_id]
        else:
            self._pods[node_id] = pod
        return True

    def _unfollow(self, node_id: NodeId, follower: _Follower) -> None:
        left = tuple(other for other in self._followers.get(node_id, ()) if other is not follower)
        if left:
            self._followers[node_id] = left
        else:
            self._followers.pop(node_id, None)
