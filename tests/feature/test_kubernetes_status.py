"""Operators read on the ConfigMap what is in force, whichever replica leads and whatever the API server does."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from tests.support.api_server import ApiServerEmulation
from tests.support.cluster import HOME, policy
from tests.support.control_plane import wait_until
from xds.cache import SnapshotCache
from xds.facts import Facts
from xds.judge import PolicyKey, SourceRead
from xds.kubernetes.connection import ApiError, ApiServer, connect
from xds.kubernetes.documents import build_documents
from xds.kubernetes.lease import Durations
from xds.kubernetes.objects import POLICY_LABEL, ConfigMapObject, reduce_config_map
from xds.kubernetes.reflector import Collection, Reflector
from xds.kubernetes.replicas import Member
from xds.kubernetes.replicas import Pace as ReplicasPace
from xds.kubernetes.reporting import Paces, Reporting, Sight
from xds.kubernetes.signal import Signal
from xds.kubernetes.status import ACCEPTED, PROBLEMS, STATUS, STATUS_JSON, Streams, count_pods
from xds.kubernetes.writer import Pace as WriterPace
from xds.policy.model import Workload
from xds.reconcile import Debounce, Inputs, Reconciler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

GOOD = "httpProxy: http://192.0.2.10:3128\nhttpsProxy: http://192.0.2.10:3128\ndialect: go\nnoProxy: [10.0.0.0/8]\n"
BAD = GOOD.replace("/8", "/33")
CORP: PolicyKey = (None, "corp")
PACES = Paces(
    lease=Durations(lease=2.0, renew_deadline=1.2, retry=0.2),
    replicas=ReplicasPace(look=0.1, refresh=0.5, stale=1.5, gone=3.0),
    writer=WriterPace(look=0.05, counts=0.2, check=2.0),
)


class _Cable:
    """The way to the API server, which a test may cut."""

    def __init__(self, api: ApiServer) -> None:
        self._api = api
        self.is_cut = False
        self.written: list[str] = []

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        timeout: float = 10.0,  # noqa: ASYNC109  # of one request
    ) -> dict[str, object]:
        if self.is_cut:
            raise ApiError(None, "Unreachable", "the cable is cut")
        answer = await self._api.request(
            method, path, query=query, body=body, content_type=content_type, accept=accept, timeout=timeout
        )
        if method != "GET":
            self.written.append(path)
        return answer


class _ConfigMaps:
    """Policies as a reflector tells of them: both a source of documents and of facts that never change."""

    def __init__(self, api: ApiServer) -> None:
        self.signal = Signal()
        self.heard = 0
        self.reflector: Reflector[ConfigMapObject] = Reflector(
            api, Collection("/api/v1/configmaps", POLICY_LABEL), reduce_config_map, self._hear
        )

    def _hear(self, _: object) -> None:
        self.heard += 1
        self.signal.set()

    async def read(self) -> SourceRead:
        await self.reflector.synced.wait()
        return SourceRead(build_documents(self.reflector.items, HOME))

    async def changes(self) -> AsyncIterator[None]:
        yield
        while True:
            await self.signal.wait()
            yield


class _NoFacts:
    async def collect(self, hosts: frozenset[str]) -> Facts:
        del hosts
        return Facts()

    async def changes(self) -> AsyncIterator[None]:
        await asyncio.Event().wait()
        yield


class _Replica:
    """A replica without Envoys: it reads, judges and reports."""

    def __init__(self, api: ApiServer, identity: str) -> None:
        self.api = api
        self.cable = _Cable(api)
        self.member = Member(namespace=HOME, identity=identity)
        self.streams: dict[PolicyKey, Streams] = {}
        self.expected: dict[PolicyKey, int] = {CORP: 3}
        self.workloads: list[Workload] = []
        """Pods with a sidecar, which are counted instead."""
        self.cache = SnapshotCache()
        self.config_maps = _ConfigMaps(api)
        self.reconciler = Reconciler(
            inputs=Inputs(self.config_maps, _NoFacts()),
            publish=self.cache.publish,
            debounce=Debounce(0.01, 0.05),
            clock=time.time,
        )
        self.reporting = Reporting(
            self.cable,
            self.member,
            Sight(state=lambda: self.reconciler.state, streams=lambda: self.streams, expected=self._expected),
            paces=PACES,
        )
        self.tasks = [
            asyncio.create_task(part)
            for part in (self.config_maps.reflector.run(), self.reconciler.run(), self.reporting.run())
        ]

    def _expected(self) -> Mapping[PolicyKey, int]:
        return count_pods(self.workloads, self.cache.policy_for) if self.workloads else self.expected

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)
        await self.api.close()

    async def kill(self) -> None:
        self.cable.is_cut = True
        await self.stop()

    def is_writing(self) -> bool:
        return any("/configmaps/" in path for path in self.cable.written)


class _Installation:
    """Replicas on one emulated API server."""

    def __init__(self, server: ApiServerEmulation, directory: Path) -> None:
        self.server = server
        self._directory = directory
        self._replicas: list[_Replica] = []

    async def start(self, identity: str) -> _Replica:
        api = await connect(self.server.write_kubeconfig(self._directory, namespace=HOME))
        self._replicas.append(_Replica(api, identity))
        return self._replicas[-1]

    async def stop(self) -> None:
        for replica in self._replicas:
            if not all(task.done() for task in replica.tasks):
                await replica.stop()

    def objects(self, kind: str) -> list[dict[str, Any]]:
        return [
            item
            for resource, items in self.server.store.objects.items()
            if resource.kind == kind
            for item in items.values()
        ]

    def corp(self) -> dict[str, Any]:
        (found,) = (item for item in self.objects("ConfigMap") if item["metadata"]["name"] == "corp")
        return found

    def annotations(self) -> dict[str, str]:
        found: dict[str, str] = self.corp()["metadata"].get("annotations", {})
        return found

    def accepted(self) -> str:
        label: str = self.corp()["metadata"]["labels"].get(ACCEPTED, "")
        return label

    def reasons(self) -> list[str]:
        return sorted(item["reason"] for item in self.objects("Event"))


@asynccontextmanager
async def _installed(directory: Path) -> AsyncIterator[_Installation]:
    async with ApiServerEmulation() as server:
        server.put(policy(HOME, "corp", GOOD))
        installation = _Installation(server, directory)
        try:
            yield installation
        finally:
            await installation.stop()


@pytest.fixture
async def installation(tmp_path: Path) -> AsyncIterator[_Installation]:
    async with _installed(tmp_path) as found:
        yield found


async def test_a_good_policy_says_so_and_for_how_many_pods(installation: _Installation) -> None:
    replica = await installation.start("one")
    replica.streams = {CORP: Streams(connected=2, acknowledged=2)}
    await wait_until(lambda: "2 acknowledged, 1 offline" in installation.annotations().get(STATUS, ""))
    assert installation.annotations()[STATUS].startswith("accepted since 20")
    assert installation.accepted() == "true"
    assert PROBLEMS not in installation.annotations()
    await wait_until(lambda: installation.reasons() == ["PolicyAccepted"])
    managers = {entry["manager"]: entry["operation"] for entry in installation.corp()["metadata"]["managedFields"]}
    assert managers["egress-xds-status"] == "Apply"


async def test_a_broken_policy_shows_its_line_and_keeps_its_last_good_version(installation: _Installation) -> None:
    await installation.start("one")
    await wait_until(lambda: installation.accepted() == "true")
    installation.server.put({**policy(HOME, "corp", BAD)})
    await wait_until(lambda: installation.accepted() == "false")
    annotations = installation.annotations()
    assert annotations[PROBLEMS].startswith("policy.yaml:4 noProxy[0]: error[")
    assert "what was last good stays in force for 3 pods" in annotations[STATUS]
    assert json.loads(annotations[STATUS_JSON])["problems"][0]["line"] == 4
    await wait_until(lambda: "PolicyRefused" in installation.reasons())
    (event,) = (item for item in installation.objects("Event") if item["reason"] == "PolicyRefused")
    assert event["message"].startswith("policy.yaml:4 noProxy[0]: error[")
    assert event["type"] == "Warning"
    assert event["involvedObject"]["uid"] == installation.corp()["metadata"]["uid"]
    installation.server.put(policy(HOME, "corp", GOOD))
    await wait_until(lambda: installation.accepted() == "true" and PROBLEMS not in installation.annotations())


async def test_pods_that_are_told_nothing_new_are_in_the_status_of_what_holds_them(
    installation: _Installation,
) -> None:
    installation.server.put(policy(HOME, "corp", BAD))
    replica = await installation.start("one")
    replica.workloads = [Workload(pod="web-0", namespace="shop")]
    await wait_until(
        lambda: installation.annotations().get(STATUS, "").endswith("no good version; 1 pod is told nothing new")
    )
    assert json.loads(installation.annotations()[STATUS_JSON])["held"] == 1
    installation.server.put(policy(HOME, "corp", GOOD))
    await wait_until(lambda: installation.annotations().get(STATUS, "").endswith("in force for 1 pod: 1 offline"))
    assert json.loads(installation.annotations()[STATUS_JSON])["held"] == 0


async def test_a_refusal_by_an_envoy_is_told_whichever_replica_has_its_stream(installation: _Installation) -> None:
    leader = await installation.start("one")
    await wait_until(lambda: leader.reporting.is_leader)
    other = await installation.start("two")
    other.streams = {CORP: Streams(connected=1, refused=1, refusal="web-0.shop: no such filter")}
    leader.streams = {CORP: Streams(connected=2, acknowledged=2)}
    await wait_until(lambda: "2 acknowledged, 1 refused" in installation.annotations().get(STATUS, ""))
    assert installation.annotations()[PROBLEMS] == "refused by Envoy: web-0.shop: no such filter"
    await wait_until(lambda: installation.reasons() == ["PolicyAccepted", "RefusedByEnvoy"])
    assert not other.is_writing()


async def test_a_status_that_is_written_is_no_change_of_a_policy(installation: _Installation) -> None:
    """Status is written again and again, and the reconciler has nothing to do."""
    replica = await installation.start("one")
    await wait_until(lambda: installation.accepted() == "true")
    heard, passes = replica.config_maps.heard, replica.reconciler.passes.count
    events = replica.config_maps.reflector.events
    for number in range(1, 6):
        replica.expected = {CORP: 100 + number}
        text = f"in force for {100 + number} pods"
        await wait_until(lambda text=text: text in installation.annotations()[STATUS])  # type: ignore[misc]  # a default
    await wait_until(lambda: replica.config_maps.reflector.events >= events + 5)
    assert (replica.config_maps.heard, replica.reconciler.passes.count) == (heard, passes)


async def test_another_leads_and_writes_within_the_lease_when_the_leader_is_killed(
    installation: _Installation,
) -> None:
    old = await installation.start("one")
    await wait_until(lambda: installation.accepted() == "true")
    new = await installation.start("two")
    await wait_until(lambda: new.reconciler.state.is_synced)
    version = installation.corp()["metadata"]["resourceVersion"]
    await old.kill()
    began = time.monotonic()
    await wait_until(lambda: new.reporting.is_leader)
    took = time.monotonic() - began
    assert took <= PACES.lease.lease + 2 * PACES.lease.retry + 1.0, "of which the second is for a busy machine"
    await asyncio.wait_for(_one_turn(installation, new), 5)
    assert installation.corp()["metadata"]["resourceVersion"] == version, "what is there already is not written again"
    installation.server.put(policy(HOME, "corp", BAD))
    await wait_until(lambda: installation.accepted() == "false")


async def _one_turn(installation: _Installation, replica: _Replica) -> None:
    """Wait until a leader has read what is on the object."""
    asked = installation.server.count("get", "configmaps")
    while installation.server.count("get", "configmaps") == asked:
        assert replica.reporting.is_leader
        await asyncio.sleep(0.01)


async def test_a_leader_that_stops_hands_over_at_once_and_takes_its_numbers_along(
    installation: _Installation,
) -> None:
    old = await installation.start("one")
    old.streams = {CORP: Streams(connected=1, acknowledged=1)}
    await wait_until(lambda: "1 acknowledged" in installation.annotations().get(STATUS, ""))
    new = await installation.start("two")
    new.streams = {CORP: Streams(connected=2, acknowledged=2)}
    await wait_until(lambda: "3 acknowledged" in installation.annotations()[STATUS])
    await old.stop()
    began = time.monotonic()
    await wait_until(lambda: new.reporting.is_leader)
    assert time.monotonic() - began < PACES.lease.lease
    await wait_until(lambda: "2 acknowledged, 1 offline" in installation.annotations()[STATUS])
    names = {item["metadata"]["name"] for item in installation.objects("Lease")}
    assert names == {"egress-xds-leader", new.member.lease}


async def test_of_two_replicas_only_one_writes_whoever_else_writes_on_the_lease(installation: _Installation) -> None:
    """Somebody's annotation on the Lease is a conflict for each renewal, and no change of leader."""
    first = await installation.start("one")
    await wait_until(lambda: first.reporting.is_leader)
    second = await installation.start("two")
    path = f"/apis/coordination.k8s.io/v1/namespaces/{HOME}/leases/egress-xds-leader"
    for number in range(20):
        await first.api.request(
            "PATCH",
            path,
            body={"metadata": {"annotations": {"note": str(number)}}},
            content_type="application/merge-patch+json",
        )
        first.expected = second.expected = {CORP: 50 + number}
        await asyncio.sleep(0.1)
        assert first.reporting.is_leader
    await wait_until(lambda: "for 69 pods" in installation.annotations()[STATUS])
    assert not second.is_writing()


