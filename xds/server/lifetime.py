"""
Resources that live only as long as the control plane says so: a time to live, and the heartbeats that renew it.

Only incremental streams have it. Envoy 1.40 takes a state-of-the-world heartbeat for an empty state and drops every
cluster and listener at once, so a state-of-the-world client is given resources that last.

Each stream has a timer of its own. One timer for all would be one object less and wake every stream at the same moment;
these begin at random moments, so heartbeats are spread evenly over the interval, and those of one stream's types go out
together. What streams in the same state are told is encoded once (`protocol.memo`).

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


class Heartbeat:
    """Calls `beat` a few times in every `ttl` seconds, first at a random moment, until it is stopped."""

    def __init__(self, ttl: float, beat: Callable[[], None]) -> None:
        self._beat = beat
        self._interval = ttl / _BEATS
        self._loop = asyncio.get_running_loop()
        first = random.uniform(0, self._interval)  # noqa: S311  # spreads load; nobody gains by guessing it
        self._timer = self._loop.call_later(first, self._tick)

    def stop(self) -> None:
        """Call it no more."""
        self._timer.cancel()

    def _tick(self) -> None:
        self._timer = self._loop.call_later(self._interval, self._tick)
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
