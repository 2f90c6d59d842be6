"""A wake-up for one waiter: level-triggered, so that any number of changes before it looks are one."""

from __future__ import annotations

import asyncio


class Signal:
    """Set by whoever changes something, awaited by whoever looks."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        """Wake the waiter, now or as soon as it waits."""
        self._event.set()

    async def wait(self) -> None:
        """Wait until something changed since the last wait."""
        await self._event.wait()
        self._event.clear()
