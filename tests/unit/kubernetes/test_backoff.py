"""How long the API server is left alone after a failure."""

from __future__ import annotations

import pytest

from xds.kubernetes.backoff import Backoff


def test_the_wait_doubles_up_to_the_cap() -> None:
    backoff = Backoff(first=1.0, cap=8.0)
    assert [backoff.next(1.0) for _ in range(6)] == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


def test_chance_decides_over_the_upper_half() -> None:
    assert Backoff(first=2.0).next(0.0) == 1.0
    assert Backoff(first=2.0).next(0.5) == 1.5
    assert Backoff(first=2.0).next(1.0) == 2.0


def test_a_success_begins_anew() -> None:
    backoff = Backoff(first=1.0)
    for _ in range(5):
        backoff.next(1.0)
    backoff.reset()
    assert backoff.next(1.0) == 1.0


def test_many_failures_do_not_overflow() -> None:
    backoff = Backoff(first=1.0, cap=30.0)
    assert {backoff.next(1.0) for _ in range(5000)} == {1.0, 2.0, 4.0, 8.0, 16.0, 30.0}


@pytest.mark.parametrize(
    ("retry_after", "chance", "expected"),
    [
        pytest.param(10.0, 0.0, 10.0, id="what the server asks for is the least"),
        pytest.param(10.0, 1.0, 11.0, id="and not the same for all"),
        pytest.param(0.0, 1.0, 1.0, id="one that asks for nothing is spared as any other"),
        pytest.param(86_400.0, 0.0, 300.0, id="a day is a mistake"),
        pytest.param(60.0, 0.0, 60.0, id="the cap is ours, not the server's"),
    ],
)
def test_a_server_that_asks_for_time_gets_it(retry_after: float, chance: float, expected: float) -> None:
    assert Backoff(first=1.0, cap=30.0).next(chance, retry_after=retry_after) == expected
