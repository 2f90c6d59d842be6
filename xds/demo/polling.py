"""Waiting for something to become true, with a deadline. Nothing else in the demo sleeps."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from xds.demo.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_INTERVAL = 0.01
"""Seconds between two looks."""


def wait_until(look: Callable[[], T | None], what: str, timeout: float, interval: float = _INTERVAL) -> T:
    """Call `look` until it returns something true and return that; after `timeout` seconds a LabError names `what`."""
    deadline = time.monotonic() + timeout
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() >= deadline:
            raise LabError(f"{what}: not seen within {timeout:g} s")
        time.sleep(interval)
