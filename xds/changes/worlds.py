"""
Two judgements side by side: each policy, each pod.

Facts must be the same in both, or the difference between them shows as a change of policies. Which pods count is for
the caller to say.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from xds.cache import drop_captured
from xds.changes.connections import OpenConnections, predict
from xds.changes.examples import make_up_pods
from xds.changes.rules import Kind, RuleChange, compare_rules
from xds.changes.settings import SettingChange, compare_settings
from xds.policy.model import HeldPolicy, Mode, Policy
from xds.policy.selection import Candidates
from xds.resources import ResourceType
from xds.snapshot import diff_resources

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from xds.judge import Judgement, PolicyKey, Served
    from xds.names import NodeId, Version
    from xds.policy.model import Workload
    from xds.snapshot import Snapshot


class Standing(Enum):
    """How a policy stands in one world."""

    IN_FORCE = "in-force"
    HELD = "held"
    """Its document can't be used and nothing of it was good before: its pods are told nothing."""
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class ResourceChange:
    """What became of one resource; a version is None if it is not there."""

    kind: Kind
    type: ResourceType
    name: str
    before: Version | None
    after: Version | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyChange:
    """What became of one policy."""

    key: PolicyKey
    before: Standing
    after: Standing
    rules: tuple[RuleChange, ...]
    settings: tuple[SettingChange, ...]
    resources: tuple[ResourceChange, ...]
    connections: OpenConnections | None
    """Of pods that have this policy in both worlds; None: it is not in force in both."""

    @property
    def kind(self) -> Kind:
        """What became of it as a whole."""
        if self.before is Standing.ABSENT:
            return Kind.ADDED
        return Kind.REMOVED if self.after is Standing.ABSENT else Kind.CHANGED


