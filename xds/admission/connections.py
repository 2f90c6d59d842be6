"""
Which connections may stay: a bound on all of them and on those of one address, and how long one may be silent.

It stands between the sockets and whatever speaks HTTP. Invariants: a connection on which nothing is being answered ends
by itself, and gives way to a new one where there are too many; so whoever only holds connections open keeps nobody out.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_CONNECTIONS = 512
"""Connections at a time."""
MAX_OF_ONE = 224
"""
Those of one address: less than half of all.

An API server of usual settings has 200 changes under way at a time, and each asks over a connection of its own.
"""
FIRST_HEAD = 5.0
"""Seconds for the head of the first request; an API server connects because it has something to ask."""
_READ_AHEAD = 1 << 16
"""Bytes of TLS that are read before anybody wants them; half a MiB by default, for each of so many connections."""
BETWEEN = 100.0
"""
Seconds from an answer to the head of the next request.

Go's clients, the API server among them, close what they don't use after 90 seconds themselves. If they are first, none
of their questions meets a connection that is just being closed.
"""


class Connections:
    """Those that are open, by address."""

    def __init__(self) -> None:
        """Begin with none."""
        self._open: dict[asyncio.BaseTransport, _Connection] = {}

    def admit(self, inner: asyncio.Protocol) -> asyncio.Protocol:
        """Return what a new socket is given in place of `inner`, which it goes on to if it may stay."""
        return _Connection(self._open, inner)

    def begin(self, transport: asyncio.BaseTransport | None) -> None:
        """Note that a request came whole as far as its head, and is being answered."""
        if transport is not None and (connection := self._open.get(transport)) is not None:
            connection.be_busy()

    def end(self, transport: asyncio.BaseTransport | None) -> None:
        """Note that it was answered."""
        if transport is not None and (connection := self._open.get(transport)) is not None:
            connection.be_idle(BETWEEN)


class _Connection(asyncio.Protocol):
    def __init__(self, others: dict[asyncio.BaseTransport, _Connection], inner: asyncio.Protocol) -> None:
        self._open = others
        self._inner = inner
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.peer = ""
        self.is_idle = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport), "a connection of TLS is one"
        peer = transport.get_extra_info("peername")
        self.peer = str(peer[0]) if peer else ""
        if not _make_room(self._open, self.peer):
            transport.abort()
            return
        self._transport = transport
        self._open[transport] = self
        # Transports of TLS have it (asyncio.sslproto), others need none.
        if callable(limit := getattr(transport, "set_read_buffer_limits", None)):
            limit(high=_READ_AHEAD)
        self.be_idle(FIRST_HEAD)
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._leave():
            self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._transport is not None:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return None if self._transport is None else self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def be_busy(self) -> None:
        self.is_idle = False
        self._stop_timer()

    def be_idle(self, seconds: float) -> None:
        """Wait for a request; whoever waits longest is first among `others`."""
        assert self._transport is not None, "only connections that stay are idle"
        self.is_idle = True
        self._open[self._transport] = self._open.pop(self._transport)
        self._stop_timer()
        self._timer = asyncio.get_running_loop().call_later(seconds, self.cut)

    def cut(self) -> None:
        """End it at once: TLS would have it wait for the other side's farewell."""
        if self._transport is not None:
            self._transport.abort()
            # What is being cut makes room now, and not when the loop comes to it.
            self._open.pop(self._transport, None)

    def _leave(self) -> bool:
        """Return whether it had been let in."""
        self._stop_timer()
        if self._transport is None:
            return False
        self._open.pop(self._transport, None)
        self._transport = None
        return True

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _make_room(others: Mapping[asyncio.BaseTransport, _Connection], peer: str) -> bool:
    """Return whether there is room for one of `peer`, if need be in place of the one that is idle for longest."""
    crowd = [each for each in others.values() if each.peer == peer]
    if len(crowd) < MAX_OF_ONE:
        if len(others) < MAX_CONNECTIONS:
            return True
        crowd = list(others.values())
    oldest = next((each for each in crowd if each.is_idle), None)
    if oldest is not None:
        oldest.cut()
    return oldest is not None
