"""Tells people on a terminal what a command is at, once that takes longer than a second; nobody else hears of it."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

_PATIENCE = 1.0
"""Seconds for which nobody wonders."""
_ERASE = "\r\x1b[2K"


@contextmanager
def working(step: str) -> Iterator[None]:
    """Show `step` (e.g. `reading the cluster`) on stderr, from when it has taken a second until it is done."""
    if not sys.stderr.isatty():
        yield
        return
    with _shown_late(step):
        yield


@contextmanager
def _shown_late(step: str) -> Iterator[None]:
    shown = threading.Event()

    def show() -> None:
        shown.set()
        click.echo(click.style(f"{step} …", dim=True), err=True, nl=False)

    timer = threading.Timer(_PATIENCE, show)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        if shown.is_set():
            click.echo(_ERASE, err=True, nl=False)