async def test_two_replicas_of_one_name_do_not_both_lead(installation: _Installation) -> None:
    first = await installation.start("same")
    await wait_until(lambda: first.reporting.is_leader)
    second = await installation.start("same")
    await wait_until(lambda: bool(second.cable.written))
    await asyncio.sleep(2 * PACES.lease.retry)
    assert first.reporting.is_leader
    assert not second.reporting.is_leader


async def test_the_numbers_of_two_replicas_of_one_name_are_added_up(installation: _Installation) -> None:
    first, second = await installation.start("same"), await installation.start("same")
    first.streams = {CORP: Streams(connected=1, acknowledged=1)}
    second.streams = {CORP: Streams(connected=2, acknowledged=2)}
    await wait_until(lambda: "3 acknowledged" in installation.annotations().get(STATUS, ""))
    told = []
    deadline = time.monotonic() + 2 * PACES.replicas.refresh + PACES.writer.counts
    while time.monotonic() < deadline:
        told.append(installation.annotations()[STATUS])
        await asyncio.sleep(0.05)
    assert all("3 acknowledged" in text for text in told), "one never hides the other"
    holders = {item["spec"]["holderIdentity"] for item in installation.objects("Lease")}
    assert holders == {first.member.process, second.member.process}


async def test_a_right_that_is_missing_is_named_once_and_used_when_it_is_there(installation: _Installation) -> None:
    installation.server.forbid("patch", "configmaps")
    installation.server.forbid("create", "events")
    with capture_logs() as logs:
        await installation.start("one")
        await wait_until(lambda: any(line.get("verb") == "patch" for line in logs))
        (line,) = (line for line in logs if line.get("verb") == "patch")
        assert line["log_level"] == "error"
        assert (line["resource"], line["namespace"], line["status"]) == ("configmaps", HOME, 403)
        assert STATUS not in installation.annotations()


