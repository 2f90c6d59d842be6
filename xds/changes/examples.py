"""
Pods as selectors describe them, for comparing two worlds where nobody knows the pods that there are.

Pure. Invariant: a pod that is made up for some policies is selected by each of them.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from xds.policy.model import HeldPolicy, Operator, Policy, Workload

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Sequence

    from xds.policy.model import LabelRequirement

_MOST = 2_000
"""Pods that are made up: selecting for one looks at all policies that may concern it."""
_ANY = "any"
"""What stands where a selector leaves it open."""


def make_up_pods(before: Sequence[Policy | HeldPolicy], after: Sequence[Policy | HeldPolicy]) -> tuple[Workload, ...]:
    """
    Return pods for which another policy may be in force; none if whom policies are for is the same in both worlds.

    There is one for each policy that is new, gone, or for others than before, one for each of these that another policy
    selects, too, and one for each other policy alone.
    """
    old, new = ({_aim(item): item for item in items} for items in (before, after))
    moved = [item for aim, item in (old | new).items() if aim not in old or aim not in new]
    if not moved:
        return ()
    everybody = list((old | new).values())
    pairs = ((one, other) for other in everybody for one in moved)
    found = (_make_up(items) for items in (*((item,) for item in moved), *_mix(everybody, pairs)))
    return tuple(dict.fromkeys(islice((pod for pod in found if pod is not None), _MOST)))


def _mix(
    everybody: Iterable[Policy | HeldPolicy], pairs: Iterable[tuple[Policy | HeldPolicy, ...]]
) -> Iterator[tuple[Policy | HeldPolicy, ...]]:
    yield from ((item,) for item in islice(everybody, _MOST // 2))
    yield from islice(pairs, _MOST)


def _aim(item: Policy | HeldPolicy) -> Hashable:
    """Return what says whom a policy is for, and before which others."""
    return isinstance(item, HeldPolicy), item.namespace, item.name, item.selector, item.priority, item.created


def _make_up(policies: Sequence[Policy | HeldPolicy]) -> Workload | None:
    """Return a pod that all `policies` select; None: there is none."""
    selectors = [item.selector for item in policies]
    spaces = [frozenset(selector.namespaces) for selector in selectors if selector.namespaces]
    spaces += [frozenset({item.namespace}) for item in policies if item.namespace is not None]
    namespace = _choose(spaces)
    account = _choose([frozenset(item.service_accounts) for item in selectors if item.service_accounts])
    labels = _choose_labels([wanted for item in selectors for wanted in item.labels])
    of_namespace = _choose_labels([wanted for item in selectors for wanted in item.namespace_labels])
    if namespace is None or account is None or labels is None or of_namespace is None:
        return None
    return Workload(
        pod=_ANY, namespace=namespace, labels=labels, namespace_labels=of_namespace, service_account=account
    )


def _choose(choices: Sequence[frozenset[str]], but: Iterable[str] = ()) -> str | None:
    """Return what is in each of `choices` and not in `but`; None: nothing is."""
    if not choices:
        return _ANY
    return min(frozenset.intersection(*choices).difference(but), default=None)


def _choose_labels(wanted: Iterable[LabelRequirement]) -> tuple[tuple[str, str], ...] | None:
    by_key: dict[str, list[LabelRequirement]] = {}
    for requirement in wanted:
        by_key.setdefault(requirement.key, []).append(requirement)
    found: list[tuple[str, str]] = []
    for key, requirements in sorted(by_key.items()):
        operators = {requirement.operator for requirement in requirements}
        if not operators & {Operator.IN, Operator.EXISTS}:
            continue
        but = [value for item in requirements if item.operator is Operator.NOT_IN for value in item.values]
        choices = [frozenset(item.values) for item in requirements if item.operator is Operator.IN]
        value = None if Operator.DOES_NOT_EXIST in operators else _choose(choices, but)
        if value is None:
            return None
        found.append((key, value))
    return tuple(found)
