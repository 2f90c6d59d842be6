"""
As what a stream is served: as the pod that its node is, and no longer than that pod exists.

Without a registry of pods a node is what it claims to be, as far as its proofs allow. With one, only the name in the
node's id counts, and everything else is what the cluster tells of that pod: a pod that is not known yet is served
nothing, one that is gone is served no more, and a stream never passes from a pod to a later one of the same name.

Nothing here decides what is sent or how a stream ends. Invariant: a pod is served only while every proof of the caller
fits what is known of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds.policy.model import Workload

if TYPE_CHECKING:
    from collections.abc import Callable

    from xds.names import NodeId
    from xds.server.identity import Caller
    from xds.workloads import Workloads


class GoneError(Exception):
    """The pod that the stream was for does not exist any more. The message is meant for the client's operator."""


class UnknownPodError(Exception):
    """The cluster tells of no such pod. The message is meant for the client's operator."""


class Membership:
    """What is known of one stream's pod."""

    __slots__ = ("_callers", "_claimed", "_clock", "_node_id", "_uid", "_workloads")

    def __init__(
        self,
        workloads: Workloads | None,
        node_id: NodeId,
        claimed: Workload,
        callers: tuple[Caller, ...],
        clock: Callable[[], float],
    ) -> None:
        """`claimed` is what the client says of itself, `callers` what it has proven; `clock` is of their time."""
        self._workloads = workloads
        self._node_id = node_id
        # With a registry the rest of the claim is not even remembered.
        self._claimed = claimed if workloads is None else Workload(pod=claimed.pod, namespace=claimed.namespace)
        self._callers = callers
        self._clock = clock
        self._uid: str | None = None

    def look(self) -> Workload | None:
        """
        Return as what the stream is to be served now; None: as nothing, for its pod is not known yet.

        Raises IdentityError if the caller is not that pod, and GoneError if it was once served as one that is gone.
        """
        pod = None if self._workloads is None else self._workloads.get(self._node_id)
        if self._uid is not None and (pod is None or pod.uid != self._uid):
            raise GoneError(f"pod {self._node_id} {'was deleted' if pod is None else 'was replaced by another'}")
        now = self._clock()
        if pod is not None:
            for caller in self._callers:
                caller.confirm(pod, now=now)
            self._uid = pod.uid
            return pod.workload
        workload = self._claimed
        for caller in self._callers:
            workload = caller.bind(workload, now=now)
        return workload if self._workloads is None else None

    def follow(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` whenever `look` may return something else, until the returned function is called."""
        return _nothing if self._workloads is None else self._workloads.follow(self._node_id, callback)

    def unknown(self) -> UnknownPodError:
        """Return why the stream can't wait any longer."""
        return UnknownPodError(f"the cluster tells of no pod {self._node_id}; try again")


def _nothing() -> None:
    pass
