"""Whatever happens in whatever order, nobody but canaries is told what is on trial, and no trial lasts for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.unit.protocol.values import CDS, LDS, resource, snapshot
from xds.canary import Canary, End, Key, Outcome, Refusal, Stage
from xds.flags import Share
from xds.names import NodeId

if TYPE_CHECKING:
    from xds.resources import ResourceType
    from xds.snapshot import Snapshot

PATIENCE = 10.0
KEYS: tuple[Key, ...] = ((None, "a"), ("shop", "b"))
NODES = tuple(NodeId(f"{letter}.ns") for letter in "abcdef")
CONTENTS = tuple(snapshot(resource(CDS, "c", word), resource(LDS, "l", "1")) for word in "1234")

keys = st.sampled_from(KEYS)
nodes = st.sampled_from(NODES)
contents = st.sampled_from(CONTENTS)
shares = st.builds(Share, number=st.integers(1, 4)) | st.builds(
    Share,
    number=st.integers(1, 100),
    is_percent=st.just(True),  # noqa: FBT003  # it is the value of a strategy
)


class Trials(RuleBasedStateMachine):
    """Two policies, six nodes, four contents, and a clock that only these rules move."""

    @initialize(share=shares, content=contents)
    def begin(self, share: Share, content: Snapshot) -> None:
        self.canary = Canary(share.of, PATIENCE)
        self.now = 0.0
        self.members: dict[Key, set[NodeId]] = {key: set() for key in KEYS}
        self.offered = dict.fromkeys(KEYS, content)
        self.refused: set[tuple[Key, str]] = set()
        self._take(self.canary.publish(self.offered, self.members, self.now))

    @rule(key=keys, content=contents)
    def publish(self, key: Key, content: Snapshot) -> None:
        if content.version != self.offered[key].version:
            self.refused = {entry for entry in self.refused if entry[0] != key}
        other = next(entry for entry in KEYS if entry != key)
        before = self.canary.rollouts[other]
        self.offered = {**self.offered, key: content}
        self._take(self.canary.publish(self.offered, self.members, self.now))
        assert self.canary.rollouts[other].stage is before.stage, "policies are independent of each other"
        assert self.canary.rollouts[other].first == before.first

    @rule(key=keys, node=nodes)
    def join(self, key: Key, node: NodeId) -> None:
        if not any(node in members for members in self.members.values()):
            self.members[key].add(node)
            self.canary.join(key, node, self.members[key], self.now)

    @rule(key=keys, node=nodes)
    def leave(self, key: Key, node: NodeId) -> None:
        if node in self.members[key]:
            self.members[key].discard(node)
            self._take(self.canary.leave(key, node, self.members[key], self.now))

    @rule(node=nodes, key=keys)
    def change_policies(self, node: NodeId, key: Key) -> None:
        """A selector changed: a node that is connected belongs to another policy in the new world."""
        if any(node in members for members in self.members.values()):
            for members in self.members.values():
                members.discard(node)
            self.members[key].add(node)
            self._take(self.canary.publish(self.offered, self.members, self.now))

    @rule(key=keys, node=nodes, kinds=st.sets(st.sampled_from([CDS, LDS])))
    def settle(self, key: Key, node: NodeId, kinds: set[ResourceType]) -> None:
        given = self.canary.pick(key, node, None, has_config=True)
        if node in self.members[key] and given is not None:
            self._take(self.canary.settle(key, node, kinds, given, self.now))

    @rule(key=keys, node=nodes, kind=st.sampled_from([CDS, LDS]))
    def refuse(self, key: Key, node: NodeId, kind: ResourceType) -> None:
        given = self.canary.pick(key, node, None, has_config=True)
        if node in self.members[key] and given is not None:
            self._take(self.canary.refuse(key, Refusal(node, kind, given.versions[kind], "no")))

    @rule(seconds=st.sampled_from([0.1, 4.0, PATIENCE]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self._take(self.canary.expire(self.now))
        for rollout in self.canary.rollouts.values():
            if rollout.stage is Stage.TRIAL and rollout.first:
                assert self.now - rollout.since < PATIENCE, "no trial lasts for ever"

    def _take(self, ended: tuple[Outcome, ...]) -> None:
        for outcome in ended:
            if outcome.end is End.REFUSED:
                self.refused.add((outcome.key, outcome.version))

    @invariant()
    def only_canaries_are_told_what_is_on_trial(self) -> None:
        for key, members in self.members.items():
            rollout = self.canary.rollouts[key]
            for node in members:
                given = self.canary.pick(key, node, None, has_config=True)
                if rollout.stage is not Stage.SETTLED and given is not None and given is not rollout.good:
                    assert rollout.stage is Stage.TRIAL
                    assert node in rollout.first

    @invariant()
    def what_was_refused_is_not_good_before_it_changed(self) -> None:
        for key, version in self.refused:
            good = self.canary.rollouts[key].good
            assert good is None or good.version != version

    @invariant()
    def nobody_is_held_back_for_nobody(self) -> None:
        for key, members in self.members.items():
            rollout = self.canary.rollouts[key]
            if members and rollout.stage is Stage.TRIAL:
                assert rollout.first, "there is somebody to wait for"
            if not members and rollout.good is not None:
                assert rollout.stage is not Stage.TRIAL

    @invariant()
    def a_settled_policy_is_good_as_it_was_offered(self) -> None:
        for key, rollout in self.canary.rollouts.items():
            assert rollout.offered == self.offered[key]
            if rollout.stage is Stage.SETTLED:
                assert rollout.good == rollout.offered


Trials.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
test_trials = Trials.TestCase
