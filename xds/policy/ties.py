"""
Ties: policies for the same pods that nothing but their age or name tells apart, or that always come after others.

They are decided as `selection` decides everything, and reported, because nobody wrote down what was meant, or it has no
effect. Only what is sure is reported: what labels and accounts select depends on pods. Policies of one scope are
compared, so that nobody hears of what stands in other namespaces. Invariant: the order of documents means nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

from xds.diagnostics import Diagnostic
from xds.policy.findings import quote
from xds.policy.selection import order_of, rank_policy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds.policy.model import Policy, Selector
    from xds.policy.selection import Rank


def check_ties(policies: Iterable[Policy]) -> tuple[Diagnostic, ...]:
    """
    Report every policy that never comes into force, and those that only age or name keeps from it somewhere.

    They come after others of the same scope and rank: the former has a lower priority for all its pods, the latter the
    same one for some.
    """
    found: list[Diagnostic] = []
    ordered = sorted(policies, key=lambda item: (_level(item), order_of(item)))
    for _, rivals in groupby(ordered, key=lambda item: _level(item)[:2]):
        higher = _Known()
        for _, equals in groupby(rivals, key=_level):
            known, level = _Known(), list(equals)
            for policy in level:
                winner, always = known.find(policy), higher.find_for_all(policy)
                known.add(policy)
                if always is not None:
                    found.append(_report_idle(policy, always))
                elif winner is not None:
                    found.append(_report(policy, winner))
            for policy in level:
                higher.add(policy)
    return tuple(found)


def _level(policy: Policy) -> tuple[str, Rank, int]:
    return policy.namespace or "", rank_policy(policy), -policy.priority


@dataclass(frozen=True, slots=True)
class _Known:
    """Some policies of one scope and rank, found by whom they are for; of several the one that was added first."""

    by_selector: dict[Selector, Policy] = field(default_factory=dict)
    by_namespace: dict[str, Policy] = field(default_factory=dict)

    def find(self, policy: Policy) -> Policy | None:
        """Return a policy that is for some of the pods of `policy` for sure."""
        if _is_for_nobody(policy):
            return None
        earlier = [self.by_selector.get(policy.selector), *map(self.by_namespace.get, _namespaces(policy))]
        return min((item for item in earlier if item is not None), key=order_of, default=None)

    def find_for_all(self, policy: Policy) -> Policy | None:
        """Return one of those that are for all pods of `policy` together, whatever pods there are."""
        if _is_for_nobody(policy):
            return None
        same = self.by_selector.get(policy.selector)
        if same is not None:
            return same
        reached = policy.selector.namespaces if policy.namespace is None else (policy.namespace,)
        found = [self.by_namespace.get(namespace) for namespace in reached]
        return None if None in found else next(iter(found), None)

    def add(self, policy: Policy) -> None:
        if not _is_for_nobody(policy):
            self.by_selector.setdefault(policy.selector, policy)
            for namespace in _namespaces(policy):
                self.by_namespace.setdefault(namespace, policy)


def _is_for_nobody(policy: Policy) -> bool:
    """Whether `policy` is for other namespaces than the one that it may be for, which is said elsewhere."""
    selector = policy.selector
    return policy.namespace is not None and bool(selector.namespaces) and policy.namespace not in selector.namespaces


def _namespaces(policy: Policy) -> tuple[str, ...]:
    """Return the namespaces all of whose pods `policy` is for; those of a level without any are told by selector."""
    selector = policy.selector
    if selector.labels or selector.service_accounts or selector.namespace_labels:
        return ()
    return selector.namespaces if policy.namespace is None else (policy.namespace,)


def _report(policy: Policy, winner: Policy) -> Diagnostic:
    reason = "is older" if winner.created < policy.created else "comes first by name"
    message = (
        f"{quote(policy.name)} and {quote(winner.name)} (in {winner.where}) are for the same pods, both with the "
        f"priority {policy.priority}; {quote(winner.name)} {reason} and is in force there"
    )
    return Diagnostic("EX408", policy.where, message, "give the one that is meant a higher `priority`")


def _report_idle(policy: Policy, winner: Policy) -> Diagnostic:
    message = (
        f"{quote(policy.name)} is never in force: {quote(winner.name)} (in {winner.where}) is for its pods, too, with "
        f"the priority {winner.priority} instead of {policy.priority}"
    )
    return Diagnostic("EX409", policy.where, message, "remove one of the two, or give each its own pods by `selector`")
