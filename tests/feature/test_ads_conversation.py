"""What an Envoy and the server say to each other over a real connection, in both variants."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from tests.feature.ads_peer import DELTA, NOW, SOTW, serving, world
from tests.support.control_plane import wait_until
from tests.unit.protocol.values import CDS, LDS, RDS, resource
from xds.cache import World
from xds.clients import Nack
from xds.diagnostics import Where
from xds.gen import discovery_pb2 as pb
from xds.policy.model import HeldPolicy, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator

RECORDED = Path(__file__).parents[1] / "data/envoy-1.40"
A1, A2, B1 = resource(CDS, "a", "1"), resource(CDS, "a", "2"), resource(CDS, "b", "1")
L1 = resource(LDS, "l", "1")

both = pytest.mark.parametrize(
    "variant", [pytest.param(SOTW, id="state of the world"), pytest.param(DELTA, id="incremental")]
)


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[dict[str, object]]]:
    with capture_logs() as entries:
        yield entries  # type: ignore[misc]  # structlog's event dictionaries are mutable mappings


@both
async def test_a_subscription_is_answered_and_a_new_world_pushed(variant: str) -> None:
    async with serving() as served, served.connect(variant) as peer:
        served.cache.publish(world(A1, L1))
        await peer.ask(CDS)
        first = await peer.hear()
        await peer.acknowledge(first)
        await peer.ask(LDS, node=None)
        second = await peer.hear()
        await peer.acknowledge(second)

        served.cache.publish(world(A2, L1))
        third = await peer.hear()

    assert [told.resources for told in (first, second, third)] == [("a=1",), ("l=1",), ("a=2",)]
    assert [told.nonce for told in (first, second, third)] == ["1", "2", "3"]
    assert third.version != first.version


@both
async def test_a_world_that_is_equal_is_not_pushed(variant: str) -> None:
    """What is pushed afterwards is the proof that the silence was not deafness."""
    async with serving() as served, served.connect(variant) as peer:
        served.cache.publish(world(A1))
        await peer.ask(CDS)
        await peer.acknowledge(await peer.hear())

        served.cache.publish(world(resource(CDS, "a", "1")))
        served.cache.publish(world(A2))

        told = await peer.hear()
        assert (told.nonce, told.resources) == ("2", ("a=2",))


@both
async def test_the_registry_follows_a_stream_from_its_first_request_to_its_end(variant: str) -> None:
    async with serving() as served:
        served.cache.publish(world(A1))
        async with served.connect(variant) as peer:
            await peer.ask(CDS)
            told = await peer.hear()
            await peer.acknowledge(told)
            await wait_until(lambda: served.clients.connected()[0].types[CDS].is_current)

            (client,) = served.clients.connected()
            assert (client.node_id, client.since, client.variant) == ("web-0.shop", NOW, variant)
            assert client.workload == Workload(pod="web-0", namespace="shop")
            assert client.types[CDS].acked == told.version
        await wait_until(lambda: not served.clients.connected())


@both
async def test_a_nack_is_recorded_logged_and_not_repeated_until_the_content_changes(
    variant: str, logs: list[dict[str, object]]
) -> None:
    async with serving() as served, served.connect(variant) as peer:
        served.cache.publish(world(A1))
        await peer.ask(CDS)
        told = await peer.hear()
        await peer.ask(CDS, node=None, nonce=told.nonce, error="no such filter")
        await wait_until(lambda: served.clients.connected()[0].types[CDS].is_rejected)

        (client,) = served.clients.connected()
        assert client.types[CDS].nack == Nack(A1_VERSION, "no such filter")
        (entry,) = [entry for entry in logs if entry["event"] == "response rejected"]
        assert (entry["node"], entry["type"], entry["text"]) == ("web-0.shop", "cluster", "no such filter")

        served.cache.publish(world(A1, L1))  # another type changed: no reason to repeat the cluster
        served.cache.publish(world(A2, L1))
        again = await peer.hear()
        assert (again.nonce, again.resources) == ("2", ("a=2",))


async def test_a_delta_client_that_comes_back_is_told_only_what_differs() -> None:
    async with serving() as served:
        served.cache.publish(world(A2, B1, L1))
        async with served.connect(DELTA) as peer:
            await peer.ask(CDS, initial={"a": A1.version, "b": B1.version, "gone": "1"})

            changed, removed = await peer.hear(), await peer.hear()

    assert (changed.resources, changed.removed) == (("a=2",), ())
    assert (removed.resources, removed.removed) == ((), ("gone",))


async def test_a_delta_client_that_has_everything_is_told_nothing() -> None:
    async with serving() as served, served.connect(DELTA) as peer:
        served.cache.publish(world(A1, B1, L1))
        await peer.ask(CDS, initial={"a": A1.version, "b": B1.version})
        await peer.ask(LDS, node=None)

        told = await peer.hear()

    assert (told.nonce, told.resources) == ("1", ("l=1",))


async def test_a_sotw_client_that_comes_back_with_the_current_version_is_told_nothing() -> None:
    async with serving() as served, served.connect(SOTW) as peer:
        served.cache.publish(world(A1, L1))
        await peer.send(
            pb.DiscoveryRequest(
                node=pb.Node(id="web-0.shop"), type_url=CDS.type_url, version_info=A1_VERSION
            ).SerializeToString()
        )
        await peer.ask(LDS, node=None)

        told = await peer.hear()

    assert (told.nonce, told.resources) == ("1", ("l=1",))


@both
async def test_a_pod_whose_policy_is_held_hears_nothing_until_it_can_be_used(variant: str) -> None:
    held = HeldPolicy(name="default", where=Where(source="default.yaml"))
    async with serving() as served, served.connect(variant) as peer:
        served.cache.publish(World(candidates=(held,), snapshots={}, refuse_all=world(A1).refuse_all))
        await peer.ask(CDS)
        await wait_until(lambda: len(served.clients) == 1)
        assert not served.clients.connected()[0].types

        served.cache.publish(world(A2))

        told = await peer.hear()
        assert (told.nonce, told.resources) == ("1", ("a=2",))


@both
async def test_a_client_that_is_there_before_the_first_world_is_answered_when_it_comes(variant: str) -> None:
    async with serving() as served, served.connect(variant) as peer:
        await peer.ask(CDS)
        await wait_until(lambda: len(served.clients) == 1)

        served.cache.publish(world(A1))

        assert (await peer.hear()).resources == ("a=1",)


@both
async def test_an_unknown_type_is_met_with_silence_and_noted(variant: str, logs: list[dict[str, object]]) -> None:
    async with serving() as served, served.connect(variant) as peer:
        served.cache.publish(world(A1))
        await peer.ask("type.googleapis.com/example.Unheard", "x")
        await peer.ask("type.googleapis.com/example.Unheard", "x", "y", node=None)
        await peer.ask(CDS, node=None)

        told = await peer.hear()

        assert (told.nonce, told.resources) == ("1", ("a=1",))
        assert served.clients.connected()[0].unknown_types == ("type.googleapis.com/example.Unheard",)
        assert [entry["event"] for entry in logs].count("unknown type requested") == 1


@both
async def test_a_wrong_nonce_answers_nothing(variant: str) -> None:
    async with serving() as served, served.connect(variant) as peer:
        served.cache.publish(world(A1, L1))
        await peer.ask(CDS)
        await peer.hear()
        await peer.ask(CDS, node=None, nonce="no-such-nonce")
        await peer.ask(CDS, node=None, nonce="no-such-nonce", error="no")
        await peer.ask(LDS, node=None)
        told = await peer.hear()

        assert (told.nonce, told.resources) == ("2", ("l=1",))
        status = served.clients.connected()[0].types[CDS]
        assert (status.acked, status.nack) == (None, None)


async def test_a_stale_sotw_request_changes_no_subscription() -> None:
    async with serving() as served, served.connect(SOTW) as peer:
        served.cache.publish(world(resource(RDS, "r"), resource(RDS, "s"), L1))
        await peer.ask(RDS, "r")
        await peer.hear()
        await peer.ask(RDS, "s", node=None, nonce="no-such-nonce")
        await peer.ask(LDS, node=None)

        told = await peer.hear()

    assert (told.nonce, told.resources) == ("2", ("l=1",))


@both
async def test_recorded_requests_of_a_real_envoy_are_answered(variant: str) -> None:
    """The recorded node id is of another mesh, so one that this server knows is appended: the last value wins."""
    first, *others = (path.read_bytes() for path in sorted(RECORDED.glob(f"{variant}-request-*.bin")))
    node = pb.Node(id="app-7d9c6b5f4d-abcde.ns1")
    renamed = pb.DiscoveryRequest(node=node) if variant == SOTW else pb.DeltaDiscoveryRequest(node=node)
    async with serving() as served, served.connect(variant) as peer:
        served.cache.publish(world(A1, L1))

        await peer.send(first + renamed.SerializeToString())
        clusters = await peer.hear()
        await peer.send(others[0])
        listeners = await peer.hear()
        for answer in others[1:]:
            await peer.send(answer)
        await wait_until(lambda: all(served.clients.connected()[0].types[kind].is_current for kind in (CDS, LDS)))

        assert (clusters.resources, listeners.resources) == (("a=1",), ("l=1",))
        assert served.clients.connected()[0].node_id == "app-7d9c6b5f4d-abcde.ns1"


A1_VERSION = world(A1).refuse_all.versions[CDS]
