"""Pods of the cluster: who is told of a change, and that nobody is told of none."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.unit.protocol.values import CDS, resource, snapshot
from xds.cache import World
from xds.canary import Canary, Outcome, Stage
from xds.clients import Clients, Connection
from xds.names import NodeId
from xds.policy.model import Workload
from xds.policy.parse import Document, parse_document
from xds.staging import StagedCache
from xds.workloads import Pod, Workloads

if TYPE_CHECKING:
    from xds.snapshot import Snapshot

WEB, OTHER = NodeId("web-0.shop"), NodeId("web-1.shop")
POD = Pod(Workload(pod="web-0", namespace="shop", labels=(("app", "web"),), service_account="web"), "uid-1")


def labelled(pod: Pod, *labels: tuple[str, str]) -> Pod:
    return replace(pod, workload=replace(pod.workload, labels=labels))


class Heard:
    """Counts its calls, and notes what there was to see in each."""

    def __init__(self, workloads: Workloads, node_id: NodeId = WEB) -> None:
        self.seen: list[Pod | None] = []
        self._workloads, self._node_id = workloads, node_id
        self.end = workloads.follow(node_id, self)

    def __call__(self) -> None:
        self.seen.append(self._workloads.get(self._node_id))


def test_a_follower_hears_of_all_that_becomes_of_its_pod() -> None:
    workloads = Workloads()
    heard = Heard(workloads)
    moved, replaced = labelled(POD, ("app", "api")), replace(POD, uid="uid-2")
    for pod in (POD, moved, replaced, None):
        workloads.update({WEB: pod})

    assert heard.seen == [POD, moved, replaced, None]


def test_what_is_as_it_was_is_told_to_nobody() -> None:
    workloads = Workloads()
    workloads.update({WEB: POD})
    heard, other = Heard(workloads), Heard(workloads, OTHER)
    workloads.update({WEB: Pod(replace(POD.workload), "uid-1"), OTHER: None})
    workloads.update({WEB: labelled(POD)})

    assert heard.seen == [labelled(POD)]
    assert other.seen == []


def test_all_of_an_update_is_in_place_before_anybody_hears_of_it() -> None:
    workloads = Workloads()
    seen: list[int] = []
    for node in (WEB, OTHER):
        workloads.follow(node, lambda: seen.append(len(workloads.pods())))
    workloads.update({WEB: POD, OTHER: POD})

    assert seen == [2, 2]


def test_who_does_not_follow_any_more_hears_nothing_and_costs_nothing() -> None:
    workloads = Workloads()
    first, second = Heard(workloads), Heard(workloads)
    first.end()
    first.end()
    workloads.update({WEB: POD})
    second.end()

    assert (first.seen, second.seen) == ([], [POD])
    assert not workloads._followers


def test_equal_callbacks_are_followers_of_their_own() -> None:
    workloads = Workloads()
    calls: list[int] = []

    def callback() -> None:
        calls.append(1)

    end = workloads.follow(WEB, callback)
    workloads.follow(WEB, callback)
    end()
    workloads.update({WEB: POD})

    assert calls == [1]


def test_a_follower_may_end_others_and_itself_and_begin_to_follow_while_it_is_called() -> None:
    workloads = Workloads()
    late: list[Heard] = []

    def callback() -> None:
        end()
        doomed.end()
        late.append(Heard(workloads))

    end = workloads.follow(WEB, callback)
    doomed, last = Heard(workloads), Heard(workloads)
    workloads.update({WEB: POD})
    workloads.update({WEB: None})

    assert doomed.seen == []
    assert last.seen == [POD, None]
    assert [one.seen for one in late] == [[None]]


def test_ten_thousand_pods_and_their_followers_are_a_few_megabytes() -> None:
    labels = tuple((f"app.kubernetes.io/part-{number}", "x" * 30) for number in range(6))
    tracemalloc.start()
    try:
        workloads = Workloads()
        for number in range(10_000):
            name = f"checkout-7d4b9c6f5-{number:05}"
            node = NodeId(f"{name}.team-{number % 200}")
            workload = Workload(pod=name, namespace=f"team-{number % 200}", labels=labels, service_account="checkout")
            workloads.update({node: Pod(workload, f"2f56dddd-df78-42c8-942f-{number:012}")})
            workloads.follow(node, tracemalloc.clear_traces)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert used < 12_000_000, f"{used / 10_000:.0f} bytes per pod"


def document(name: str, label: str) -> Document:
    return Document(
        f"{name}.yaml",
        f"apiVersion: egress-xds/v1alpha1\nkind: EgressPolicy\nmetadata: {{name: {name}}}\nspec:\n"
        f"  selector: {{podLabels: {{matchLabels: {{app: {label}}}}}}}\n"
        "  proxies: {corp: {endpoints: [{url: 'http://192.0.2.2:3128'}]}}\n"
        "  default: {action: tunnel, proxy: corp}\n  dialect: go\n",
    )


POLICIES = tuple(policy for name in ("web", "api") for policy in parse_document(document(name, name)).policies)
REFUSE = snapshot(resource(CDS, "refuse"))
WEB_0, WEB_1 = (Workload(pod=f"web-{number}", namespace="shop", labels=(("app", "web"),)) for number in (0, 1))
OLD, NEW, API = (snapshot(resource(CDS, "c", content)) for content in ("old", "new", "api"))


def world(web: str = "old") -> World:
    served: dict[tuple[str | None, str], Snapshot] = {(None, "web"): OLD if web == "old" else NEW, (None, "api"): API}
    return World(candidates=POLICIES, snapshots=served, refuse_all=REFUSE)


class Site:
    """A cache with canaries, and two clients that run the policy `web`."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.wakes = 0
        self.cache = StagedCache(Canary(lambda _: 1, 10.0), clock=lambda: 0.0, tell=self.outcomes.append)
        self.clients = Clients(self.cache)
        self.cache.publish(world())
        self.streams = {node: self._connect(node) for node in (WEB_0, WEB_1)}
        self.cache.subscribe(self._wake)

    def _connect(self, workload: Workload) -> Connection:
        connection = self.clients.connect(node_of(workload), workload, since=0.0, is_in_step=lambda _, __: True)
        connection.note_settled()
        return connection

    def _wake(self) -> None:
        self.wakes += 1

    def first(self, name: str) -> frozenset[NodeId]:
        return self.cache.rollouts[None, name].first


