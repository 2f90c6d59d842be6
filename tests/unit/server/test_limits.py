"""Limits of one client: exact in what they allow, and blind to everybody else."""

from __future__ import annotations

import pytest

from xds.names import NodeId
from xds.server.limits import Pace, StreamCounter


def test_a_burst_is_free_and_what_follows_comes_at_the_rate() -> None:
    pace = Pace(rate=10, burst=5)

    assert [pace.take(100.0) for _ in range(5)] == pytest.approx([0, 0, 0, 0, 0], abs=1e-9)
    assert [pace.take(100.0) for _ in range(3)] == pytest.approx([0.1, 0.2, 0.3])


def test_who_waits_as_told_keeps_the_rate() -> None:
    pace, now = Pace(rate=10, burst=5), 0.0
    for _ in range(105):
        now += pace.take(now)

    assert now == pytest.approx(10.0)


def test_a_rest_refills_the_bucket_and_no_more() -> None:
    pace = Pace(rate=10, burst=5)
    for _ in range(5):
        pace.take(0.0)

    assert pace.take(3600.0) == 0
    assert [pace.take(3600.0) for _ in range(5)] == pytest.approx([0, 0, 0, 0, 0.1], abs=1e-9)


def test_streams_are_counted_per_node_and_forgotten_with_the_last() -> None:
    counter, one, other = StreamCounter(2), NodeId("a.b"), NodeId("c.d")

    assert [counter.enter(one) for _ in range(3)] == [True, True, False]
    assert counter.enter(other)
    counter.leave(one)
    assert counter.enter(one)
    for _ in range(2):
        counter.leave(one)
    counter.leave(other)
    assert counter == StreamCounter(2)
