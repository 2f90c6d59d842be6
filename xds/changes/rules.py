"""
The rules of two versions of a policy: which are new, gone, changed or in another place.

A rule is known again by its name, and one that has no name of its own by its content. Invariant: whatever is not told
of is in both versions, with the same content and in the same order.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from xds.changes.words import describe_actions, describe_destination, describe_network

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from xds.diagnostics import Where
    from xds.policy.model import Policy, Rule

_Pairs = dict[int, int]
"""Positions of the same rule, after by before; both from 0."""


class Kind(Enum):
    """What became of something."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"
    MOVED = "moved"
    """Its content is the same; for rules only."""


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One key whose values are others: what it no longer holds, and what it holds now."""

    key: str
    removed: tuple[str, ...]
    added: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RulePlace:
    """Where a rule stands: its position from 1, and the place of its document."""

    position: int
    where: Where


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleChange:
    """What became of one rule; `before` or `after` is None if it is not there."""

    kind: Kind
    name: str
    before: RulePlace | None
    after: RulePlace | None
    fields: tuple[FieldChange, ...] = ()
    is_moved: bool = False
    """Whether it stands in another place among those that stayed, changed or not."""


def compare_rules(before: Policy | None, after: Policy | None) -> tuple[RuleChange, ...]:
    """Return what became of the rules, those that are gone first, then in the order of the version after."""
    old = () if before is None else before.rules
    new = () if after is None else after.rules
    pairs = _pair(old, new)
    moved = set(pairs) - _in_order(pairs)
    changes = [_removed(index, rule) for index, rule in enumerate(old) if index not in pairs]
    sources = {there: here for here, there in pairs.items()}
    for index, rule in enumerate(new):
        origin = sources.get(index)
        if origin is None:
            changes.append(_added(index, rule))
            continue
        fields, is_moved = compare_fields(_describe(old[origin], origin), _describe(rule, index)), origin in moved
        if fields or is_moved:
            changes.append(
                RuleChange(
                    kind=Kind.CHANGED if fields else Kind.MOVED,
                    name=rule.name,
                    before=RulePlace(origin + 1, old[origin].where),
                    after=RulePlace(index + 1, rule.where),
                    fields=fields,
                    is_moved=is_moved,
                )
            )
    return tuple(changes)


def compare_fields(
    before: Mapping[str, tuple[str, ...]], after: Mapping[str, tuple[str, ...]]
) -> tuple[FieldChange, ...]:
    """Compare values by key, in the order of the keys; a list in another order is another list."""
    changes = []
    for key in dict.fromkeys([*before, *after]):
        old, new = before.get(key, ()), after.get(key, ())
        if old == new:
            continue
        was, will = frozenset(old), frozenset(new)
        removed, added = tuple(item for item in old if item not in will), tuple(item for item in new if item not in was)
        # The same values in another order: the whole list is what changed.
        changes.append(FieldChange(key, removed, added) if removed or added else FieldChange(key, old, new))
    return tuple(changes)


def _added(index: int, rule: Rule) -> RuleChange:
    fields = compare_fields({}, _describe(rule, index))
    return RuleChange(
        kind=Kind.ADDED, name=rule.name, before=None, after=RulePlace(index + 1, rule.where), fields=fields
    )


def _removed(index: int, rule: Rule) -> RuleChange:
    fields = compare_fields(_describe(rule, index), {})
    return RuleChange(
        kind=Kind.REMOVED, name=rule.name, before=RulePlace(index + 1, rule.where), after=None, fields=fields
    )


def _describe(rule: Rule, index: int) -> dict[str, tuple[str, ...]]:
    return {
        "name": (rule.name,) if _own_name(rule, index) else (),
        "to": tuple(map(describe_destination, rule.destinations)),
        "action": (describe_actions(rule.action, rule.http_action),),
        "verify": tuple(map(describe_network, rule.verify)),
    }


def _pair(old: Sequence[Rule], new: Sequence[Rule]) -> _Pairs:
    """Find the rules that are in both versions, by ever weaker resemblance."""
    pairs: _Pairs = {}
    keys: tuple[Callable[[Rule, int], Hashable | None], ...] = (
        lambda rule, index: (_own_name(rule, index), _content(rule)),
        lambda rule, index: _own_name(rule, index) or None,
        lambda rule, _: _content(rule),
        lambda rule, index: None if _own_name(rule, index) else index,
    )
    for key in keys:
        _pair_by(key, old, new, pairs)
    return pairs


def _pair_by(
    key: Callable[[Rule, int], Hashable | None], old: Sequence[Rule], new: Sequence[Rule], pairs: _Pairs
) -> None:
    taken = set(pairs.values())
    free: dict[Hashable, list[int]] = defaultdict(list)
    for index in range(len(new) - 1, -1, -1):
        if index not in taken:
            free[key(new[index], index)].append(index)
    for index, rule in enumerate(old):
        wanted = key(rule, index)
        if index not in pairs and wanted is not None and free.get(wanted):
            pairs[index] = free[wanted].pop()


def _own_name(rule: Rule, index: int) -> str:
    """Return the name that a document gave; empty for that of its number, which says nothing of the rule."""
    return "" if rule.name == f"rule-{index + 1}" else rule.name


def _content(rule: Rule) -> Hashable:
    return (rule.destinations, rule.action, rule.http_action, rule.verify)


def _in_order(pairs: _Pairs) -> set[int]:
    """Return as many as possible of the positions before whose rules kept their order (patience sorting)."""
    heads: list[int] = []
    tops: list[int] = []
    links: dict[int, int | None] = {}
    for here in sorted(pairs):
        pile = bisect_left(heads, pairs[here])
        links[here] = tops[pile - 1] if pile else None
        if pile == len(heads):
            heads.append(pairs[here])
            tops.append(here)
        else:
            heads[pile], tops[pile] = pairs[here], here
    return set(_chain(links, tops[-1] if tops else None))


def _chain(links: Mapping[int, int | None], last: int | None) -> Iterable[int]:
    while last is not None:
        yield last
        last = links[last]
