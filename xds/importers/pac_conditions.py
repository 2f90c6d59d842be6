"""
Conditions of a PAC file: boolean expressions over sets of connections, and what can't be known.

Invariant: a condition that nothing on the wire decides is `Unknown`; it is never taken for true or false.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, assert_never

from xds.importers.pac_budget import EVALUATION
from xds.importers.pac_regions import EVERYTHING, Region, Rows, Verdict, choose, hedge, intersect

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xds.importers.pac_budget import Budget


@dataclass(frozen=True, slots=True)
class Within:
    """The connection is in one of these regions; in none of them: false."""

    regions: tuple[Region, ...]


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nothing on the wire decides it, or it can't be said in rules."""

    is_told: bool = False


@dataclass(frozen=True, slots=True)
class Not:
    """The condition does not hold."""

    inner: Condition


@dataclass(frozen=True, slots=True)
class Both:
    """Both hold."""

    left: Condition
    right: Condition


@dataclass(frozen=True, slots=True)
class Either:
    """At least one of them holds; a tuple, since people write hundreds."""

    parts: tuple[Condition, ...]


Condition = Within | Unknown | Not | Both | Either

TRUE = Within((EVERYTHING,))
FALSE = Within(())


def negate(condition: Condition) -> Condition:
    """Return the opposite."""
    if condition == TRUE:
        return FALSE
    if condition == FALSE:
        return TRUE
    return condition.inner if isinstance(condition, Not) else Not(condition)


def both(left: Condition, right: Condition) -> Condition:
    """Return the conjunction; regions are cut at once."""
    if FALSE in (left, right):
        return FALSE
    if left == TRUE:
        return right
    if isinstance(left, Within) and isinstance(right, Within):
        common = [intersect(one, other) for one in left.regions for other in right.regions]
        return Within(tuple(dict.fromkeys(region for region in common if region is not None)))
    return left if right == TRUE else Both(left, right)


def either(parts: Sequence[Condition]) -> Condition:
    """Return the disjunction; regions are joined at once."""
    if TRUE in parts:
        return TRUE
    joined: list[Condition] = []
    for is_within, run in groupby((part for part in parts if part != FALSE), lambda part: isinstance(part, Within)):
        if is_within:
            regions = (region for part in run if isinstance(part, Within) for region in part.regions)
            joined.append(Within(tuple(dict.fromkeys(regions))))
        else:
            joined += run
    if not joined:
        return FALSE
    return joined[0] if len(joined) == 1 else Either(tuple(joined))


def size(condition: Condition) -> int:
    """Return about how long it takes to look at a condition."""
    return len(condition.regions) if isinstance(condition, Within) else 1


def decide(condition: Condition, then: Rows[Verdict], otherwise: Rows[Verdict], budget: Budget) -> Rows[Verdict]:
    """Return what holds if `then` decides where `condition` holds, and `otherwise` elsewhere."""
    budget.spend(EVALUATION // 2)
    if then == otherwise:
        return otherwise
    match condition:
        case Within((Region(None, None, None),)):
            return then
        case Within():
            return choose(condition.regions, then, otherwise, budget)
        case Unknown():
            return hedge(then, otherwise, budget)
        case Not():
            return decide(condition.inner, otherwise, then, budget)
        case Both():
            return decide(condition.left, decide(condition.right, then, otherwise, budget), otherwise, budget)
        case Either():
            for part in reversed(condition.parts):
                otherwise = decide(part, then, otherwise, budget)
            return otherwise
        case _:
            assert_never(condition)
