"""When a change reaches whom, and what ends a trial."""

from __future__ import annotations

import pytest

from tests.unit.protocol.values import CDS, LDS, SDS, resource, snapshot
from xds.canary import Canary, End, Key, Refusal, Stage
from xds.flags import Share
from xds.names import NodeId, Version
from xds.resources import ResourceType

KEY: Key = (None, "default")
OTHER: Key = ("shop", "other")
PATIENCE = 30.0
A, B, C = NodeId("a.ns"), NodeId("b.ns"), NodeId("c.ns")
ALL = (A, B, C)
OLD = snapshot(resource(CDS, "c", "1"), resource(LDS, "l", "1"))
NEW = snapshot(resource(CDS, "c", "2"), resource(LDS, "l", "1"))
NEWER = snapshot(resource(CDS, "c", "3"), resource(LDS, "l", "1"))
EVERY = tuple(ResourceType)


def settled(share: int = 1) -> Canary:
    """A policy whose good snapshot is OLD, with ALL connected."""
    canary = Canary(Share(number=share).of, PATIENCE)
    canary.publish({KEY: OLD}, {KEY: ALL}, 0.0)
    canary.expire(PATIENCE)
    assert canary.rollouts[KEY].stage is Stage.SETTLED
    return canary


def told(canary: Canary) -> dict[NodeId, object]:
    return {node: canary.pick(KEY, node, None, has_config=True) for node in ALL}


def first(canary: Canary) -> NodeId:
    (node,) = canary.rollouts[KEY].first
    return node


def refusal(node: NodeId, kind: ResourceType = CDS, text: str = "no") -> Refusal:
    return Refusal(node, kind, NEW.versions[kind], text)


def test_a_change_goes_to_the_canary_only() -> None:
    canary = settled()

    assert canary.publish({KEY: NEW}, {KEY: ALL}, 100.0) == ()

    assert [node for node, given in told(canary).items() if given is NEW] == [first(canary)]
    assert list(told(canary).values()).count(OLD) == 2


def test_the_others_follow_once_the_canary_runs_what_changed() -> None:
    canary = settled()
    canary.publish({KEY: NEW}, {KEY: ALL}, 100.0)
    node = first(canary)

    unrelated = canary.settle(KEY, node, [LDS], NEW, 100.1)
    (passed,) = canary.settle(KEY, node, [CDS], NEW, 100.2)

    assert unrelated == ()
    assert (passed.end, passed.nodes, passed.version) == (End.PASSED, (node,), NEW.version)
    assert set(map(id, told(canary).values())) == {id(NEW)}


def test_all_of_several_canaries_must_run_it() -> None:
    canary = settled(share=2)
    canary.publish({KEY: NEW}, {KEY: ALL}, 100.0)
    one, other = sorted(canary.rollouts[KEY].first)

    assert canary.settle(KEY, one, EVERY, NEW, 100.1) == ()
    assert [outcome.end for outcome in canary.settle(KEY, other, EVERY, NEW, 100.2)] == [End.PASSED]


def test_a_refusal_returns_the_canary_to_the_last_good_and_lasts_until_the_content_changes() -> None:
    canary = settled()
    canary.publish({KEY: NEW}, {KEY: ALL}, 100.0)
    node = first(canary)

    (refused,) = canary.refuse(KEY, refusal(node))
    again = canary.publish({KEY: NEW}, {KEY: ALL}, 101.0)
    late = canary.expire(1000.0)

    assert (refused.end, refused.refusal) == (End.REFUSED, refusal(node))
    assert (again, late) == ((), ())
    assert set(map(id, told(canary).values())) == {id(OLD)}

    canary.publish({KEY: NEWER}, {KEY: ALL}, 1001.0)
    assert list(told(canary).values()).count(NEWER) == 1
    assert canary.rollouts[KEY].refusal is None


