"""
How much may be done for one PAC file, whatever it says.

A few lines of JavaScript can ask for any amount of work. All that follows, evaluates or compares spends from one
`Budget`. Nothing here looks at a file. Invariant: who spends more than there is, ends with a SourceError.
"""

from __future__ import annotations

from xds.errors import SourceError

MOST_WORK = 1_000_000
"""Comparisons of two regions, or what takes as long: about two seconds."""

MOST_TEXT = 64 * 1024
"""Characters of a text that a file puts together."""

EVALUATION = 8
"""What an expression costs, in comparisons."""


class Budget:
    """What is left for one file."""

    def __init__(self, source: str, work: int = MOST_WORK) -> None:
        """Set up for `source`, as messages call it."""
        self._source = source
        self._left = work

    def spend(self, work: int = 1) -> None:
        """
        Take `work` from what is left.

        Raises SourceError if that is too little.
        """
        self._left -= work
        if self._left < 0:
            raise SourceError(f"{self._source} asks for too much to follow; import what matters of it")

    def check_text(self, length: int) -> None:
        """
        Look at the length of a text before it is put together.

        Raises SourceError if it is too long.
        """
        if length > MOST_TEXT:
            message = f"{self._source} puts together a text of more than {MOST_TEXT >> 10} KiB"
            raise SourceError(f"{message}; import what matters of it")
