"""
Resources that live only as long as the control plane says so: a time to live, and the heartbeats that renew it.

Only incremental streams have it. Envoy 1.40 takes a state-of-the-world heartbeat for an empty state and drops every
cluster and listener at once, so a state-of-the-world client is given resources that last.

Each stream has a timer of its own, so nobody keeps a list of streams, and begins at random, so that not all are woken
at once. But timers ring on the strokes of a common clock only: to write to many streams in one go costs less than to
wake for each. What streams in the same state are told is encoded once (`protocol.memo`).

Nothing here decides what a heartbeat says. Invariant: without a time to live nothing here runs.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import TYPE_CHECKING

from xds.protocol.wire import decode_perishable, encode_perishable_body

if TYPE_CHECKING:
    from collections.abc import Callable

    from xds.gen.discovery_pb2 import Node
    from xds.protocol.stream import RequestT, Response
    from xds.server.session import Method

_BEATS = 3
"""Heartbeats in one life: two may come late before anything is lost."""
_STROKES = 20
"""Strokes of the clock from one heartbeat of a stream to the next. Each wakes that part of the streams."""


class Heartbeat:
    """Calls `beat` a few times in every `ttl` seconds, first at a random moment, until it is stopped."""

    def __init__(self, ttl: float, beat: Callable[[], None]) -> None:
        self._beat = beat
        self._loop = asyncio.get_running_loop()
        self._stroke = ttl / _BEATS / _STROKES
        first = random.randint(1, _STROKES)  # noqa: S311  # spreads load; nobody gains by guessing it
        self._next = int(self._loop.time() / self._stroke) + first
        self._timer = self._loop.call_at(self._next * self._stroke, self._tick)

    def stop(self) -> None:
        """Call it no more."""
        self._timer.cancel()

    def _tick(self) -> None:
        # From the time that it is, not that it was to be: a process that stood still has nothing to catch up with.
        self._next = max(self._next, int(self._loop.time() / self._stroke)) + _STROKES
        self._timer = self._loop.call_at(self._next * self._stroke, self._tick)
        self._beat()


def limit_life(method: Method[RequestT], ttl: float | None) -> Method[RequestT]:
    """Return `method` with resources that live for `ttl` seconds; unchanged for state of the world, or without one."""
    if ttl is None or method.name != "delta":
        return method

    def decode(body: bytes) -> tuple[Node | None, RequestT]:
        node, request = method.decode(body)
        return node, decode_perishable(request)

    def encode_body(response: Response, identifier: str) -> bytes:
        return encode_perishable_body(response, identifier, ttl)

    return replace(method, decode=decode, encode_body=encode_body, ttl=ttl)