@dataclass(frozen=True, slots=True)
class Told:
    """What a pod is told: the policy `key`; nothing (`is_held`); or, without either, to refuse everything."""

    key: PolicyKey | None
    is_held: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PodGroup:
    """Pods to which the same happens, by node id, sorted."""

    before: Told
    after: Told
    pods: tuple[NodeId, ...]
    connections: OpenConnections | None
    """None: they were told nothing before, so that nobody knows what they have."""

    @property
    def is_told_another(self) -> bool:
        """Whether another policy is in force for them, and not the same with other content."""
        return self.before != self.after


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """Pods that another policy is in force for, as selectors describe them: nobody knows which there are."""

    before: Told
    after: Told
    is_whole: bool
    """Whether that happens to all that were told `before`, and not only to those that `after` selects as well."""
    connections: OpenConnections | None
    """As those of a group of pods."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldChange:
    """All that differs. Falsy if nothing does."""

    policies: tuple[PolicyChange, ...]
    pods: tuple[PodGroup, ...]
    """Only those for which something changes, the largest group first."""
    all_pods: int
    """How many pods were looked at."""
    handovers: tuple[Handover, ...] = ()
    """Where no pods are known: which policies lose pods to which."""

    def __bool__(self) -> bool:
        """Whether anything differs."""
        return bool(self.policies or self.pods or self.handovers)

    @property
    def touched_pods(self) -> int:
        """For how many pods something changes."""
        return sum(len(group.pods) for group in self.pods)


def compare_worlds(before: Judgement, after: Judgement, pods: Mapping[NodeId, Workload]) -> WorldChange:
    """Compare two judgements of equal facts, and what they come to for `pods`."""
    keys = sorted({*_keys(before), *_keys(after)}, key=lambda key: (key[0] or "", key[1]))
    changes = (_compare_policy(key, before, after) for key in keys)
    return WorldChange(
        policies=tuple(change for change in changes if change is not None),
        pods=_group(before, after, pods),
        all_pods=len(pods),
        handovers=() if pods else _hand_over(before, after),
    )


def compare_snapshots(before: Snapshot | None, after: Snapshot | None) -> tuple[ResourceChange, ...]:
    """Return what became of each resource, by type and name."""
    changes: list[ResourceChange] = []
    for kind in ResourceType:
        have = {} if before is None else {name: item.version for name, item in before.of(kind).items()}
        want = {} if after is None else after.of(kind)
        diff = diff_resources(have, want)
        changes += (
            ResourceChange(
                Kind.CHANGED if item.name in have else Kind.ADDED, kind, item.name, have.get(item.name), item.version
            )
            for item in diff.changed
        )
        changes += (ResourceChange(Kind.REMOVED, kind, name, have[name], None) for name in diff.removed)
    return tuple(sorted(changes, key=lambda item: (list(ResourceType).index(item.type), item.name)))


def _keys(judgement: Judgement) -> Iterable[PolicyKey]:
    return ((item.namespace, item.name) for item in judgement.world.candidates)


def _standing(key: PolicyKey, judgement: Judgement) -> Standing:
    if key in judgement.served:
        return Standing.IN_FORCE
    return Standing.HELD if key in set(_keys(judgement)) else Standing.ABSENT


def _compare_policy(key: PolicyKey, before: Judgement, after: Judgement) -> PolicyChange | None:
    old, new = before.served.get(key), after.served.get(key)
    # Comparing starts with the cheap question: of thousands of policies, an edit changes one.
    if old is not None and new is not None and old.policy == new.policy and old.snapshot == new.snapshot:
        return None
    standings = _standing(key, before), _standing(key, after)
    rules = compare_rules(_policy_of(old), _policy_of(new))
    settings = compare_settings(_policy_of(old), _policy_of(new))
    resources = compare_snapshots(_snapshot_of(old), _snapshot_of(new))
    if standings[0] is standings[1] and not (rules or settings or resources):
        return None
    return PolicyChange(
        key=key,
        before=standings[0],
        after=standings[1],
        rules=rules,
        settings=settings,
        resources=resources,
        connections=None if old is None or new is None else predict(old.snapshot, new.snapshot),
    )


def _policy_of(served: Served | None) -> Policy | None:
    return None if served is None else served.policy


def _snapshot_of(served: Served | None) -> Snapshot | None:
    return None if served is None else served.snapshot


def _group(before: Judgement, after: Judgement, pods: Mapping[NodeId, Workload]) -> tuple[PodGroup, ...]:
    old, new = Candidates(before.world.candidates), Candidates(after.world.candidates)
    groups: dict[tuple[Told, Told, Mode], list[NodeId]] = defaultdict(list)
    for node, workload in pods.items():
        groups[_told(old.select(workload)), _told(new.select(workload)), workload.mode].append(node)
    found: list[PodGroup] = []
    for (was, will, mode), nodes in groups.items():
        have, want = _tell(was, before, mode), _tell(will, after, mode)
        if was != will or have != want:
            connections = _predict(have, want)
            found.append(PodGroup(before=was, after=will, pods=tuple(sorted(nodes)), connections=connections))
    return tuple(sorted(found, key=lambda group: (-len(group.pods), group.pods)))


def _hand_over(before: Judgement, after: Judgement) -> tuple[Handover, ...]:
    old, new = Candidates(before.world.candidates), Candidates(after.world.candidates)
    made_up = make_up_pods(before.world.candidates, after.world.candidates)
    steps = dict.fromkeys((_told(old.select(pod)), _told(new.select(pod))) for pod in made_up)
    ways = Counter(was for was, _ in steps)
    return tuple(
        Handover(
            before=was,
            after=will,
            is_whole=ways[was] == 1,
            connections=_predict(_tell(was, before), _tell(will, after)),
        )
        for was, will in steps
        if was != will
    )


def _told(selected: Policy | HeldPolicy | None) -> Told:
    match selected:
        case None:
            return Told(None)
        case HeldPolicy(namespace=namespace, name=name):
            return Told((namespace, name), is_held=True)
        case Policy(namespace=namespace, name=name):
            return Told((namespace, name))


def _tell(told: Told, judgement: Judgement, mode: Mode = Mode.TRANSPARENT) -> Snapshot | None:
    """Return what such pods get; None: nothing, and they keep what they have."""
    if told.is_held:
        return None
    whole = judgement.world.refuse_all if told.key is None else judgement.world.snapshots[told.key]
    return drop_captured(whole) if mode is Mode.EXPLICIT else whole


def _predict(have: Snapshot | None, want: Snapshot | None) -> OpenConnections | None:
    if want is None:
        return OpenConnections()
    return None if have is None else predict(have, want)
