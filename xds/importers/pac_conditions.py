"""
Conditions of a PAC file: boolean expressions over sets of connections, and what can't be known.

Invariant: a condition that nothing on the wire decides is `Unknown`; it is never taken for true or false.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from xds.importers.pac_regions import EVERYTHING, Region, Rows, Verdict, choose, hedge, intersect

if TYPE_CHECKING:
    from collections.abc import Sequence


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
    joined: list[Condition] = []
    for part in parts:
        if part == TRUE:
            return TRUE
        last = joined[-1] if joined else None
        if isinstance(part, Within) and isinstance(last, Within):
            joined[-1] = Within(tuple(dict.fromkeys((*last.regions, *part.regions))))
        elif part != FALSE:
            joined.append(part)
    if not joined:
        return FALSE
    return joined[0] if len(joined) == 1 else Either(tuple(joined))


def decide(condition: Condition, then: Rows[Verdict], otherwise: Rows[Verdict]) -> Rows[Verdict]:
    """Return what holds if `then` decides where `condition` holds, and `otherwise` elsewhere."""
    if then == otherwise:
        return otherwise
    match condition:
        case Within((Region(None, None, None),)):
            return then
        case Within():
            return choose(condition.regions, then, otherwise)
        case Unknown():
            return hedge(then, otherwise)
        case Not():
            return decide(condition.inner, otherwise, then)
        case Both():
            return decide(condition.left, decide(condition.right, then, otherwise), otherwise)
        case Either():
            for part in reversed(condition.parts):
                otherwise = decide(part, then, otherwise)
            return otherwise
        case _:
            assert_never(condition)