def test_content_that_goes_back_to_the_good_one_ends_the_trial_in_silence() -> None:
    canary = settled()
    canary.publish({KEY: NEW}, {KEY: ALL}, 100.0)

    assert canary.publish({KEY: OLD}, {KEY: ALL}, 101.0) == ()
    assert canary.rollouts[KEY].stage is Stage.SETTLED
    assert set(map(id, told(canary).values())) == {id(OLD)}


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(Refusal(A, LDS, NEW.versions[LDS], "no"), id="of a type that the trial did not change"),
        pytest.param(Refusal(A, CDS, OLD.versions[CDS], "no"), id="of the good version"),
        pytest.param(Refusal(A, SDS, Version("other"), "no"), id="of something else altogether"),
    ],
)
def test_a_refusal_that_has_nothing_to_do_with_the_trial_does_not_end_it(wrong: Refusal) -> None:
    canary = settled()
    canary.publish({KEY: NEW}, {KEY: ALL}, 100.0)

    assert canary.refuse(KEY, wrong) == ()
    assert canary.rollouts[KEY].stage is Stage.TRIAL


def test_a_part_of_the_state_is_refused_as_the_whole() -> None:
    """A SotW response with removals held back has a marked version."""
    canary = settled()
    canary.publish({KEY: NEW}, {KEY: ALL}, 100.0)

    marked = Refusal(first(canary), CDS, Version(NEW.versions[CDS] + "~"), "no")
    assert [outcome.end for outcome in canary.refuse(KEY, marked)] == [End.REFUSED]


def test_the_time_of_silent_canaries_is_limited() -> None:
    canary = settled()
    canary.publish({KEY: NEW}, {KEY: ALL}, 100.0)

    early = canary.expire(100.0 + PATIENCE - 0.1)
    (late,) = canary.expire(100.0 + PATIENCE)

    assert early == ()
    assert late.end is End.TIMED_OUT
    assert set(map(id, told(canary).values())) == {id(NEW)}


def test_changes_during_a_trial_do_not_start_its_clock_again() -> None:
    canary = settled()
    canary.publish({KEY: NEW}, {KEY: ALL}, 100.0)
    canary.publish({KEY: NEWER}, {KEY: ALL}, 120.0)

    assert [outcome.end for outcome in canary.expire(100.0 + PATIENCE)] == [End.TIMED_OUT]


def test_a_change_during_a_trial_goes_to_the_same_canary() -> None:
    canary = settled()
    canary.publish({KEY: NEW}, {KEY: ALL}, 100.0)
    node = first(canary)
    canary.publish({KEY: NEWER}, {KEY: ALL}, 101.0)

    assert first(canary) == node
    assert canary.settle(KEY, node, EVERY, NEW, 101.5) == (), "that was the answer to the change before"
    assert [outcome.end for outcome in canary.settle(KEY, node, EVERY, NEWER, 102.0)] == [End.PASSED]


def test_nothing_is_held_back_while_nobody_is_connected() -> None:
    canary = settled()

    canary.publish({KEY: NEW}, {}, 100.0)

    assert canary.pick(KEY, A, None, has_config=True) is NEW


def test_a_canary_that_leaves_is_replaced() -> None:
    canary = settled()
    canary.publish({KEY: NEW}, {KEY: ALL}, 100.0)
    gone = first(canary)
    left = [node for node in ALL if node != gone]

    assert canary.leave(KEY, gone, left, 101.0) == ()
    assert first(canary) in left


def test_the_last_client_to_leave_ends_the_trial() -> None:
    canary = settled()
    canary.publish({KEY: NEW}, {KEY: [A]}, 100.0)

    canary.leave(KEY, A, [], 101.0)

    assert canary.pick(KEY, B, None, has_config=True) is NEW


