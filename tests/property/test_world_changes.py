"""A world compared with itself has no change; what is told of a change, applied, gives what is there afterwards."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.strategies import policies, rules
from xds.cache import SnapshotCache, World
from xds.changes import Kind, Side, compare_snapshots, compare_worlds, sample_decisions
from xds.changes.connections import predict
from xds.changes.rules import compare_rules
from xds.compile import compile_snapshot
from xds.compile.refuse import REFUSE_ALL
from xds.diagnostics import Where
from xds.facts import Facts, FileContent
from xds.judge import Judgement, Served
from xds.names import NodeId
from xds.policy.model import LabelRequirement, Operator, Selector, Workload
from xds.resources import ResourceType

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from xds.policy.model import Policy, Rule
    from xds.snapshot import Snapshot

FACTS = Facts(files={"/login": FileContent("user:password")})
NAMES = ("", "", "a", "b", "c")


def compiled(policy: Policy) -> Snapshot:
    snapshot = compile_snapshot(policy, FACTS).snapshot
    assert snapshot is not None
    return snapshot


def judged(*written: Policy) -> Judgement:
    """Return the judgement of policies that are all good."""
    served = {
        (policy.namespace, policy.name): Served(policy.where.source, policy, compiled(policy)) for policy in written
    }
    world = World(written, {key: entry.snapshot for key, entry in served.items()}, compiled(REFUSE_ALL))
    return Judgement(world, (), served)


@st.composite
def named_rules(draw: st.DrawFn) -> tuple[Rule, ...]:
    """Draw a list of rules, some with a name of their own and the others with that of their number."""
    found = draw(st.lists(rules(("a",)), max_size=6))
    chosen: set[str] = set()
    named = []
    for number, rule in enumerate(found, start=1):
        name = draw(st.sampled_from(NAMES))
        named.append(replace(rule, name=name if name and name not in chosen else f"rule-{number}"))
        chosen.add(name)
    return tuple(named)


@st.composite
def edited_rules(draw: st.DrawFn) -> tuple[tuple[Rule, ...], tuple[Rule, ...]]:
    """Draw two lists, most of the second being the first in another order."""
    before, fresh = draw(named_rules()), draw(named_rules())
    pool = [*before, *fresh]
    picked = draw(st.lists(st.sampled_from(pool), max_size=7)) if pool else []
    chosen: set[str] = set()
    after = []
    for number, rule in enumerate(picked, start=1):
        is_free = not rule.name.startswith("rule-") and rule.name not in chosen
        chosen.add(rule.name)
        after.append(replace(rule, name=rule.name if is_free else f"rule-{number}"))
    return before, tuple(after)


def content(rule: Rule) -> Hashable:
    return (rule.destinations, rule.action, rule.http_action, rule.verify)


@given(policies())
@settings(max_examples=15)
def test_a_world_compared_with_itself_has_no_change(policy: Policy) -> None:
    pods = {NodeId("a.b"): Workload(pod="a", namespace="b")}
    elsewhere = replace(policy, where=Where("elsewhere", line=7))
    side = Side(policy, compiled(policy))

    assert not compare_worlds(judged(policy), judged(policy), pods)
    assert not compare_worlds(judged(policy), judged(elsewhere), pods)
    assert sample_decisions(side, side).changed == ()


@given(policies(), edited_rules())
@settings(max_examples=100)
def test_the_changes_of_rules_lead_from_one_list_to_the_other(
    policy: Policy, edited: tuple[tuple[Rule, ...], tuple[Rule, ...]]
) -> None:
    before, after = (replace(policy, rules=found) for found in edited)

    assert [content(rule) for rule in apply(before, after)] == [content(rule) for rule in after.rules]


def apply(before: Policy, after: Policy) -> Sequence[Rule]:
    """Do to the rules of `before` what is told; `after` is asked only for what a change names."""
    changes = compare_rules(before, after)
    named = {change.before.position for change in changes if change.before is not None}
    kept = iter([rule for number, rule in enumerate(before.rules, start=1) if number not in named])
    put = {
        change.after.position: after.rules[change.after.position - 1] for change in changes if change.after is not None
    }
    for change in changes:
        if change.kind is Kind.MOVED:
            assert change.before is not None
            assert change.after is not None
            put[change.after.position] = before.rules[change.before.position - 1]
    count = len(before.rules) + sum((change.after is not None) - (change.before is not None) for change in changes)
    return [put[number] if number in put else next(kept) for number in range(1, count + 1)]


@given(policies(), policies())
@settings(max_examples=20)
def test_the_changes_of_resources_lead_from_one_snapshot_to_the_other(one: Policy, other: Policy) -> None:
    before, after = compiled(one), compiled(other)
    have = {(kind, name): item.version for kind in ResourceType for name, item in before.of(kind).items()}
    want = {(kind, name): item.version for kind in ResourceType for name, item in after.of(kind).items()}

    for change in compare_snapshots(before, after):
        assert have.get((change.type, change.name)) == change.before
        if change.after is None:
            del have[change.type, change.name]
        else:
            have[change.type, change.name] = change.after

    assert have == want


@given(policies(), st.lists(rules(("a",)), max_size=4))
@settings(max_examples=30)
def test_other_rules_cut_no_connection(policy: Policy, fresh: list[Rule]) -> None:
    known = {proxy.name for proxy in policy.proxies}
    usable = tuple(
        rule
        for rule in fresh
        if {getattr(item, "proxy", None) for item in (rule.action, rule.http_action)} <= {None, *known}
    )

    assert predict(compiled(policy), compiled(replace(policy, rules=usable))).is_untouched


@given(policies(), policies(), st.sampled_from(["a", "b", ""]))
@settings(max_examples=15)
def test_the_pods_that_are_told_of_are_those_that_would_be_told_something_else(
    one: Policy, other: Policy, label: str
) -> None:
    labels = (LabelRequirement(key="app", operator=Operator.IN, values=(label,)),) if label else ()
    wide, narrow = replace(one, name="wide"), replace(other, name="narrow", selector=Selector(labels=labels))
    before, after = judged(wide), judged(wide, narrow)
    pods = {
        NodeId(f"{app}.shop"): Workload(pod=app, namespace="shop", labels=(("app", app),)) for app in ("a", "b", "c")
    }
    caches = []
    for judgement in (before, after):
        caches.append(SnapshotCache())
        caches[-1].publish(judgement.world)

    change = compare_worlds(before, after, pods)

    told = {node for group in change.pods for node in group.pods if _is_other(caches, pods[node])}
    assert told == {node for node, workload in pods.items() if _is_other(caches, workload)}


def _is_other(caches: Sequence[SnapshotCache], workload: Workload) -> bool:
    one, other = (cache.snapshot_for(workload) for cache in caches)
    return one != other