def node_of(workload: Workload) -> NodeId:
    return NodeId(f"{workload.pod}.{workload.namespace}")


def as_api(workload: Workload) -> Workload:
    return replace(workload, labels=(("app", "api"),))


def test_a_client_whose_labels_change_is_told_its_other_policy_and_nobody_is_woken() -> None:
    site = Site()
    moved = as_api(WEB_0)
    site.streams[WEB_0].move(moved)

    assert [client.workload for client in site.clients.connected()] == [moved, WEB_1]
    assert site.cache.snapshot_for(moved) is API
    assert site.cache.snapshot_for(WEB_1) is OLD
    assert site.wakes == 0


def test_a_canary_that_moves_to_another_policy_is_replaced_by_one_that_stays() -> None:
    site = Site()
    site.cache.publish(world("new"))
    (chosen,) = site.first("web")
    canary, other = sorted((WEB_0, WEB_1), key=lambda workload: node_of(workload) != chosen)
    wakes = site.wakes
    site.streams[canary].move(as_api(canary))

    assert site.first("web") == {node_of(other)}
    assert site.cache.snapshot_for(other) is NEW
    assert site.cache.snapshot_for(as_api(canary)) is API
    assert site.wakes == wakes + 1
    assert site.cache.rollouts[None, "web"].stage is Stage.TRIAL


def test_the_last_of_a_policy_that_moves_leaves_nobody_to_wait_for() -> None:
    site = Site()
    for workload in (WEB_0, WEB_1):
        site.streams[workload].move(as_api(workload))
    site.cache.publish(world("new"))

    assert site.cache.rollouts[None, "web"].stage is Stage.SETTLED
    assert not site.first("web")


def test_who_moves_into_a_trial_is_told_what_is_good() -> None:
    site = Site()
    site.streams[WEB_0].move(as_api(WEB_0))
    site.cache.publish(world("new"))
    site.streams[WEB_0].move(WEB_0)

    assert site.first("web") == {node_of(WEB_1)}
    assert site.cache.snapshot_for(WEB_0) is OLD
    assert site.cache.snapshot_for(WEB_1) is NEW


def test_a_node_with_two_streams_moves_once() -> None:
    site = Site()
    second = site.clients.connect(node_of(WEB_0), WEB_0, since=1.0)
    site.streams[WEB_0].move(as_api(WEB_0))
    second.move(as_api(WEB_0))
    site.streams[WEB_0].close()
    site.cache.publish(world("new"))
    second.move(WEB_0)

    assert site.cache.snapshot_for(WEB_0) is OLD
    assert site.first("web") == {node_of(WEB_1)}


def test_labels_that_lead_to_the_same_policy_change_nothing_for_a_trial() -> None:
    site = Site()
    site.cache.publish(world("new"))
    before, wakes = site.cache.rollouts[None, "web"], site.wakes
    for workload in (WEB_0, WEB_1):
        site.streams[workload].move(replace(workload, labels=(("app", "web"), ("tier", "front"))))

    assert site.cache.rollouts[None, "web"] is before
    assert site.wakes == wakes