def test_policies_are_independent_of_each_other() -> None:
    canary = Canary(Share(number=1).of, PATIENCE)
    canary.publish({KEY: OLD, OTHER: OLD}, {KEY: [A], OTHER: [B]}, 0.0)
    canary.expire(PATIENCE)
    canary.publish({KEY: NEW, OTHER: NEW}, {KEY: [A, C], OTHER: [B]}, 100.0)

    canary.refuse(KEY, refusal(first(canary)))

    assert canary.rollouts[KEY].stage is Stage.REFUSED
    assert canary.rollouts[OTHER].stage is Stage.TRIAL
    assert canary.pick(OTHER, B, None, has_config=True) is NEW


def test_after_a_restart_those_who_have_something_keep_it_until_the_first_run_what_is_served() -> None:
    canary = Canary(Share(number=1).of, PATIENCE)
    canary.publish({KEY: NEW}, {}, 0.0)
    for members in ([A], [A, B]):
        canary.join(KEY, members[-1], members, 1.0)

    during = [canary.pick(KEY, node, None, has_config=True) for node in (A, B)]
    fresh = canary.pick(KEY, C, None, has_config=False)
    (passed,) = canary.settle(KEY, A, EVERY, NEW, 1.1)

    assert during == [NEW, None]
    assert fresh is NEW, "a pod that has nothing can't be worse off"
    assert passed.end is End.PASSED
    assert canary.pick(KEY, B, None, has_config=True) is NEW


def test_after_a_restart_what_a_canary_refuses_again_reaches_nobody_who_has_something() -> None:
    canary = Canary(Share(number=1).of, PATIENCE)
    canary.publish({KEY: NEW}, {}, 0.0)
    canary.join(KEY, A, [A], 1.0)

    canary.refuse(KEY, refusal(A))

    assert canary.pick(KEY, A, None, has_config=True) is None
    assert canary.pick(KEY, B, None, has_config=True) is None


def test_pods_that_change_to_a_new_policy_keep_what_the_old_one_gave_them_during_its_trial() -> None:
    canary = settled()
    canary.publish({KEY: OLD, OTHER: NEW}, {OTHER: ALL}, 100.0)
    (node,) = canary.rollouts[OTHER].first

    given = {other: canary.pick(OTHER, other, OLD, has_config=False) for other in ALL}

    assert [other for other, snapshot_given in given.items() if snapshot_given is NEW] == [node]
    canary.refuse(OTHER, refusal(node))
    assert canary.pick(OTHER, node, OLD, has_config=False) is OLD


def test_a_new_policy_of_a_single_pod_settles_without_complaint() -> None:
    canary = Canary(Share(number=3).of, PATIENCE)
    canary.publish({KEY: NEW}, {}, 0.0)
    canary.join(KEY, A, [A], 1.0)
    canary.settle(KEY, A, EVERY, NEW, 1.1)

    (outcome,) = canary.expire(1.0 + PATIENCE)

    assert outcome.end is End.PASSED


def test_a_change_before_the_first_trial_is_over_can_go_back_to_what_the_first_ones_run() -> None:
    canary = Canary(Share(number=3).of, PATIENCE)
    canary.publish({KEY: OLD}, {}, 0.0)
    canary.join(KEY, A, [A], 1.0)
    canary.settle(KEY, A, EVERY, OLD, 1.1)
    canary.publish({KEY: NEW}, {KEY: [A]}, 2.0)

    canary.refuse(KEY, refusal(A))

    assert canary.pick(KEY, A, None, has_config=True) is OLD


def test_a_policy_that_is_gone_is_forgotten() -> None:
    canary = settled()
    canary.publish({}, {}, 100.0)

    assert canary.rollouts == {}
    assert canary.pick(KEY, A, None, has_config=False) is None


@pytest.mark.parametrize(("text", "total", "count"), [("3", 100, 3), ("5", 2, 5), ("5%", 100, 5), ("1%", 3, 1)])
def test_a_share_is_a_number_or_a_part_and_never_nobody(text: str, total: int, count: int) -> None:
    share = Share(number=int(text.removesuffix("%")), is_percent=text.endswith("%"))

    assert share.of(total) == count
