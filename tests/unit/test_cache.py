"""The cache: whose snapshot is whose, and who is woken when."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.unit.protocol.values import CDS, LDS, resource, snapshot
from xds.cache import SnapshotCache, World
from xds.diagnostics import Where
from xds.names import CAPTURED_LISTENERS, EXPLICIT_LISTENER
from xds.policy.model import Default, Deny, HeldPolicy, Mode, Policy, Selector, Workload

if TYPE_CHECKING:
    from collections.abc import Callable

WHERE = Where("here.yaml")
WEB = Workload(pod="web-0", namespace="shop")
WIDE = Policy(name="wide", default=Default(action=Deny(), http_action=Deny()), where=WHERE)
NARROW = replace(WIDE, name="narrow", namespace="shop")
HELD = HeldPolicy(name="narrow", namespace="shop", where=WHERE)
REFUSE, OF_WIDE, OF_NARROW = (snapshot(resource(CDS, name)) for name in ("refuse", "wide", "narrow"))
SNAPSHOTS = {(None, "wide"): OF_WIDE, ("shop", "narrow"): OF_NARROW}


def world(*candidates: Policy | HeldPolicy) -> World:
    return World(candidates, SNAPSHOTS, REFUSE)


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        pytest.param((WIDE, NARROW), OF_NARROW, id="a pod gets the snapshot of the policy in force for it"),
        pytest.param((WIDE,), OF_WIDE, id="a cluster-wide policy is for every namespace"),
        pytest.param((), REFUSE, id="a pod that no policy selects is refused everything"),
        pytest.param(
            (replace(WIDE, selector=Selector(namespaces=("other",))),),
            REFUSE,
            id="a policy for others leaves a pod refused",
        ),
        pytest.param((WIDE, HELD), None, id="a held policy is silence, not the next policy in rank"),
        pytest.param((replace(WIDE, name="new"),), None, id="a policy that was never compiled is silence"),
    ],
)
def test_what_a_pod_is_told(candidates: tuple[Policy | HeldPolicy, ...], expected: object) -> None:
    cache = SnapshotCache()
    cache.publish(world(*candidates))

    assert cache.snapshot_for(WEB) is expected


def test_nothing_is_told_before_the_first_world() -> None:
    """An empty snapshot would delete what a running Envoy has."""
    cache = SnapshotCache()

    assert cache.snapshot_for(WEB) is None
    assert cache.policy_for(WEB) is None


def test_the_policy_in_force_is_shown_even_if_it_is_held() -> None:
    cache = SnapshotCache()
    cache.publish(world(WIDE, HELD))

    assert cache.policy_for(WEB) is HELD


def test_selection_follows_the_newest_world() -> None:
    cache = SnapshotCache()
    cache.publish(world(WIDE))
    assert cache.snapshot_for(WEB) is OF_WIDE

    cache.publish(world(WIDE, NARROW))
    assert cache.snapshot_for(WEB) is OF_NARROW


def test_a_new_world_wakes_everybody_who_has_not_gone() -> None:
    cache, woken = SnapshotCache(), []
    leave = cache.subscribe(lambda: woken.append("left"))
    cache.subscribe(lambda: woken.append("stays"))
    leave()
    leave()

    cache.publish(world())

    assert woken == ["stays"]


def test_an_equal_world_wakes_nobody() -> None:
    cache, woken = SnapshotCache(), []
    cache.publish(world(WIDE))
    cache.subscribe(lambda: woken.append("again"))

    cache.publish(World((WIDE,), dict(SNAPSHOTS), snapshot(resource(CDS, "refuse"))))

    assert woken == []


def test_one_callback_may_be_subscribed_twice_and_leaves_once() -> None:
    cache, woken = SnapshotCache(), []
    note = lambda: woken.append("note")  # noqa: E731  # one object, subscribed twice
    leave = cache.subscribe(note)
    cache.subscribe(note)
    leave()

    cache.publish(world())

    assert woken == ["note"]


def test_who_leaves_while_others_are_woken_disturbs_nobody() -> None:
    cache, woken = SnapshotCache(), []
    leaves: list[Callable[[], None]] = []

    def go() -> None:
        woken.append("goes")
        leaves.pop()()

    leaves.append(cache.subscribe(go))
    cache.subscribe(lambda: woken.append("stays"))

    cache.publish(world())
    cache.publish(world(WIDE))

    assert woken == ["goes", "stays", "stays"]


LISTENING = snapshot(resource(CDS, "c"), *(resource(LDS, name) for name in (*CAPTURED_LISTENERS, EXPLICIT_LISTENER)))
EXPLICIT = replace(WEB, mode=Mode.EXPLICIT)


def test_whose_connections_are_not_captured_is_told_of_no_listener_for_that() -> None:
    cache = SnapshotCache()
    cache.publish(World((WIDE,), {(None, "wide"): LISTENING}, REFUSE))

    told = cache.snapshot_for(EXPLICIT)

    assert cache.snapshot_for(WEB) is LISTENING
    assert told is not None
    assert dict(told.of(LDS)) == {EXPLICIT_LISTENER: LISTENING.of(LDS)[EXPLICIT_LISTENER]}
    assert told.of(CDS) is LISTENING.of(CDS)
    assert told.versions[CDS] == LISTENING.versions[CDS]


def test_pods_of_a_policy_in_explicit_mode_share_one_snapshot() -> None:
    cache = SnapshotCache()
    cache.publish(World((WIDE,), {(None, "wide"): LISTENING}, REFUSE))

    assert cache.snapshot_for(EXPLICIT) is cache.snapshot_for(replace(EXPLICIT, pod="web-1"))


def test_nothing_listens_for_captured_connections_where_no_policy_is_in_force_either() -> None:
    cache = SnapshotCache()
    cache.publish(World((), {}, LISTENING))

    told = cache.snapshot_for(EXPLICIT)
    assert told is not None
    assert set(told.of(LDS)) == {EXPLICIT_LISTENER}


def test_a_new_world_is_what_pods_in_explicit_mode_are_told_too() -> None:
    cache = SnapshotCache()
    cache.publish(World((WIDE,), {(None, "wide"): LISTENING}, REFUSE))
    cache.snapshot_for(EXPLICIT)
    cache.publish(World((WIDE,), {(None, "wide"): OF_WIDE}, REFUSE))

    assert cache.snapshot_for(EXPLICIT) == OF_WIDE


def test_silence_is_silence_in_every_mode() -> None:
    cache = SnapshotCache()
    assert cache.snapshot_for(EXPLICIT) is None
    cache.publish(world(WIDE, HELD))

    assert cache.snapshot_for(EXPLICIT) is None
