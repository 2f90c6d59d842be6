"""
How long to wait before the API server is asked again.

Pure: the random number is passed in. Invariant: a server that asks for time gets it, and several clients that lost
the same server do not come back at the same moment.
"""

from __future__ import annotations

from dataclasses import dataclass

_LONGEST_ASKED = 300.0
"""Seconds that a server may ask for: beyond that it is taken for a mistake."""


@dataclass(slots=True)
class Backoff:
    """Doubles from `first` to `cap`, in seconds; `reset` once something succeeded."""

    first: float = 0.5
    cap: float = 30.0
    _failures: int = 0

    def next(self, random: float, *, retry_after: float | None = None) -> float:
        """
        Return the seconds to wait after one more failure.

        `random` is from 0 to 1 and decides over the upper half of the wait. `retry_after` is what the server asks for
        (RFC 9110, section 10.2.3): never less than that, and never all at that same second.
        """
        wait = min(self.cap, self.first * 2.0 ** min(self._failures, 32))
        self._failures += 1
        spread = wait * (0.5 + random / 2)
        if retry_after is None:
            return spread
        return max(spread, min(retry_after, _LONGEST_ASKED) + self.first * random)

    def reset(self) -> None:
        """Begin anew after a success."""
        self._failures = 0
