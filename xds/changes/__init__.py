"""
What separates two worlds: policies, resources, pods, and what becomes of connections that are open meanwhile.

`compare_worlds` takes two judgements of the same facts, as they are before an edit and as they would be after it. Pure:
nothing here reads, asks or prints. Invariants: a world compared with itself has no change, and what is told of rules
and resources, applied to the world before, gives the world after.
"""

from xds.changes.connections import Cause, Drained, OpenConnections
from xds.changes.decisions import Decision, DecisionSample, Side, sample_decisions
from xds.changes.rules import FieldChange, Kind, RuleChange, RulePlace
from xds.changes.settings import SettingChange
from xds.changes.worlds import (
    Handover,
    PodGroup,
    PolicyChange,
    ResourceChange,
    Standing,
    Told,
    WorldChange,
    compare_snapshots,
    compare_worlds,
)

__all__ = [
    "Cause",
    "Decision",
    "DecisionSample",
    "Drained",
    "FieldChange",
    "Handover",
    "Kind",
    "OpenConnections",
    "PodGroup",
    "PolicyChange",
    "ResourceChange",
    "RuleChange",
    "RulePlace",
    "SettingChange",
    "Side",
    "Standing",
    "Told",
    "WorldChange",
    "compare_snapshots",
    "compare_worlds",
    "sample_decisions",
]
