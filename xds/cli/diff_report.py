"""What `xds diff` found: what is told, and the same as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import unified_diff
from typing import TYPE_CHECKING

from xds.changes import Side, Standing, Told, compare_worlds, sample_decisions
from xds.cli.edits import EditKind
from xds.cli.output import describe_diagnostic, render_yaml
from xds.compile import matcher_messages  # noqa: F401  # registers the messages that `render` unpacks
from xds.policy.model import HeldPolicy
from xds.render import render_resource

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from xds.changes import (
        DecisionSample,
        Handover,
        OpenConnections,
        PodGroup,
        PolicyChange,
        ResourceChange,
        RuleChange,
        RulePlace,
        WorldChange,
    )
    from xds.cli.documents import Gathered
    from xds.cli.edits import Edit
    from xds.cli.world import OpenWorld
    from xds.diagnostics import Diagnostic
    from xds.judge import Judgement, PolicyKey
    from xds.snapshot import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that is told."""

    change: WorldChange
    edits: tuple[Edit, ...]
    before: Judgement
    after: Judgement
    findings: tuple[Diagnostic, ...]
    """Those that were not there before, and all errors of documents that are new or another."""
    counts_sidecars: bool
    """Whether only pods count that are known to have a sidecar."""
    decisions: Mapping[tuple[Told, Told], DecisionSample]
    """Of each policy and each group of pods, by what they were told and would be."""

    @classmethod
    def build(
        cls, world: OpenWorld, edits: tuple[Edit, ...], before: Judgement, after: Judgement, gathered: Gathered
    ) -> Report:
        """Compare both judgements."""
        nodes = world.injected or frozenset(world.pods)
        pods = {node: world.pods[node].workload for node in sorted(nodes) if node in world.pods}
        change = compare_worlds(before, after, pods)
        known = {(finding.code, finding.message) for finding in before.diagnostics}
        touched = {edit.source for edit in edits}
        findings = [*gathered.findings, *after.diagnostics]
        return cls(
            change=change,
            edits=edits,
            before=before,
            after=after,
            findings=tuple(
                gathered.locate(finding).finding
                for finding in findings
                if (finding.code, finding.message) not in known
                or (finding.is_error and finding.where.source in touched)
            ),
            counts_sidecars=bool(world.injected),
            decisions=_sample(change, before, after),
        )

    def is_document(self, key: PolicyKey) -> bool:
        """Return whether what is called a policy is a document of which nothing can be read, not even its policies."""
        held = (*self.before.world.candidates, *self.after.world.candidates)
        return any(
            isinstance(item, HeldPolicy) and (item.namespace, item.name) == key and item.name == item.where.source
            for item in held
        )

    @property
    def errors(self) -> int:
        """How many errors the new documents have."""
        return sum(finding.is_error for finding in self.findings)

    def decisions_of(self, change: PolicyChange) -> DecisionSample | None:
        """Return the decisions of a policy that is in force in both worlds."""
        return self.decisions.get((Told(change.key), Told(change.key)))

    def diff(self, key: PolicyKey, item: ResourceChange) -> Iterator[str]:
        """Yield a unified diff of what `xds dump -o yaml` shows of both versions."""
        old, new = (
            _render(side.served[key].snapshot if key in side.served else None, item)
            for side in (self.before, self.after)
        )
        lines = list(unified_diff(old, new, lineterm="", n=2))[2:]
        yield from lines or ["(its content is secret, and is another)"]


def _sample(change: WorldChange, before: Judgement, after: Judgement) -> dict[tuple[Told, Told], DecisionSample]:
    pairs = [
        (Told(policy.key), Told(policy.key))
        for policy in change.policies
        if policy.before is policy.after is Standing.IN_FORCE
    ]
    pairs += [(group.before, group.after) for group in change.pods if group.is_told_another]
    pairs += [(item.before, item.after) for item in change.handovers]
    return {
        (was, will): sample_decisions(one, other)
        for was, will in dict.fromkeys(pairs)
        if (one := _side(was, before)) is not None and (other := _side(will, after)) is not None
    }


def _side(told: Told, judgement: Judgement) -> Side | None:
    if told.is_held:
        return None
    if told.key is None:
        return Side(None, judgement.world.refuse_all)
    served = judgement.served[told.key]
    return Side(served.policy, served.snapshot)


