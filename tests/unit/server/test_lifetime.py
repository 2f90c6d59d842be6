"""When heartbeats come: often enough, spread, and not after the end. In virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise

from tests.support.virtual_time import VirtualTimeLoop, run_virtually
from xds.server.lifetime import Heartbeat, limit_life
from xds.server.session import DELTA, SOTW

TTL = 60.0


def test_heartbeats_come_three_times_in_a_life_until_they_are_stopped() -> None:
    moments: list[float] = []

    async def live(loop: VirtualTimeLoop) -> None:
        heartbeat = Heartbeat(TTL, lambda: moments.append(loop.time()))
        await asyncio.sleep(10 * TTL)
        heartbeat.stop()
        await asyncio.sleep(TTL)

    run_virtually(live)

    assert len(moments) in {29, 30, 31}
    assert 0 <= moments[0] <= TTL / 3
    assert {round(later - earlier, 6) for earlier, later in pairwise(moments)} == {TTL / 3}
    assert moments[-1] <= 10 * TTL


def test_heartbeats_of_streams_that_begin_together_are_spread() -> None:
    """Neither all at once, nor each at a moment of its own: waking costs more than writing."""
    moments: list[float] = []

    async def live(loop: VirtualTimeLoop) -> None:
        heartbeats = [Heartbeat(TTL, lambda: moments.append(loop.time())) for _ in range(3000)]
        await asyncio.sleep(TTL / 3 + 0.5)
        for heartbeat in heartbeats:
            heartbeat.stop()

    run_virtually(live)

    strokes = Counter(round(moment, 6) for moment in moments)
    assert len(strokes) == 20
    assert max(strokes.values()) < 3000 / 20 * 2


def test_without_a_time_to_live_a_method_stays_what_it_is() -> None:
    assert limit_life(DELTA, None) is DELTA


def test_state_of_the_world_has_no_time_to_live() -> None:
    """An Envoy takes a heartbeat there for the end of everything."""
    assert limit_life(SOTW, TTL) is SOTW
    assert limit_life(DELTA, TTL).ttl == TTL