async def test_an_api_server_that_was_away_finds_the_status_true_afterwards(installation: _Installation) -> None:
    replica = await installation.start("one")
    await wait_until(lambda: installation.accepted() == "true")
    await installation.server.go_away()
    await wait_until(lambda: not replica.reporting.is_leader)
    replica.expected = {CORP: 77}
    installation.server.put(policy(HOME, "corp", BAD))
    await installation.server.come_back()
    await wait_until(lambda: installation.accepted() == "false")
    await wait_until(lambda: "for 77 pods" in installation.annotations()[STATUS])


async def test_a_config_map_that_is_no_policy_any_more_has_no_status(installation: _Installation) -> None:
    replica = await installation.start("one")
    await wait_until(lambda: installation.accepted() == "true")
    path = f"/api/v1/namespaces/{HOME}/configmaps/corp"
    patch = {"metadata": {"labels": {"egress-xds/policy": None}}}
    await replica.api.request("PATCH", path, body=patch, content_type="application/merge-patch+json")
    await wait_until(lambda: not installation.annotations())
    assert ACCEPTED not in installation.corp()["metadata"].get("labels", {})


async def test_what_somebody_else_replaced_gets_its_status_back(installation: _Installation) -> None:
    """`kubectl replace` takes away every annotation that its file does not have."""
    await installation.start("one")
    await wait_until(lambda: installation.accepted() == "true")
    installation.server.put(policy(HOME, "corp", GOOD))
    assert STATUS not in installation.annotations()
    await wait_until(lambda: installation.accepted() == "true" and STATUS in installation.annotations())
