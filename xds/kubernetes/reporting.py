"""
All that a replica does so that operators read the truth, in one piece.

It takes part in the election, tells of its own streams, and writes status and Events as long as it leads. Each part
says for itself how; this composes them, and whoever uses it says where to look. Invariant: nothing in here can stop
what serves Envoys: what the API server refuses is logged and tried again.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xds.kubernetes.asking import Environs
from xds.kubernetes.events import EventWriter
from xds.kubernetes.lease import Durations, LeaderLease
from xds.kubernetes.replicas import Pace as ReplicasPace
from xds.kubernetes.replicas import Replicas
from xds.kubernetes.writer import Pace as WriterPace
from xds.kubernetes.writer import StatusWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from xds.judge import PolicyKey
    from xds.kubernetes.asking import Asking
    from xds.kubernetes.replicas import Member
    from xds.kubernetes.status import Streams, Tally
    from xds.reconcile import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """Where to look; each is called again and again, and answers for the moment."""

    state: Callable[[], State]
    """The reconciler's."""
    streams: Callable[[], Mapping[PolicyKey, Streams]]
    """This replica's own streams; see `count_streams`."""
    expected: Callable[[], Mapping[PolicyKey, int] | None]
    """Pods that should have a stream to some replica; see `count_pods`. None: nobody knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paces:
    """How long things take."""

    lease: Durations = field(default_factory=Durations)
    replicas: ReplicasPace = field(default_factory=ReplicasPace)
    writer: WriterPace = field(default_factory=WriterPace)


class Reporting:
    """See the module."""

    def __init__(
        self,
        api: Asking,
        member: Member,
        sight: Sight,
        *,
        paces: Paces | None = None,
        environs: Environs | None = None,
    ) -> None:
        paces, environs = paces or Paces(), environs or Environs()
        self._sight = sight
        self._lease = LeaderLease(
            api,
            namespace=member.namespace,
            name=f"{member.prefix}-leader",
            identity=member.process,
            durations=paces.lease,
            environs=environs,
        )
        self._replicas = Replicas(
            api, member, streams=sight.streams, leads=lambda: self.is_leader, pace=paces.replicas, environs=environs
        )
        self._writer = StatusWriter(
            api,
            # Before the others were heard, all that is known is the own part of the numbers.
            leads=lambda: self.is_leader and self._replicas.has_looked,
            state=sight.state,
            tallies=self._tallies,
            events=EventWriter(api, identity=member.process, environs=environs),
            pace=paces.writer,
            environs=environs,
        )

    @property
    def is_leader(self) -> bool:
        """Whether this replica leads at this moment."""
        return self._lease.is_leader

    def wake(self) -> None:
        """Say that the reconciler's state changed; without it that is seen a second later."""
        self._writer.wake()

    async def run(self) -> None:
        """Report until cancelled; then hand over. `api` must be open until this returns."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lease.run())
            group.create_task(self._replicas.run())
            group.create_task(self._writer.run())

    def _tallies(self, policies: Iterable[PolicyKey]) -> Mapping[PolicyKey, Tally]:
        return self._replicas.tallies(policies, self._sight.expected())
