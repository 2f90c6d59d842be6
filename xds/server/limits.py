"""
How much one client may ask for, so that no client is a burden to the others.

Pure: time is passed in. Who exceeds a limit of requests is read later, which its connection's flow control makes it
feel; who exceeds one of streams is refused.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xds.names import NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of a server; durations are seconds."""

    streams_per_node: int = 32
    """An Envoy has one, one more while it reconnects, and one per type with the separate services."""
    first_request: float = 15.0
    """After this long without a first request a stream ends …"""
    unknown_node: float = 60.0
    """… and after this if the cluster knows no pod of its node's name. A pod is known before it is started."""
    requests_per_second: float = 100.0
    """What one stream may ask for without end …"""
    request_burst: int = 2_000
    """… and at once. An Envoy answers each response, and asks once for each type when it connects."""
    handshake: float = 10.0
    """A connection without a completed handshake, of TLS and of HTTP/2, is closed after this long …"""
    idle_connection: float = 60.0
    """… and one without a stream after this."""
    connection_age: float | None = None
    """After this long, give or take a tenth, a connection ends; None: never."""


@dataclass(slots=True)
class StreamCounter:
    """The open streams of each node."""

    limit: int
    _open: Counter[NodeId] = field(default_factory=Counter)

    def enter(self, node_id: NodeId) -> bool:
        """Count one more stream, unless that would be too many; tell whether it was counted."""
        if self._open[node_id] >= self.limit:
            return False
        self._open[node_id] += 1
        return True

    def leave(self, node_id: NodeId) -> None:
        """Count one less; of nodes without streams nothing is kept."""
        self._open[node_id] -= 1
        if not self._open[node_id]:
            del self._open[node_id]


class Pace:
    """A bucket that holds `burst` requests and gets `rate` of them back per second."""

    __slots__ = ("_burst", "_due", "_rate")

    def __init__(self, rate: float, burst: int) -> None:
        """Begin with a full bucket."""
        self._rate = rate
        self._burst = burst / rate
        self._due = -math.inf

    def take(self, now: float, count: int = 1) -> float:
        """Count requests at `now` (seconds of a clock that does not go back); return how long to wait after them."""
        self._due = max(self._due, now - self._burst) + count / self._rate
        return self.wait(now)

    def wait(self, now: float) -> float:
        """Return how long to wait before the next request."""
        return max(0.0, self._due - now)
