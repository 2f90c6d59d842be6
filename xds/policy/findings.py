"""
The list in which the diagnostics of one source are collected while it is read, and how user text is shown.

Reading goes on after a mistake, so that all of them are reported in one go; every step appends here.
Nothing here decides what a mistake is. Invariant: no message shows what may be a credential, so all
text that comes from a document passes through `quote`; and whether there were errors is known even
where there were more than are kept.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from typing import TYPE_CHECKING, Protocol

from xds.diagnostics import Diagnostic, Where

if TYPE_CHECKING:
    from collections.abc import Iterable

_LONGEST = 80
_NUMBER = re.compile(r"[0-9]+")
_WIDTH = 9
"""Digits of the highest list index: a document has at most some millions of characters."""
_URL = re.compile(r"(.*?)://([^/?#\s]*)(.*)", re.DOTALL)
_AUTHORITY = re.compile(r"(?:\[[^\[\]]*\]|[^:\[\]]*)(?::[0-9]{0,5})?|[0-9A-Fa-f.]*(?::[0-9A-Fa-f.]*){2,}")
_USERINFO_END = re.compile(r"@|%40", re.IGNORECASE)


class Spot(Protocol):
    """A place inside a source: every node of a document is one."""

    @property
    def key(self) -> str:
        """The path inside the document."""
        ...

    @property
    def line(self) -> int:
        """Counts from 1."""
        ...


class Findings:
    """The diagnostics of one source, in the order in which they were found. Its length counts those not kept, too."""

    def __init__(self, source: str, most: int | None = None) -> None:
        """Set up for a source; of errors, and of all others, `most` are kept (None: all)."""
        self.source = source
        self.most = most
        self._count = 0
        self._diagnostics: list[Diagnostic] = []
        self._numbers: list[int] = []
        self._kept = {True: 0, False: 0}
        self._last_lost_error = -1

    def __len__(self) -> int:
        return self._count

    @property
    def is_full(self) -> bool:
        """Whether no more errors are kept: they need not be put into words."""
        return self.most is not None and self._kept[True] >= self.most

    def add(self, code: str, spot: Spot, message: str, hint: str) -> None:
        """Record what is wrong at `spot`."""
        self.add_at(code, self.where(spot), message, hint)

    def add_at(self, code: str, where: Where, message: str, hint: str) -> None:
        """Record what is wrong at a place that is not a node."""
        item = Diagnostic(code, where, message, hint)
        if self.most is None or self._kept[item.is_error] < self.most:
            self._kept[item.is_error] += 1
            self._diagnostics.append(item)
            self._numbers.append(self._count)
        elif item.is_error:
            self._last_lost_error = self._count
        self._count += 1

    def count_errors(self, number: int) -> None:
        """Count errors, at least one, that are not told: for when `is_full`."""
        self._count += number
        self._last_lost_error = self._count - 1

    def where(self, spot: Spot) -> Where:
        """Return the place of `spot` in this source."""
        return Where(self.source, spot.key, spot.line)

    def since(self, mark: int) -> tuple[Diagnostic, ...]:
        """Return what was found after `len()` was `mark`, as far as it was kept."""
        return tuple(self._diagnostics[bisect_left(self._numbers, mark) :])

    def has_lost_errors(self, mark: int) -> bool:
        """Whether errors that were found after `len()` was `mark` were not kept."""
        return self._last_lost_error >= mark

    def has_errors(self, mark: int) -> bool:
        """Whether errors were found after `len()` was `mark`."""
        return self.has_lost_errors(mark) or any(item.is_error for item in self.since(mark))


def sort_diagnostics(diagnostics: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """Sort by line; findings of one line by key, its numbers as people count (`[2]` before `[10]`), and code."""
    return tuple(sorted(diagnostics, key=_order))


def _order(item: Diagnostic) -> tuple[int, str, str, str, str]:
    # Padding compares numbers of any length without reading them: a key that an author chose may be all digits.
    key = _NUMBER.sub(lambda number: number[0].zfill(_WIDTH), item.where.key)
    return item.where.line or 0, key, item.where.key, item.code, item.message


def quote(text: str) -> str:
    """
    Show a piece of a document: on one line, cut to a readable length, in back quotes.

    What stands before an `@` may be a password, wherever the user put it, and is left out; so is what follows `://`
    and is no host with a port, and the path and the query of a URL.
    """
    tail = _USERINFO_END.split(text)[-1]
    if tail == text:
        shown = _cut_url(text)
    else:
        host, slash, path = tail.partition("/")
        shown = f"…@{host.partition('?')[0]}{slash}{path and '…'}" if "://" in text else f"…@{tail}"
    if len(shown) > _LONGEST:
        shown = f"{shown[:_LONGEST]}…"
    return "`" + "".join(char if char.isprintable() else ascii(char)[1:-1] for char in shown) + "`"


def _cut_url(text: str) -> str:
    """Return a URL as far as it is no secret: a login whose host was forgotten looks like a port of letters."""
    match = _URL.fullmatch(text)
    if match is None:
        return text
    scheme, authority, rest = match.groups()
    scheme = "…" if ":" in scheme else scheme
    shown = authority if _AUTHORITY.fullmatch(authority) else "…"
    return f"{scheme}://{shown}{rest if rest in ('', '/') else f'{rest[0]}…'}"
