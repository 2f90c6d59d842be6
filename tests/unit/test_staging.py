"""The cache with canaries: nodes with several streams, policies that change hands, and who is woken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.unit.protocol.values import CDS, LDS, resource, snapshot
from xds.cache import World
from xds.canary import Canary, End, Outcome, Stage
from xds.clients import Clients, Connection
from xds.diagnostics import Where
from xds.names import EXPLICIT_LISTENER, OUTBOUND_LISTENER, NodeId
from xds.policy.model import HeldPolicy, Mode, Workload
from xds.policy.parse import Document, parse_document
from xds.staging import StagedCache

if TYPE_CHECKING:
    from xds.policy.model import Policy
    from xds.resources import ResourceType
    from xds.snapshot import Snapshot

PATIENCE = 10.0
OLD = snapshot(resource(CDS, "c", "1"), resource(LDS, "l", "1"))
NEW = snapshot(resource(CDS, "c", "2"), resource(LDS, "l", "1"))
REFUSE = snapshot(resource(CDS, "refuse"))
A, B = Workload(pod="a", namespace="shop"), Workload(pod="b", namespace="shop")


def policy() -> Policy:
    (found,) = parse_document(
        Document("default.yaml", "httpProxy: http://192.0.2.2:3128\nhttpsProxy: http://192.0.2.2:3128\ndialect: go\n")
    ).policies
    return found


POLICY = policy()


def world(served: Snapshot) -> World:
    return World(candidates=(POLICY,), snapshots={(POLICY.namespace, POLICY.name): served}, refuse_all=REFUSE)


class Site:
    """A staged cache, its registry, and a clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.outcomes: list[Outcome] = []
        self.wakes = 0
        canary = Canary(lambda _: 1, PATIENCE)
        self.cache = StagedCache(canary, clock=lambda: self.now, tell=self.outcomes.append)
        self.clients = Clients(self.cache)
        self.cache.subscribe(self._woken)
        self.in_step = True

    def _woken(self) -> None:
        self.wakes += 1

    def connect(self, workload: Workload, *, is_returning: bool = False) -> Connection:
        node = NodeId(f"{workload.pod}.{workload.namespace}")
        return self.clients.connect(node, workload, since=0.0, is_in_step=self._is_in_step, is_returning=is_returning)

    def _is_in_step(self, _kind: ResourceType, _snapshot: Snapshot) -> bool:
        return self.in_step

    def told(self, *workloads: Workload) -> list[Snapshot | None]:
        return [self.cache.snapshot_for(workload) for workload in workloads]

    def stage(self) -> Stage:
        (rollout,) = self.cache.rollouts.values()
        return rollout.stage


def settled() -> tuple[Site, Connection, Connection]:
    site = Site()
    site.cache.publish(world(OLD))
    first, second = site.connect(A), site.connect(B)
    for connection in (first, second):
        connection.note_settled()
    assert site.stage() is Stage.SETTLED
    return site, first, second


def test_one_of_two_is_told_first_and_the_other_is_woken_when_it_may_follow() -> None:
    site, first, second = settled()
    site.cache.publish(world(NEW))
    before, wakes = site.told(A, B), site.wakes
    canary = first if before[0] is NEW else second
    canary.note_settled()

    assert sorted(before, key=id) == sorted([NEW, OLD], key=id)
    assert site.told(A, B) == [NEW, NEW]
    assert site.wakes == wakes + 1
    assert [outcome.end for outcome in site.outcomes][-1] is End.PASSED
    assert site.cache.ended[End.PASSED] == len(site.outcomes)


def test_a_client_that_is_not_in_step_is_waited_for() -> None:
    site, first, second = settled()
    site.in_step = False
    site.cache.publish(world(NEW))
    for connection in (first, second):
        connection.note_settled()
    trial = site.stage()
    site.now += PATIENCE
    site.cache.expire()

    assert trial is Stage.TRIAL
    assert site.told(A, B) == [NEW, NEW]
    assert site.outcomes[-1].end is End.TIMED_OUT


def test_a_nack_takes_the_canary_back() -> None:
    site, first, second = settled()
    site.cache.publish(world(NEW))
    canary = first if site.told(A) == [NEW] else second
    canary.note_nack(CDS, NEW.versions[CDS], "no", 1.0)

    assert site.told(A, B) == [OLD, OLD]
    assert site.outcomes[-1].end is End.REFUSED


