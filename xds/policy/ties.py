"""
Ties: policies for the same pods that nothing but their age or name tells apart.

They are decided as `selection` decides everything, and reported, because nobody wrote down what was meant. Only what is
sure is reported: what labels and accounts select depends on pods. Policies of one scope are compared, so that nobody
hears of what stands in other namespaces. Invariant: the order of documents means nothing.
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
    """Report every policy that comes after another one for the same pods, of the same scope, rank and priority."""
    found: list[Diagnostic] = []
    for _, equals in groupby(sorted(policies, key=lambda item: (_level(item), order_of(item))), key=_level):
        known = _Known()
        for policy in equals:
            winner = known.add(policy)
            if winner is not None:
                found.append(_report(policy, winner))
    return tuple(found)


def _level(policy: Policy) -> tuple[str, Rank, int]:
    return policy.namespace or "", rank_policy(policy), -policy.priority


@dataclass(frozen=True, slots=True)
class _Known:
    """The policies of one level so far, found by whom they are for."""

    by_selector: dict[Selector, Policy] = field(default_factory=dict)
    by_namespace: dict[str, Policy] = field(default_factory=dict)

    def add(self, policy: Policy) -> Policy | None:
        """Add a policy; return an earlier one that is for some of its pods for sure."""
        selector = policy.selector
        if policy.namespace is not None and selector.namespaces and policy.namespace not in selector.namespaces:
            return None  # It is for nobody, and that is said elsewhere.
        reached = _namespaces(policy)
        earlier = [self.by_selector.get(selector), *map(self.by_namespace.get, reached)]
        self.by_selector.setdefault(selector, policy)
        for namespace in reached:
            self.by_namespace.setdefault(namespace, policy)
        return min((item for item in earlier if item is not None), key=order_of, default=None)


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
