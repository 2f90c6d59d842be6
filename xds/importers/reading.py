"""
Reading decoded objects: what is there in the form that it should have, and what is there besides.

Nothing here knows a source. Invariant: what has another form than expected is told, and read as absent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds.policy.findings import quote
from xds.policy.names import is_label_key, is_label_value

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from xds.importers.imported import Changes

_SHOWN_KEY = 60


def join(path: str, key: str | int) -> str:
    """Return the path of `key` below `path`."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    return f"{path}.{key}" if path else key


class Reader:
    """One mapping of the input, with its path in it."""

    def __init__(self, values: object, path: str, changes: Changes) -> None:
        self.path = path
        self._changes = changes
        self._values: Mapping[object, object] = {}
        if isinstance(values, dict):
            self._values = values
        elif values is not None:
            self._refuse(path, "a mapping")

    def has(self, key: str) -> bool:
        """Whether `key` is there with a value."""
        return self._values.get(key) not in (None, "", [], {})

    def raw(self, key: str) -> object:
        """Return what stands at `key`, whatever it is."""
        return self._values.get(key)

    def text(self, key: str) -> str:
        """Return the text at `key`; empty if there is none."""
        value = self._values.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            self._refuse(join(self.path, key), "text")
            return ""
        return value.strip()

    def number(self, key: str) -> int | None:
        """Return the port number at `key`."""
        value = self._values.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65535:  # noqa: PLR2004  # ports
            return value
        if value is not None:
            self._refuse(join(self.path, key), "a port number")
        return None

    def texts(self, key: str) -> tuple[tuple[str, str], ...]:
        """Return the texts of the list at `key`, each with its path."""
        found = []
        for path, item in self._items(key):
            if isinstance(item, str):
                found.append((item, path))
            else:
                self._refuse(path, "text")
        return tuple(found)

    def child(self, key: str) -> Reader:
        """Return the mapping at `key`; an empty one if there is none."""
        return Reader(self._values.get(key), join(self.path, key), self._changes)

    def children(self, key: str) -> tuple[Reader, ...]:
        """Return the mappings of the list at `key`."""
        return tuple(Reader(item, path, self._changes) for path, item in self._items(key))

    def tell_unknown(self, known: Collection[str], hint: str = "nothing of the policy follows from it") -> None:
        """Tell of the keys that are none of `known`."""
        for key in self._values:
            if key not in known:
                # A key is anything; it must be fit to be printed.
                shown = str(key)[:_SHOWN_KEY].encode("ascii", "backslashreplace").decode()
                self._changes.lost(join(self.path, shown), f"{quote(shown)} is not understood, so left out", hint)

    def labels(self) -> dict[str, str]:
        """Return the labels in this mapping."""
        found = {}
        for key, value in self._values.items():
            if isinstance(key, str) and isinstance(value, str) and is_label_key(key) and is_label_value(value):
                found[key] = value
            else:
                self._refuse(self.path, "a label of Kubernetes")
        return found

    def _items(self, key: str) -> list[tuple[str, object]]:
        value = self._values.get(key)
        path = join(self.path, key)
        if value is None:
            return []
        if not isinstance(value, list):
            self._refuse(path, "a list")
            return []
        return [(join(path, index), item) for index, item in enumerate(value)]

    def _refuse(self, path: str, wanted: str) -> None:
        self._changes.lost(path, f"this is not {wanted}, so left out", f"correct it: {wanted} belongs here")