def describe(report: Report, *, shows_resources: bool) -> dict[str, object]:
    """Return the report as a JSON object."""
    change = report.change
    return {
        "documents": [
            {
                "change": edit.kind.value,
                "source": edit.source,
                "replaces": edit.replaced.source
                if edit.replaced is not None and edit.kind is EditKind.REPLACED
                else None,
            }
            for edit in report.edits
        ],
        "errors": report.errors,
        "diagnostics": [describe_diagnostic(finding) for finding in report.findings],
        "policies": [_describe_policy(item, report, shows_resources=shows_resources) for item in change.policies],
        "pods": {
            "lookedAt": change.all_pods,
            "changed": change.touched_pods,
            "groups": [_describe_group(group, report) for group in change.pods],
            "handovers": [_describe_handover(item, report) for item in change.handovers],
        },
    }


def _describe_policy(change: PolicyChange, report: Report, *, shows_resources: bool) -> dict[str, object]:
    return {
        "policy": name_policy(change.key),
        "change": change.kind.value,
        "before": change.before.value,
        "after": change.after.value,
        "rules": [_describe_rule(rule) for rule in change.rules],
        "settings": [
            {"key": item.key, "removed": list(item.removed), "added": list(item.added)} for item in change.settings
        ],
        "connections": _describe_connections(change.connections),
        "decisions": _describe_decisions(report.decisions_of(change)),
        "resources": [
            {
                "change": item.kind.value,
                "type": item.type.name.lower(),
                "name": item.name,
                "before": item.before,
                "after": item.after,
                **({"diff": list(report.diff(change.key, item))} if shows_resources else {}),
            }
            for item in change.resources
        ],
    }


def _describe_rule(rule: RuleChange) -> dict[str, object]:
    return {
        "change": rule.kind.value,
        "name": rule.name,
        "moved": rule.is_moved,
        "before": _describe_place(rule.before),
        "after": _describe_place(rule.after),
        "fields": [
            {"key": field.key, "removed": list(field.removed), "added": list(field.added)} for field in rule.fields
        ],
    }


def _describe_place(place: RulePlace | None) -> dict[str, object] | None:
    if place is None:
        return None
    return {"position": place.position, "source": place.where.source, "line": place.where.line}


def _describe_connections(connections: OpenConnections | None) -> dict[str, object] | None:
    if connections is None:
        return None
    return {
        "untouched": connections.is_untouched,
        "drained": [
            {"what": item.what, "cause": item.cause.value, "listener": item.listener, "chain": item.chain}
            for item in connections.drained
        ],
        "stay": list(connections.stay),
        "nextRequestElsewhere": connections.is_next_request_elsewhere,
    }


def _describe_decisions(sample: DecisionSample | None) -> dict[str, object] | None:
    if sample is None:
        return None
    return {
        "asked": sample.probed,
        "known": sample.known,
        "changed": [
            {"target": item.target, "protocol": item.protocol.value, "before": item.before, "after": item.after}
            for item in sample.changed
        ],
    }


def _describe_group(group: PodGroup, report: Report) -> dict[str, object]:
    return {
        "before": _describe_told(group.before),
        "after": _describe_told(group.after),
        "pods": list(group.pods),
        "connections": _describe_connections(group.connections),
        "decisions": _describe_decisions(report.decisions.get((group.before, group.after))),
    }


def _describe_handover(item: Handover, report: Report) -> dict[str, object]:
    return {
        "before": _describe_told(item.before),
        "after": _describe_told(item.after),
        "whole": item.is_whole,
        "connections": _describe_connections(item.connections),
        "decisions": _describe_decisions(report.decisions.get((item.before, item.after))),
    }


def _describe_told(told: Told) -> dict[str, object]:
    if told.is_held:
        return {"told": "nothing", "policy": None}
    return (
        {"told": "refuse-all", "policy": None}
        if told.key is None
        else {"told": "policy", "policy": name_policy(told.key)}
    )


def name_policy(key: PolicyKey) -> str:
    """Return `[namespace/]name`."""
    return key[1] if key[0] is None else "/".join(part for part in key if part)


def _render(snapshot: Snapshot | None, item: ResourceChange) -> list[str]:
    resource = None if snapshot is None else snapshot.of(item.type).get(item.name)
    return [] if resource is None else render_yaml(render_resource(resource)).splitlines()
