"""
The cache of a server that tries changed policies on a few clients first: which of its snapshots is whose just now.

It joins three things that know nothing of one another: the newest world, the registry of clients and the rollouts.
It decides nothing. Invariant: whoever is told something else than before is woken, and nobody else's snapshot moves.

Publishing, asking and the reports of streams happen in one thread; a lock would guard nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xds.cache import SnapshotCache, World
from xds.canary import Canary, End, Key, Outcome, Refusal, Rollout, Stage
from xds.names import NodeId
from xds.policy.model import Mode, Policy
from xds.resources import ResourceType

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xds.clients import Client, Nack
    from xds.names import Version
    from xds.policy.model import Workload
    from xds.snapshot import Snapshot


@dataclass(slots=True)
class _Member:
    """A node that is connected, by one stream or several."""

    workload: Workload
    has_config: bool
    streams: int = 0
    key: Key | None = None
    before: Snapshot | None = None


class StagedCache(SnapshotCache):
    """
    A cache whose changes go to canaries first; it watches the registry of clients.

    `clock` gives seconds; `tell` is called with each trial that ended. `expire` must be called now and then.
    """

    def __init__(self, canary: Canary, *, clock: Callable[[], float], tell: Callable[[Outcome], None]) -> None:
        super().__init__()
        self._canary = canary
        self._clock = clock
        self._tell = tell
        self._members: dict[NodeId, _Member] = {}
        self._by_key: dict[Key, set[NodeId]] = {}
        self._ended = dict.fromkeys(End, 0)

    @property
    def rollouts(self) -> Mapping[Key, Rollout]:
        """Where each policy stands."""
        return self._canary.rollouts

    @property
    def ended(self) -> Mapping[End, int]:
        """How many trials ended so far, by how they did."""
        return self._ended

    def expire(self) -> None:
        """End the trials whose time is over."""
        self._report(self._canary.expire(self._clock()))

    def joined(self, client: Client, *, is_returning: bool) -> None:
        """Note a new stream; `is_returning` tells whether the client has a configuration from an earlier one."""
        member = self._members.get(client.node_id)
        if member is None:
            member = self._members[client.node_id] = _Member(client.workload, is_returning)
            self._note_mode(client)
            self._place(client.node_id, member)
        member.streams += 1
        if member.key is not None:
            self._canary.join(member.key, client.node_id, self._by_key[member.key], self._clock())

    def moved(self, client: Client) -> None:
        """Note that another policy may be in force for a node; what it was given last stays what it returns to."""
        member = self._members.get(client.node_id)
        if member is None or member.workload == client.workload:
            return
        member.workload = client.workload
        self._note_mode(client)
        before = member.key
        self._place(client.node_id, member)
        if member.key == before:
            return
        if member.key is not None:
            self._canary.join(member.key, client.node_id, self._by_key[member.key], self._clock())
        if before is not None:
            self._withdraw(before, client.node_id)

    def left(self, client: Client) -> None:
        """Note the end of a stream."""
        member = self._members.get(client.node_id)
        if member is None:
            return
        member.streams -= 1
        if member.streams > 0:
            return
        del self._members[client.node_id]
        self._canary.partial.discard(client.node_id)
        if member.key is not None:
            self._withdraw(member.key, client.node_id)

    def refused(self, client: Client, kind: ResourceType, nack: Nack) -> None:
        """Note a NACK."""
        member = self._members.get(client.node_id)
        if member is not None and member.key is not None:
            refusal = Refusal(client.node_id, kind, self._version_of_whole(member, kind, nack.version), nack.text)
            self._report(self._canary.refuse(member.key, refusal))

    def settled(self, client: Client) -> None:
        """Note that a client is owed nothing at the moment."""
        member = self._members.get(client.node_id)
        if member is None or member.key is None:
            return
        rollout = self._canary.rollouts[member.key]
        if rollout.stage is Stage.SETTLED:
            member.before = rollout.offered
            return
        if self._whole_for(member.workload) is not rollout.offered:
            return
        snapshot = self.snapshot_for(member.workload)
        assert snapshot is not None, "it is what is offered, or a part of that"
        kinds = [kind for kind in ResourceType if client.is_in_step(kind, snapshot)]
        member.has_config = member.has_config or all(kind in kinds for kind in ResourceType if snapshot.of(kind))
        self._report(self._canary.settle(member.key, client.node_id, kinds, rollout.offered, self._clock()))

    def _replace(self, world: World) -> None:
        super()._replace(world)
        self._by_key = {}
        for node, member in self._members.items():
            self._place(node, member)
        self._announce(self._canary.publish(world.snapshots, self._by_key, self._clock()))

    def _snapshot_of(self, policy: Policy, workload: Workload) -> Snapshot | None:
        key = (policy.namespace, policy.name)
        node = NodeId(f"{workload.pod}.{workload.namespace}")
        member = self._members.get(node)
        if member is None:
            return self._canary.pick(key, node, None, has_config=True)
        return self._canary.pick(key, node, member.before, has_config=member.has_config)

    def _version_of_whole(self, member: _Member, kind: ResourceType, version: Version) -> Version:
        """Return the version of the whole snapshot where `version` is that of the part that a client is told of."""
        whole, told = self._whole_for(member.workload), self.snapshot_for(member.workload)
        if whole is None or told is None or whole is told or not version.startswith(told.versions[kind]):
            return version
        return whole.versions[kind]

    def _note_mode(self, client: Client) -> None:
        if client.workload.mode is Mode.EXPLICIT:
            self._canary.partial.add(client.node_id)
        else:
            self._canary.partial.discard(client.node_id)

    def _withdraw(self, key: Key, node: NodeId) -> None:
        """Count a node out of a policy; if it was a canary, another takes its place, or the trial ends."""
        others = self._by_key[key]
        others.discard(node)
        chosen = self._canary.rollouts.get(key)
        ended = self._canary.leave(key, node, others, self._clock())
        if self._canary.rollouts.get(key) is not chosen and not ended:
            self.wake()  # another canary was chosen
        self._report(ended)

    def _place(self, node: NodeId, member: _Member) -> None:
        match self.policy_for(member.workload):
            case Policy(namespace=namespace, name=name) if (namespace, name) in self._snapshots():
                member.key = (namespace, name)
                self._by_key.setdefault(member.key, set()).add(node)
            case _:
                member.key = None

    def _snapshots(self) -> Mapping[Key, Snapshot]:
        return {} if self.world is None else self.world.snapshots

    def _report(self, ended: tuple[Outcome, ...]) -> None:
        if ended:
            self._announce(ended)
            self.wake()

    def _announce(self, ended: tuple[Outcome, ...]) -> None:
        for outcome in ended:
            self._ended[outcome.end] += 1
            self._tell(outcome)
