"""The worlds that the end-to-end tests share: one per proxy, built when the first test asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import ProxyKind, World, open_world

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.pod_world import PodWorld


@pytest.fixture(scope="session", params=list(ProxyKind), ids=lambda kind: kind.value)
def shared_world(request: pytest.FixtureRequest) -> Iterator[World]:
    """One world after another, each with another proxy."""
    with open_world(request.param) as world:
        yield world


@pytest.fixture
def world(shared_world: World | PodWorld) -> Iterator[World | PodWorld]:
    """
    A shared world; whatever a test does there, no pod must reach for the Internet by itself.

    Files with a world of their own put it in the place of `shared_world`.
    """
    before = shared_world.leaked
    yield shared_world
    assert shared_world.leaked == before, "a pod sent packets towards the Internet by itself"
