"""
What the demo looks like: steps that were seen or not, and under each the lines that show it.

Only this module prints. It decides nothing.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

_LABEL_WIDTH = 12


class Stage:
    """Prints to `console`, one line at a time, and counts the steps that were seen to work."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        self.steps = 0

    def title(self, text: str) -> None:
        """Print a heading."""
        self._console.print(Text(f"\n{text}", style="bold"))

    def picture(self, text: str) -> None:
        """Print a drawing as it is."""
        self._console.print(Text(text, style="cyan"))

    def note(self, text: str) -> None:
        """Print something that the reader must know and that is not a step."""
        self._console.print(Text(f"! {text}", style="yellow"))

    def detail(self, label: str, text: str) -> None:
        """Print what somebody did, said or logged: one line per line of `text`."""
        for line in text.splitlines():
            self._console.print(Text(f"    {label:<{_LABEL_WIDTH}}", style="dim"), Text(line), sep="")

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Print `text` as seen when the block ends, or as not seen when it raises."""
        try:
            yield
        except BaseException:
            self._console.print(Text(f"✘ {text}", style="bold red"))
            raise
        self.steps += 1
        self._console.print(Text("✔ ", style="bold green"), Text(text), sep="")
