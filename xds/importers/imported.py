"""
What an import gives: a policy as plain data, and what became different on the way.

Nothing here knows a source. Invariant: a `Change` holds no login, whatever the text that it was made from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from xds.diagnostics import Where
from xds.errors import redact_logins

if TYPE_CHECKING:
    from collections.abc import Mapping


NOTHING = "nothing to do"
"""The hint of a change that asks for none."""


class Weight(Enum):
    """How much a change asks for attention."""

    NOTE = "note"
    """The meaning is the same; something is written in another way, or is built in."""
    CHANGED = "changed"
    """Some connections go another way than before."""
    LOST = "lost"
    """Something could not be carried over."""


class Home(Enum):
    """Where the policy is going to stand, which decides how it names a login."""

    FILES = "files"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between the source and the policy: where it comes from, what it is, and what to do."""

    weight: Weight
    where: Where
    message: str
    hint: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", redact_logins(self.message))
        object.__setattr__(self, "hint", redact_logins(self.hint))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the user asks of an import: the policy's name, whose reading of NO_PROXY is meant, and where it goes."""

    source: str
    """What diagnostics call the input."""
    name: str
    dialect: str = "go"
    home: Home = Home.FILES


@dataclass(frozen=True, slots=True)
class Imported:
    """A policy in one of its two forms, as plain data, and all that changed, in the order of the source."""

    policy: Mapping[str, object]
    changes: tuple[Change, ...]

    @property
    def is_same(self) -> bool:
        """Whether nothing changed in meaning."""
        return all(change.weight is Weight.NOTE for change in self.changes)


@dataclass(slots=True)
class Changes:
    """Collects the changes of one import."""

    source: str
    found: list[Change] = field(default_factory=list)
    _told: set[Change] = field(default_factory=set)

    def note(self, key: str, message: str, hint: str, line: int | None = None) -> None:
        """Tell of something that means the same."""
        self._add(Weight.NOTE, key, message, hint, line)

    def changed(self, key: str, message: str, hint: str, line: int | None = None) -> None:
        """Tell of connections that go another way than before."""
        self._add(Weight.CHANGED, key, message, hint, line)

    def lost(self, key: str, message: str, hint: str, line: int | None = None) -> None:
        """Tell of something that could not be carried over."""
        self._add(Weight.LOST, key, message, hint, line)

    def _add(self, weight: Weight, key: str, message: str, hint: str, line: int | None) -> None:
        change = Change(weight, Where(self.source, redact_logins(key), line), message, hint)
        if change not in self._told:
            self._told.add(change)
            self.found.append(change)
