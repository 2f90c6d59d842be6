"""
The difference of two JSON values as a patch (RFC 6902), for whoever must be told what changed and not the outcome.

Only `add`, `remove` and `replace` are used. Invariants: the patch applied to what was before gives what is after; the
work grows with the size of both, whatever is in them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def render_patch(before: Mapping[str, object], after: Mapping[str, object]) -> list[dict[str, object]]:
    """Return the operations, as few as are readable: entries of a list that have a name are told by it."""
    return list(_diff(before, after, ""))


def _diff(before: object, after: object, path: str) -> Iterator[dict[str, object]]:
    if _text(before) == _text(after):
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        yield from _diff_objects(before, after, path)
    elif isinstance(before, list | tuple) and isinstance(after, list | tuple):
        yield from _diff_lists(before, after, path)
    else:
        yield {"op": "replace", "path": path, "value": after}


def _diff_objects(before: Mapping[str, object], after: Mapping[str, object], path: str) -> Iterator[dict[str, object]]:
    for key in before:
        if key not in after:
            yield {"op": "remove", "path": _below(path, key)}
    for key, value in after.items():
        if key in before:
            yield from _diff(before[key], value, _below(path, key))
        else:
            yield {"op": "add", "path": _below(path, key), "value": value}


def _diff_lists(before: Sequence[object], after: Sequence[object], path: str) -> Iterator[dict[str, object]]:
    """Remove from the end, add from the start, and then change what stayed, which is at its final place by then."""
    kept = list(_find_kept(before, after))
    stays, is_there = {old for old, _ in kept}, {new for _, new in kept}
    for index in reversed(range(len(before))):
        if index not in stays:
            yield {"op": "remove", "path": _below(path, str(index))}
    for index, value in enumerate(after):
        if index not in is_there:
            yield {"op": "add", "path": _below(path, str(index)), "value": value}
    for old, new in kept:
        yield from _diff(before[old], after[new], _below(path, str(new)))


def _find_kept(before: Sequence[object], after: Sequence[object]) -> Iterator[tuple[int, int]]:
    """
    Yield where entries that stay were and are, in order; what moved forward is not among them.

    In one pass: whoever makes a pod decides how long its lists are, and how often an entry is repeated.
    """
    places = {identity: index for index, identity in enumerate(_identify(before))}
    least = 0
    for new, identity in enumerate(_identify(after)):
        old = places.get(identity, -1)
        if old >= least:
            yield old, new
            least = old + 1


def _identify(items: Sequence[object]) -> Iterator[tuple[str, int]]:
    """Yield what tells an entry of a list from others, whatever else of it changes: the n-th of its name or value."""
    seen: Counter[str] = Counter()
    for item in items:
        name = item.get("name") if isinstance(item, Mapping) else None
        known = f"name {name}" if isinstance(name, str) else f"value {_text(item)}"
        yield known, seen[known]
        seen[known] += 1


def _text(value: object) -> str:
    # Compared as JSON, for Python takes True and 1 for the same.
    return json.dumps(value, sort_keys=True)


def _below(path: str, key: str) -> str:
    escaped = key.replace("~", "~0").replace("/", "~1")
    return f"{path}/{escaped}"
