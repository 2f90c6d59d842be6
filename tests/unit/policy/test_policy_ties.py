"""Policies that nothing but age or name tells apart are reported, at the one that loses."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from xds.diagnostics import Where
from xds.policy.model import Default, Deny, LabelRequirement, Operator, Policy, Selector, Workload
from xds.policy.selection import select_policy
from xds.policy.ties import check_ties

WEB = LabelRequirement(key="app", operator=Operator.IN, values=("web",))
A = Policy(
    name="a", default=Default(action=Deny(), http_action=Deny()), created="2026-01-02", where=Where("a.yaml", "", 1)
)
B = replace(A, name="b", where=Where("b.yaml", "", 1))
TEAM = Selector(namespaces=("team-a",))
TEAMS = Selector(namespaces=("team-a", "team-b"))
LABELLED = Selector(labels=(WEB,))


@pytest.mark.parametrize(
    ("one", "two"),
    [
        pytest.param(A, B, id="all pods of the cluster"),
        pytest.param(replace(A, namespace="team-a"), replace(B, namespace="team-a"), id="all pods of a namespace"),
        pytest.param(replace(A, selector=TEAM), replace(B, selector=TEAMS), id="namespaces that overlap"),
        pytest.param(
            replace(A, namespace="team-a"), replace(B, namespace="team-a", selector=TEAMS), id="its own namespace again"
        ),
        pytest.param(replace(A, selector=LABELLED), replace(B, selector=LABELLED), id="the same labels"),
        pytest.param(
            replace(A, selector=Selector(service_accounts=("web",))),
            replace(B, selector=Selector(service_accounts=("web",))),
            id="the same accounts",
        ),
        pytest.param(
            replace(A, selector=Selector(namespace_labels=(WEB,))),
            replace(B, selector=Selector(namespace_labels=(WEB,))),
            id="the same labels of namespaces",
        ),
        pytest.param(replace(A, priority=7), replace(B, priority=7), id="the same priority"),
    ],
)
def test_what_only_the_name_decides_is_reported(one: Policy, two: Policy) -> None:
    for policies in itertools.permutations((one, two)):
        (found,) = check_ties(policies)
        assert (found.code, found.where, found.is_error) == ("EX408", two.where, False)
        assert "`a` comes first by name" in found.message
        assert "a.yaml:1" in found.message
        assert "`priority`" in found.hint


@pytest.mark.parametrize(
    ("one", "two"),
    [
        pytest.param(replace(A, selector=TEAM), replace(B, priority=1, selector=LABELLED), id="another priority"),
        pytest.param(A, replace(B, selector=TEAM), id="another rank"),
        pytest.param(replace(A, namespace="team-a"), replace(B, namespace="team-b"), id="other namespaces"),
        pytest.param(replace(A, selector=TEAM), replace(B, selector=Selector(namespaces=("team-b",))), id="other pods"),
        pytest.param(replace(A, selector=TEAM), replace(B, namespace="team-a"), id="another scope"),
        pytest.param(
            replace(A, selector=LABELLED), replace(B, selector=Selector(service_accounts=("web",))), id="nobody knows"
        ),
        pytest.param(
            replace(A, selector=TEAM), replace(B, selector=Selector(namespace_labels=(WEB,))), id="labels nobody knows"
        ),
        pytest.param(
            replace(A, namespace="team-c", selector=TEAM), replace(B, namespace="team-c", selector=TEAM), id="no pods"
        ),
    ],
)
def test_what_is_decided_or_not_sure_is_not_reported(one: Policy, two: Policy) -> None:
    assert check_ties((one, two)) == ()


def test_the_older_wins_and_it_is_said() -> None:
    older = replace(B, created="2026-01-01")

    (found,) = check_ties((A, older))

    assert found.where == A.where
    assert "`b` is older" in found.message


def test_each_loser_is_reported_once_against_the_one_in_force() -> None:
    third = replace(A, name="c", selector=TEAM, where=Where("c.yaml", "", 1))
    first, second = replace(A, selector=TEAM), replace(B, selector=TEAMS)

    found = check_ties((third, second, first))

    assert [item.where.source for item in found] == ["b.yaml", "c.yaml"]
    assert all("`a` comes first" in item.message for item in found)


def test_what_is_reported_is_what_is_selected() -> None:
    pod = Workload(pod="web-0", namespace="team-a", labels=(("app", "web"),))
    policies = [replace(A, name=name, where=Where(f"{name}.yaml", "", 1)) for name in "cab"]

    losers = {item.where.source for item in check_ties(policies)}

    chosen = select_policy(policies, pod)
    assert chosen is not None
    assert losers == {"a.yaml", "b.yaml", "c.yaml"} - {chosen.where.source}


@pytest.mark.parametrize(
    ("idle", "winner"),
    [
        pytest.param(A, replace(B, priority=1), id="all pods of the cluster"),
        pytest.param(
            replace(A, namespace="team-a"), replace(B, namespace="team-a", priority=1), id="all pods of a namespace"
        ),
        pytest.param(replace(A, selector=TEAM), replace(B, selector=TEAMS, priority=1), id="one of its namespaces"),
        pytest.param(replace(A, selector=LABELLED), replace(B, selector=LABELLED, priority=1), id="the same labels"),
        pytest.param(
            replace(A, selector=Selector(namespaces=("team-a",), namespace_labels=(WEB,))),
            replace(B, selector=TEAM, priority=1),
            id="some pods of its namespace",
        ),
    ],
)
def test_a_policy_that_is_never_in_force_is_reported(idle: Policy, winner: Policy) -> None:
    for policies in itertools.permutations((idle, winner)):
        (found,) = check_ties(policies)
        assert (found.code, found.where, found.is_error) == ("EX409", idle.where, False)
        assert "`b` (in b.yaml:1) is for its pods, too, with the priority 1 instead of 0" in found.message


def test_several_policies_together_may_leave_no_pod_to_another() -> None:
    others = [replace(B, name=name, selector=Selector(namespaces=(name,)), priority=1) for name in ("team-a", "team-b")]

    (found,) = check_ties((*others, replace(A, selector=TEAMS)))

    assert found.code == "EX409"


@pytest.mark.parametrize(
    ("one", "two"),
    [
        pytest.param(replace(A, selector=TEAMS), replace(B, selector=TEAM, priority=1), id="for some namespaces only"),
        pytest.param(replace(A, selector=TEAM), replace(B, priority=1), id="a lower rank"),
        pytest.param(
            replace(A, selector=Selector(namespace_labels=(WEB,))), replace(B, selector=TEAM, priority=1), id="labels"
        ),
    ],
)
def test_a_policy_that_may_be_in_force_is_not_reported(one: Policy, two: Policy) -> None:
    assert check_ties((one, two)) == ()