def test_a_node_is_connected_as_long_as_it_has_a_stream() -> None:
    site, first, second = settled()
    again = {A.pod: site.connect(A), B.pod: site.connect(B)}
    site.cache.publish(world(NEW))
    name, canary = (A.pod, first) if site.told(A) == [NEW] else (B.pod, second)
    canary.close()
    still = site.told(A, B)
    again[name].close()

    assert sorted(still, key=id) == sorted([NEW, OLD], key=id)
    assert site.told(A if name == B.pod else B) == [NEW], "the other node is the canary now"


def test_a_pod_without_a_policy_has_no_part_in_it() -> None:
    site = Site()
    site.cache.publish(World(candidates=(), snapshots={}, refuse_all=REFUSE))
    connection = site.connect(A)
    connection.note_settled()
    connection.note_nack(CDS, REFUSE.versions[CDS], "no", 1.0)
    told = site.told(A)
    connection.close()

    assert told == [REFUSE]
    assert site.outcomes == []


def test_a_held_policy_says_nothing_and_ends_its_trial() -> None:
    site, _, _ = settled()
    site.cache.publish(world(NEW))
    held = HeldPolicy(name="default", where=Where(source="default.yaml"))
    site.cache.publish(World(candidates=(held,), snapshots={}, refuse_all=REFUSE))

    assert site.told(A, B) == [None, None]
    assert site.cache.rollouts == {}


def test_nobody_is_told_anything_before_the_first_world() -> None:
    site = Site()
    site.connect(A)

    assert site.told(A) == [None]


def test_a_node_that_is_not_connected_is_shown_what_is_good() -> None:
    site, _, _ = settled()
    site.cache.publish(world(NEW))

    assert site.told(Workload(pod="elsewhere", namespace="shop")) == [OLD]


BOTH = (resource(LDS, OUTBOUND_LISTENER), resource(LDS, EXPLICIT_LISTENER))
FIRST, SECOND = snapshot(resource(CDS, "c", "1"), *BOTH), snapshot(resource(CDS, "c", "2"), *BOTH)
OTHER_EXPLICIT = snapshot(resource(CDS, "c", "1"), BOTH[0], resource(LDS, EXPLICIT_LISTENER, "2"))
E = Workload(pod="e", namespace="shop", mode=Mode.EXPLICIT)


def alone() -> tuple[Site, Connection]:
    """Return a site whose only client is in explicit mode."""
    site = Site()
    site.cache.publish(world(FIRST))
    connection = site.connect(E)
    connection.note_settled()
    assert site.stage() is Stage.SETTLED
    return site, connection


def test_a_client_that_is_told_of_a_part_passes_a_trial_by_running_that() -> None:
    site, connection = alone()
    site.cache.publish(world(SECOND))
    connection.note_settled()

    assert site.outcomes[-1].end is End.PASSED
    (told,) = site.told(E)
    assert told is not None
    assert (told.of(CDS), set(told.of(LDS))) == (SECOND.of(CDS), {EXPLICIT_LISTENER})


def test_a_refusal_of_a_part_is_one_of_the_whole() -> None:
    site, connection = alone()
    site.cache.publish(world(OTHER_EXPLICIT))
    (told,) = site.told(E)
    assert told is not None
    connection.note_nack(LDS, told.versions[LDS], "no", 1.0)

    assert site.outcomes[-1].end is End.REFUSED
    (again,) = site.told(E)
    assert again is not None
    assert again.of(LDS)[EXPLICIT_LISTENER] is FIRST.of(LDS)[EXPLICIT_LISTENER]


def test_a_refusal_of_an_older_part_says_nothing_of_the_trial() -> None:
    site, connection = alone()
    site.cache.publish(world(OTHER_EXPLICIT))
    connection.note_nack(LDS, FIRST.versions[LDS], "no", 1.0)

    assert site.stage() is Stage.TRIAL


def test_canaries_are_clients_that_try_all_of_a_policy_if_there_are_any() -> None:
    for name in "abcdefgh":
        site, _ = alone()
        whole = Workload(pod=f"whole-{name}", namespace="shop")
        site.connect(whole).note_settled()
        site.cache.publish(world(SECOND))

        assert site.told(whole) == [SECOND]


def test_a_pod_that_is_captured_from_now_on_is_told_of_the_rest() -> None:
    site, connection = alone()
    captured = Workload(pod="e", namespace="shop")
    connection.move(captured)

    assert site.told(captured) == [FIRST]
