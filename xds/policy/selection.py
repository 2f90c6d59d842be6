"""
Selection: which of many policies is in force for a pod.

Exactly one is; nothing is merged. Pure and independent of the order of candidates. Invariant: a policy
that can't be read is preferred to all that it might have been preferred to, so that a mistake never
hands its pods to a wider policy.
"""

from __future__ import annotations

from enum import IntEnum
from itertools import chain
from typing import TYPE_CHECKING, assert_never

from xds.policy.model import HeldPolicy, LabelRequirement, Operator, Policy, Selector, Workload

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


Order = tuple[int, int, bool, str, str, str, str, int]
"""Rank, priority (negative), whether somebody else is wanted, age, name, namespace, source and line."""


class Rank(IntEnum):
    """How narrowly a policy says whom it is for; a lower rank wins (N21)."""

    UNREADABLE = 0
    WORKLOAD = 1
    NAMESPACE = 2
    CLUSTER = 3


def select_policy(candidates: Iterable[Policy | HeldPolicy], workload: Workload) -> Policy | HeldPolicy | None:
    """
    Return the policy in force for `workload`, or None if none selects it.

    The narrowest wins, then the higher priority, then the one that `workload` would like, then the older, the name and
    the namespace. What a workload would like comes after the priority, because whoever runs the pod says it: an
    operator who wants a policy to be in force gives it a higher one. If the policy that wins is held, and what was last
    good of its document is for `workload` too, then that: the version of the same policy, or else a policy of the same
    rank and priority, for a document that breaks may have got another name by the same edit.
    """
    labels, namespace_labels = dict(workload.labels), dict(workload.namespace_labels)
    found = [item for item in candidates if _is_for(item, workload, labels, namespace_labels)]
    first = min(found, key=lambda item: order_of(item, workload.policy), default=None)
    if first is None or isinstance(first, Policy):
        return first
    last_good = [item for item in found if isinstance(item, Policy) and item.where.source == first.where.source]
    same = [item for item in last_good if (item.namespace, item.name) == (first.namespace, first.name)]
    equal = [item for item in last_good if _standing(item) == _standing(first)]
    return min(same or equal, key=lambda item: order_of(item, workload.policy), default=first)


class Candidates:
    """All policies of a world, by namespace: selecting for a pod looks at those only that may concern it."""

    def __init__(self, candidates: Iterable[Policy | HeldPolicy]) -> None:
        self._by_namespace: dict[str | None, list[Policy | HeldPolicy]] = {None: []}
        for item in candidates:
            self._by_namespace.setdefault(item.namespace, []).append(item)

    def select(self, workload: Workload) -> Policy | HeldPolicy | None:
        """Return what `select_policy` returns."""
        return select_policy(chain(self._by_namespace[None], self._by_namespace.get(workload.namespace, ())), workload)


def _standing(policy: Policy | HeldPolicy) -> tuple[Rank, int]:
    return rank_policy(policy), policy.priority


def rank_policy(policy: Policy | HeldPolicy) -> Rank:
    """Return how narrowly `policy` says whom it is for."""
    if isinstance(policy, HeldPolicy) and policy.is_unreadable:
        return Rank.UNREADABLE
    if policy.selector.labels or policy.selector.service_accounts:
        return Rank.WORKLOAD
    if policy.selector.namespaces or policy.selector.namespace_labels or policy.namespace is not None:
        return Rank.NAMESPACE
    return Rank.CLUSTER


def order_of(policy: Policy | HeldPolicy, wanted: str = "") -> Order:
    """Return what candidates are sorted by, the one in force first; `wanted` is the name that a workload would like."""
    # Source and line settle what can't be settled otherwise: one name in two sources is reported, yet must not flap.
    where = policy.where
    return (
        rank_policy(policy),
        -policy.priority,
        bool(wanted) and policy.name != wanted,
        policy.created,
        policy.name,
        policy.namespace or "",
        where.source,
        where.line or 0,
    )


def _is_for(
    policy: Policy | HeldPolicy, workload: Workload, labels: Mapping[str, str], namespace_labels: Mapping[str, str]
) -> bool:
    if policy.namespace is not None and policy.namespace != workload.namespace:
        return False
    if not all(_holds(requirement, namespace_labels) for requirement in policy.selector.namespace_labels):
        return False
    return _selects(policy.selector, workload, labels)


def _selects(selector: Selector, workload: Workload, labels: Mapping[str, str]) -> bool:
    if selector.namespaces and workload.namespace not in selector.namespaces:
        return False
    if selector.service_accounts and workload.service_account not in selector.service_accounts:
        return False
    return all(_holds(requirement, labels) for requirement in selector.labels)


def _holds(requirement: LabelRequirement, labels: Mapping[str, str]) -> bool:
    """Kubernetes' meaning: `NotIn` and `DoesNotExist` hold for a pod without the label."""
    value = labels.get(requirement.key)
    match requirement.operator:
        case Operator.IN:
            return value in requirement.values
        case Operator.NOT_IN:
            return value not in requirement.values
        case Operator.EXISTS:
            return value is not None
        case Operator.DOES_NOT_EXIST:
            return value is None
        case _:
            assert_never(requirement.operator)
