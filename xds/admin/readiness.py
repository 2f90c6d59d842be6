"""
Whether this server may be sent clients, in one place: the health service and `/readyz` both tell it.

Nothing here decides; the composition root says when something changed. Invariant: once it ends, it is never ready
again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

NOT_SYNCED = "the policies were not read and compiled yet"
NOT_LISTENING = "the server does not listen yet"
ENDING = "the server is shutting down"


class Readiness:
    """Ready, or the reason why not; whoever subscribes is told of each change."""

    def __init__(self) -> None:
        self._reason: str | None = NOT_SYNCED
        self._callbacks: list[Callable[[], None]] = []

    @property
    def reason(self) -> str | None:
        """Why the server is not ready; None: it is."""
        return self._reason

    def note_synced(self) -> None:
        """There is a world to serve."""
        if self._reason == NOT_SYNCED:
            self._change(NOT_LISTENING)

    def note_listening(self) -> None:
        """Clients get through."""
        if self._reason != ENDING:
            self._change(None)

    def note_ending(self) -> None:
        """No new clients are wanted."""
        self._change(ENDING)

    def subscribe(self, callback: Callable[[], None]) -> None:
        """Call `callback` after each change."""
        self._callbacks.append(callback)

    def _change(self, reason: str | None) -> None:
        self._reason = reason
        for callback in self._callbacks:
            callback()
