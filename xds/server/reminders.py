"""
What is told again every day: that the server's own certificate ends.

When that is worth a word is decided by `xds.server.authentication`; this has the time, and no clock.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xds.server.authentication import Authentication

DAY = 86_400.0
"""Seconds."""


async def remind_of_end(authentication: Authentication, every: float = DAY) -> None:
    """Have it told until cancelled, first after `every` seconds: at the start it was told."""
    while True:
        await asyncio.sleep(every)
        authentication.warn_of_end()
