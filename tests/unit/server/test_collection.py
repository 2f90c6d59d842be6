"""A server is not stopped every few hundred objects, and still finds its garbage."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING

import pytest

from xds.server.collection import relax_collection

if TYPE_CHECKING:
    from collections.abc import Iterator


class Cyclic:
    """Refers to itself, so that only a collection frees it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)  # as Python ships it; a server that a test ran in this process may have changed it
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


def test_what_lives_at_the_start_is_spared_and_the_young_are_looked_through_less_often() -> None:
    before = gc.get_threshold()[0]

    relax_collection()

    assert gc.get_freeze_count() > 0
    assert gc.get_threshold()[0] > before


def test_a_cycle_that_is_made_later_is_still_freed() -> None:
    relax_collection()
    gone = weakref.ref(Cyclic())

    kept: list[list[int]] = [[] for _ in range(3_000_000)]

    assert gone() is None
    assert len(kept) == 3_000_000
