"""What one canary hears and answers, word by word, in both variants of the protocol."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.feature.ads_peer import DELTA, SOTW, Peer, Served
from tests.support.control_plane import wait_until
from tests.unit.protocol.values import CDS, LDS, resource, snapshot
from xds.cache import World
from xds.canary import Canary, Stage
from xds.clients import Clients
from xds.policy.parse import Document, parse_document
from xds.server.ads import AdsServer
from xds.staging import StagedCache

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TEXT = "httpProxy: http://192.0.2.2:3128\nhttpsProxy: http://192.0.2.2:3128\ndialect: go\n"
(POLICY,) = parse_document(Document("default.yaml", TEXT)).policies
KEY = (POLICY.namespace, POLICY.name)


def world(content: str) -> World:
    served = snapshot(resource(CDS, "c", content), resource(LDS, "l", "1"))
    return World(candidates=(POLICY,), snapshots={KEY: served}, refuse_all=snapshot())


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Served, StagedCache]]:
    cache = StagedCache(Canary(lambda _: 1, 1000.0), clock=lambda: 0.0, tell=lambda _: None)
    clients = Clients(cache)
    server = AdsServer(cache, clients, clock=lambda: 0.0)
    port = await server.start("127.0.0.1:0")
    try:
        yield Served(server, cache, clients, f"127.0.0.1:{port}"), cache
    finally:
        await server.stop(0)


async def subscribe(peer: Peer, node: str) -> None:
    for kind in (CDS, LDS):
        await peer.ask(kind, node=node)
        await peer.acknowledge(await peer.hear())


@pytest.mark.parametrize(
    "variant", [pytest.param(SOTW, id="state of the world"), pytest.param(DELTA, id="incremental")]
)
async def test_a_canary_is_told_refuses_and_is_told_the_last_good_again(variant: str) -> None:
    async with serving() as (served, cache), served.connect(variant) as first, served.connect(variant) as second:
        cache.publish(world("1"))
        await subscribe(first, "a.shop")
        await subscribe(second, "b.shop")
        await wait_until(lambda: cache.rollouts[KEY].stage is Stage.SETTLED)
        cache.publish(world("2"))
        (node,) = cache.rollouts[KEY].first
        canary, other = (first, second) if node == "a.shop" else (second, first)

        told = await canary.hear()
        await canary.ask(CDS, node=None, nonce=told.nonce, error="no")
        again = await canary.hear()
        await canary.acknowledge(again)
        cache.publish(world("3"))
        (node,) = cache.rollouts[KEY].first
        canary, other = (canary, other) if canary is (first if node == "a.shop" else second) else (other, canary)
        third = await canary.hear()
        await canary.acknowledge(third)
        last = await other.hear()

    assert [answer.resources for answer in (told, again, third, last)] == [("c=2",), ("c=1",), ("c=3",), ("c=3",)]


@pytest.mark.parametrize(
    "variant", [pytest.param(SOTW, id="state of the world"), pytest.param(DELTA, id="incremental")]
)
async def test_after_a_restart_a_canary_that_already_runs_all_of_it_lets_the_others_follow(variant: str) -> None:
    """Nothing is sent to it, so nothing is acknowledged."""
    async with serving() as (served, cache), served.connect(DELTA) as first, served.connect(variant) as second:
        cache.publish(world("1"))
        known = cache.rollouts[KEY].offered
        for kind in (CDS, LDS):
            versions = {name: found.version for name, found in known.of(kind).items()}
            await first.ask(kind, node="a.shop", initial=versions)
        await wait_until(lambda: cache.rollouts[KEY].stage is Stage.SETTLED)
        await second.ask(CDS, node="b.shop")

        assert (await second.hear()).resources == ("c=1",)
        assert served.clients.totals.keys() == {(variant, CDS)}
