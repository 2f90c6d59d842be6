"""Exactly one policy is in force for a pod: the narrowest, then priority, wish, age, name and namespace."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from xds.diagnostics import Where
from xds.policy.model import (
    Default,
    Deny,
    HeldPolicy,
    LabelRequirement,
    Operator,
    Policy,
    Selector,
    Workload,
)
from xds.policy.selection import Rank, rank_policy, select_policy

HERE = Where("a.yaml", "", 1)
DENY = Default(action=Deny(), http_action=Deny())
POD = Workload(pod="web-0", namespace="team-a", labels=(("app", "web"), ("tier", "front")), service_account="web")

APP = LabelRequirement(key="app", operator=Operator.IN, values=("web",))
CLUSTER = Policy(name="cluster", default=DENY, where=HERE)
NAMESPACED = replace(CLUSTER, name="namespaced", namespace="team-a")
NAMESPACES = replace(CLUSTER, name="namespaces", selector=Selector(namespaces=("team-a", "team-b")))
LABELLED = replace(CLUSTER, name="labelled", selector=Selector(labels=(APP,)))
ACCOUNT = replace(CLUSTER, name="account", selector=Selector(service_accounts=("web",)))
UNREADABLE = HeldPolicy(name="unreadable", is_unreadable=True, where=HERE)
HELD = HeldPolicy(name="held", namespace="team-a", where=HERE)
FRONT = LabelRequirement(key="zone", operator=Operator.IN, values=("front",))
ZONED = replace(CLUSTER, name="zoned", selector=Selector(namespace_labels=(FRONT,)))
IN_ZONE = replace(POD, namespace_labels=(("zone", "front"),))
OLD, NEW = "2026-11-20T09:00:00Z", "2026-11-21T08:00:00Z"


@pytest.mark.parametrize(
    ("policy", "rank"),
    [
        (CLUSTER, Rank.CLUSTER),
        (NAMESPACED, Rank.NAMESPACE),
        (NAMESPACES, Rank.NAMESPACE),
        (ZONED, Rank.NAMESPACE),
        (replace(ZONED, selector=Selector(namespace_labels=(FRONT,), labels=(APP,))), Rank.WORKLOAD),
        (LABELLED, Rank.WORKLOAD),
        (ACCOUNT, Rank.WORKLOAD),
        (replace(LABELLED, namespace="team-a"), Rank.WORKLOAD),
        (HELD, Rank.NAMESPACE),
        (UNREADABLE, Rank.UNREADABLE),
    ],
)
def test_a_policy_ranks_by_how_narrowly_it_selects(policy: Policy | HeldPolicy, rank: Rank) -> None:
    assert rank_policy(policy) is rank


@pytest.mark.parametrize(
    ("winner", "loser"),
    [
        pytest.param(NAMESPACED, CLUSTER, id="a namespace before the cluster"),
        pytest.param(NAMESPACES, CLUSTER, id="named namespaces before the cluster"),
        pytest.param(LABELLED, NAMESPACED, id="a workload before a namespace"),
        pytest.param(ACCOUNT, NAMESPACES, id="a service account before a namespace"),
        pytest.param(LABELLED, replace(NAMESPACED, priority=9), id="narrowness before priority"),
        pytest.param(replace(NAMESPACES, priority=1), NAMESPACED, id="priority before the name"),
        pytest.param(replace(CLUSTER, name="a"), replace(CLUSTER, name="b"), id="the earlier name"),
        pytest.param(replace(NAMESPACES, name="x"), replace(NAMESPACED, name="x"), id="the earlier namespace"),
        pytest.param(CLUSTER, replace(CLUSTER, where=Where("b.yaml", "", 1)), id="the earlier source"),
        pytest.param(CLUSTER, replace(CLUSTER, where=Where("a.yaml", "", 2)), id="the earlier line"),
        pytest.param(
            replace(CLUSTER, name="b", created=OLD), replace(CLUSTER, name="a", created=NEW), id="age before the name"
        ),
        pytest.param(replace(CLUSTER, name="b", priority=1, created=NEW), CLUSTER, id="priority before age"),
        pytest.param(CLUSTER, replace(CLUSTER, name="a", created=OLD), id="an unknown age is the oldest"),
        pytest.param(HELD, CLUSTER, id="a held policy keeps its rank"),
        pytest.param(UNREADABLE, replace(LABELLED, priority=9), id="an unreadable policy before all"),
        pytest.param(
            replace(UNREADABLE, namespace="team-a"), replace(ACCOUNT, namespace="team-a"), id="also in its namespace"
        ),
    ],
)
def test_one_of_two_is_in_force_whatever_their_order(winner: Policy | HeldPolicy, loser: Policy | HeldPolicy) -> None:
    for candidates in itertools.permutations((winner, loser)):
        assert select_policy(candidates, POD) == winner


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param(replace(CLUSTER, namespace="team-b"), id="another namespace"),
        pytest.param(replace(UNREADABLE, namespace="team-b"), id="an unreadable one of another namespace"),
        pytest.param(replace(CLUSTER, selector=Selector(namespaces=("team-b",))), id="other namespaces"),
        pytest.param(replace(CLUSTER, selector=Selector(service_accounts=("db",))), id="another account"),
        pytest.param(replace(LABELLED, namespace="team-b"), id="the right labels in another namespace"),
        pytest.param(
            replace(LABELLED, selector=Selector(labels=(APP,), service_accounts=("db",))), id="one part of two"
        ),
    ],
)
def test_a_policy_for_others_is_not_in_force(policy: Policy | HeldPolicy) -> None:
    assert select_policy([policy], POD) is None


def test_no_policy_at_all_is_none() -> None:
    assert select_policy([], POD) is None


@pytest.mark.parametrize(
    ("key", "operator", "values", "holds"),
    [
        ("app", Operator.IN, ("db", "web"), True),
        ("app", Operator.IN, ("db",), False),
        ("absent", Operator.IN, ("", "web"), False),
        ("app", Operator.NOT_IN, ("db",), True),
        ("app", Operator.NOT_IN, ("web",), False),
        ("absent", Operator.NOT_IN, ("web",), True),
        ("app", Operator.EXISTS, (), True),
        ("absent", Operator.EXISTS, (), False),
        ("absent", Operator.DOES_NOT_EXIST, (), True),
        ("app", Operator.DOES_NOT_EXIST, (), False),
    ],
)
def test_labels_are_selected_as_in_kubernetes(
    key: str, operator: Operator, values: tuple[str, ...], *, holds: bool
) -> None:
    requirement = LabelRequirement(key=key, operator=operator, values=values)
    policy = replace(CLUSTER, selector=Selector(labels=(requirement,)))
    assert (select_policy([policy], POD) is policy) is holds


@pytest.mark.parametrize(
    ("operator", "is_known", "holds"),
    [
        (Operator.IN, True, True),
        (Operator.IN, False, False),
        (Operator.NOT_IN, True, False),
        (Operator.NOT_IN, False, True),
    ],
)
def test_namespaces_are_selected_by_their_own_labels(*, operator: Operator, is_known: bool, holds: bool) -> None:
    requirement = replace(FRONT, operator=operator)
    policy = replace(CLUSTER, selector=Selector(namespace_labels=(requirement,)))
    # A pod's own label of that name is another thing.
    pod = replace(IN_ZONE if is_known else POD, labels=(("zone", "front"),))
    assert (select_policy([policy], pod) is policy) is holds


def test_a_pod_chooses_among_equals_by_name() -> None:
    one, two, three = (replace(CLUSTER, name=name, created=OLD) for name in "abc")

    for wish, winner in (("", one), ("b", two), ("c", three), ("d", one)):
        assert select_policy([three, one, two], replace(POD, policy=wish)) is winner


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param(replace(CLUSTER, name="wide"), id="of lower rank"),
        pytest.param(replace(NAMESPACED, name="weak", priority=1), id="of lower priority"),
        pytest.param(replace(NAMESPACED, name="others", namespace="team-b", priority=2), id="of another namespace"),
        pytest.param(
            replace(NAMESPACED, name="db", priority=3, selector=Selector(service_accounts=("db",))), id="for other pods"
        ),
    ],
)
def test_a_wish_gets_nothing_that_is_not_an_equal(wanted: Policy) -> None:
    enforced = replace(NAMESPACED, priority=2)
    assert select_policy([wanted, enforced], replace(POD, policy=wanted.name)) is enforced


def test_every_requirement_must_hold() -> None:
    tier = LabelRequirement(key="tier", operator=Operator.IN, values=("back",))
    assert select_policy([replace(CLUSTER, selector=Selector(labels=(APP, tier)))], POD) is None
