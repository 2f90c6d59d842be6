"""Streams of pods that the cluster knows, does not know yet, or does not know any more; over real gRPC."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import grpc
import pytest
from structlog.testing import capture_logs

from tests.feature.ads_peer import DELTA, NOW, SOTW, Peer, Served
from tests.support.control_plane import wait_until
from tests.unit.protocol.values import CDS, LDS, resource, snapshot
from xds.cache import SnapshotCache, World
from xds.canary import Canary, Stage
from xds.clients import Clients
from xds.gen import discovery_pb2 as pb
from xds.names import NodeId
from xds.policy.model import Workload
from xds.policy.parse import Document, parse_document
from xds.server.ads import AdsServer
from xds.server.limits import Limits
from xds.staging import StagedCache
from xds.workloads import Pod, Workloads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from xds.snapshot import Snapshot

UNAVAILABLE, NOT_FOUND = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND
BOTH = pytest.mark.parametrize("variant", [SOTW, DELTA])


def pod(number: int = 0, app: str = "web", uid: str = "uid-1", **labels: str) -> dict[NodeId, Pod | None]:
    """A pod of the namespace `shop`, as an update."""
    known = tuple(sorted({"app": app, **labels}.items()))
    workload = Workload(pod=f"web-{number}", namespace="shop", labels=known, service_account="web")
    return {node(number): Pod(workload, uid)}


def node(number: int = 0) -> NodeId:
    return NodeId(f"web-{number}.shop")


def document(app: str) -> Document:
    text = (
        f"apiVersion: egress-xds/v1alpha1\nkind: EgressPolicy\nmetadata: {{name: {app}}}\nspec:\n"
        f"  selector: {{podLabels: {{matchLabels: {{app: {app}}}}}}}\n"
        "  proxies: {corp: {endpoints: [{url: 'http://192.0.2.2:3128'}]}}\n"
        "  default: {action: tunnel, proxy: corp}\n  dialect: go\n"
    )
    return Document(f"{app}.yaml", text)


def content(text: str) -> Snapshot:
    return snapshot(resource(CDS, "c", text), resource(LDS, "l", "same for all"))


WORLD = World(
    candidates=tuple(policy for app in ("web", "api") for policy in parse_document(document(app)).policies),
    snapshots={(None, app): content(app) for app in ("web", "api")},
    refuse_all=content("refuse"),
)


@dataclass(frozen=True)
class House:
    """A server, and the pods that its cluster tells of."""

    served: Served
    workloads: Workloads

    def responses(self) -> int:
        """Count what was written to anybody."""
        return sum(totals.responses for totals in self.served.clients.totals.values())


@asynccontextmanager
async def housing(
    *pods: dict[NodeId, Pod | None], limits: Limits | None = None, staged: StagedCache | None = None
) -> AsyncIterator[House]:
    cache, clients, workloads = staged or SnapshotCache(), Clients(staged), Workloads()
    cache.publish(WORLD)
    for known in pods:
        workloads.update(known)
    server = AdsServer(cache, clients, clock=lambda: NOW, workloads=workloads, limits=limits)
    port = await server.start("127.0.0.1:0")
    try:
        yield House(Served(server, cache, clients, f"127.0.0.1:{port}"), workloads)
    finally:
        await server.stop(0)
    assert not workloads._followers, "an ended stream follows its pod"


async def settle(peer: Peer, *expected: str) -> None:
    """Hear one response and acknowledge it."""
    told = await peer.hear()
    assert told.resources == expected
    await peer.acknowledge(told)


@pytest.fixture(autouse=True)
def silent() -> Iterator[None]:
    with capture_logs():
        yield


@BOTH
async def test_a_pod_is_served_as_what_the_cluster_tells_whatever_it_claims(variant: str) -> None:
    who = pb.Node(id=node())
    who.metadata.update({"labels": {"app": "api"}, "serviceAccount": "admin"})
    kind = pb.DiscoveryRequest if variant == SOTW else pb.DeltaDiscoveryRequest
    async with housing(pod()) as house, house.served.connect(variant) as peer:
        await peer.send(kind(node=who, type_url=CDS.type_url).SerializeToString())
        await settle(peer, "c=web")
        (client,) = house.served.clients.connected()

    assert client.workload.labels == (("app", "web"),)
    assert client.workload.service_account == "web"


@BOTH
async def test_a_pod_that_is_not_known_gets_nothing_and_everything_at_once_when_it_is(variant: str) -> None:
    async with housing(pod(1)) as house, house.served.connect(variant) as peer:
        await peer.ask(CDS)
        await peer.ask(LDS, node=None)
        await wait_until(lambda: node() in house.workloads._followers)
        house.served.cache.wake()
        house.workloads.update(pod(1, app="api"))
        async with house.served.connect(variant) as other:  # whatever the first could be sent has gone out by then
            await other.ask(CDS, node=node(1))
            await settle(other, "c=api")
        assert house.responses() == 1
        assert node() not in {client.node_id for client in house.served.clients.connected()}

        house.workloads.update(pod())
        await settle(peer, "c=web")
        await settle(peer, "l=same for all")
        await wait_until(lambda: node() in {client.node_id for client in house.served.clients.connected()})


@BOTH
async def test_a_pod_that_stays_unknown_is_told_to_try_again(variant: str) -> None:
    limits, told = Limits(unknown_node=0.05, streams_per_node=1), "the cluster tells of no pod web-0.shop; try again"
    with capture_logs() as logs:
        async with housing(limits=limits) as house:
            for _ in range(2):  # the ended stream does not count any more
                async with house.served.connect(variant) as peer:
                    await peer.ask(CDS)
                    assert await peer.end() == (UNAVAILABLE, told)

            assert house.responses() == 0
            assert house.served.clients.refused == {"unavailable": 2}
    assert [line["reason"] for line in logs if line["event"] == "stream refused"] == [told, told]


async def test_a_pod_that_became_known_in_time_keeps_its_stream() -> None:
    async with housing(limits=Limits(unknown_node=0.5)) as house, house.served.connect(DELTA) as peer:
        await peer.ask(CDS)
        await wait_until(lambda: node() in house.workloads._followers)
        house.workloads.update(pod())
        await settle(peer, "c=web")
        over = asyncio.get_running_loop().time() + 0.6
        await wait_until(lambda: asyncio.get_running_loop().time() > over)
        await peer.ask(LDS, node=None)
        await settle(peer, "l=same for all")


@BOTH
async def test_a_pod_whose_labels_change_gets_its_other_policy_on_the_same_stream_and_nobody_else_hears(
    variant: str,
) -> None:
    async with (
        housing(pod(0), pod(1)) as house,
        house.served.connect(variant) as peer,
        house.served.connect(variant) as other,
    ):
        for one, name in ((peer, node(0)), (other, node(1))):
            await one.ask(CDS, node=name)
            await settle(one, "c=web")
            await one.ask(LDS, node=None)
            await settle(one, "l=same for all")
        house.workloads.update(pod(0, app="api"))
        await settle(peer, "c=api")
        house.workloads.update(pod(0, app="nothing"))
        told = await peer.hear()

        assert told.resources == ("c=refuse",)
        assert house.responses() == 6
        moved = {client.node_id: dict(client.workload.labels)["app"] for client in house.served.clients.connected()}
        assert moved == {node(0): "nothing", node(1): "web"}


@BOTH
async def test_a_thousand_changes_that_matter_to_no_policy_write_nothing(variant: str) -> None:
    async with housing(pod(0), pod(1)) as house, house.served.connect(variant) as peer:
        await peer.ask(CDS, node=node(0))
        await settle(peer, "c=web")
        await peer.ask(LDS, node=None)
        await settle(peer, "l=same for all")
        before = house.responses()
        for number in range(1_000):
            house.workloads.update({**pod(0, revision=str(number)), **pod(1, app="api"), **pod(2, uid=str(number))})
            if number % 100 == 0:
                await asyncio.sleep(0)
        house.workloads.update(pod(0, app="api"))
        await settle(peer, "c=api")

        assert house.responses() == before + 1


@BOTH
@pytest.mark.parametrize("how", ["deleted", "replaced by another"])
async def test_the_stream_of_a_pod_ends_with_it(variant: str, how: str) -> None:
    async with (
        housing(pod(0), pod(1)) as house,
        house.served.connect(variant) as peer,
        house.served.connect(variant) as other,
    ):
        for one, name in ((peer, node(0)), (other, node(1))):
            await one.ask(CDS, node=name)
            await settle(one, "c=web")
        house.workloads.update({node(0): None} if how == "deleted" else pod(0, app="api", uid="uid-2"))
        assert await peer.end() == (NOT_FOUND, f"pod web-0.shop was {how}")

        await wait_until(lambda: len(house.served.clients) == 1)
        house.workloads.update(pod(0, app="api", uid="uid-2"))
        async with house.served.connect(variant) as newer:
            await newer.ask(CDS)
            await settle(newer, "c=api")
        await other.ask(LDS, node=None)
        await settle(other, "l=same for all")


async def test_all_streams_of_a_pod_end_with_it_those_of_separate_services_too() -> None:
    async with housing(pod()) as house:
        method = "/envoy.service.cluster.v3.ClusterDiscoveryService/DeltaClusters"
        async with (
            house.served.connect(DELTA) as peer,
            grpc.aio.insecure_channel(house.served.address) as channel,
        ):
            separate = Peer(DELTA, channel.stream_stream(method)())
            for one in (peer, separate):
                await one.ask(CDS)
                await settle(one, "c=web")
            house.workloads.update({node(): None, **pod(1)})

            assert {await peer.end(), await separate.end()} == {(NOT_FOUND, "pod web-0.shop was deleted")}


async def test_a_pod_that_is_gone_before_its_stream_was_served_is_unknown() -> None:
    """Nothing was told to it, so it waits as any other."""
    async with housing(limits=Limits(unknown_node=0.1)) as house, house.served.connect(DELTA) as peer:
        house.workloads.update(pod())
        house.workloads.update({node(): None})
        await peer.ask(CDS)
        status, _ = await peer.end()

    assert status is UNAVAILABLE


async def test_a_workload_that_is_equal_wakes_nobody() -> None:
    async with housing(pod()) as house, house.served.connect(DELTA) as peer:
        await peer.ask(CDS)
        await settle(peer, "c=web")
        (client,) = house.served.clients.connected()
        (known,) = pod().values()
        assert known is not None
        house.workloads.update({node(): replace(known)})
        (after,) = house.served.clients.connected()

    assert after.workload is client.workload


@BOTH
async def test_a_canary_that_moves_to_another_policy_leaves_the_trial_to_one_that_stays(variant: str) -> None:
    staged = StagedCache(Canary(lambda _: 1, 1000.0), clock=lambda: NOW, tell=lambda _: None)
    async with (
        housing(pod(0), pod(1), staged=staged) as house,
        house.served.connect(variant) as first,
        house.served.connect(variant) as second,
    ):
        for one, name in ((first, node(0)), (second, node(1))):
            await one.ask(CDS, node=name)
            await settle(one, "c=web")
            await one.ask(LDS, node=None)
            await settle(one, "l=same for all")
        await wait_until(lambda: staged.rollouts[None, "web"].stage is Stage.SETTLED)
        staged.publish(replace(WORLD, snapshots={**WORLD.snapshots, (None, "web"): content("newer")}))
        (chosen,) = staged.rollouts[None, "web"].first
        number = 0 if chosen == node(0) else 1
        canary, other = (first, second) if number == 0 else (second, first)
        assert (await canary.hear()).resources == ("c=newer",)  # and does not answer
        house.workloads.update(pod(number, app="api"))
        assert (await canary.hear()).resources == ("c=api",)
        await settle(other, "c=newer")
        await wait_until(lambda: staged.rollouts[None, "web"].stage is Stage.SETTLED)

        assert house.responses() == 7
