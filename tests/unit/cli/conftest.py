"""Fixtures of the command line's tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import structlog

from tests.support.command_line import Runner

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def default_logging() -> Iterator[None]:
    """Undo what a verb configured: its stream is the test's."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def xds(capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(capsys)
