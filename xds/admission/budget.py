"""
How many bytes may be held at a time, by all who ask and by one address.

Invariants: what was taken is given back, whatever happens; whoever wants much is not overtaken without end by those of
his address who want little; one address leaves room for others.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Budget:
    """`most` bytes in all, `most_of_one` for one address."""

    def __init__(self, most: int, most_of_one: int) -> None:
        """Begin with nothing taken."""
        self._left = most
        self._most_of_one = most_of_one
        self._taken: Counter[str] = Counter()
        self._waiting: list[tuple[str, int, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def hold(self, peer: str, size: int, deadline: float) -> AsyncIterator[None]:
        """Hold `size` bytes (at most what one may have) for as long as the context; TimeoutError at `deadline`."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (peer, size, turn)
        self._waiting.append(entry)
        self._admit()
        try:
            async with asyncio.timeout_at(deadline):
                await turn
            yield
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)
            else:
                self._left += size
                self._taken -= Counter({peer: size})
            self._admit()

    def _admit(self) -> None:
        """Let in who fits, in the order in which they came; of one address nobody passes another."""
        passed: set[str] = set()
        for entry in tuple(self._waiting):
            peer, size, turn = entry
            if peer in passed or size > self._left or self._taken[peer] + size > self._most_of_one:
                passed.add(peer)
                continue
            self._waiting.remove(entry)
            self._left -= size
            self._taken[peer] += size
            if not turn.done():
                turn.set_result(None)
