"""
All sidecars at one moment: what the replicas said, put together, with those that none of them knows.

Pure: nothing here asks anybody. Invariant: a sidecar counts as offline only if every replica was asked and answered.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from xds.inspection.client_status import Answer, SidecarStatus, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What is known at one moment."""

    answers: tuple[Answer, ...]
    sidecars: tuple[SidecarStatus, ...]
    """By node, then by replica: a node that moves from one replica to another is seen by both for a moment."""
    notes: tuple[str, ...] = ()
    """What is not known, and why."""

    @property
    def problems(self) -> tuple[str, ...]:
        """Which replicas did not answer, and why."""
        return tuple(answer.problem for answer in self.answers if answer.problem)

    @property
    def counts(self) -> Mapping[State, int]:
        """How many sidecars there are in each state."""
        found = Counter(sidecar.state for sidecar in self.sidecars)
        return {state: found[state] for state in State}

    @property
    def is_current(self) -> bool:
        """Whether every sidecar runs what it is to run."""
        return all(sidecar.state is State.CURRENT for sidecar in self.sidecars)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which sidecars are looked at; in patterns, `*` stands for any characters."""

    nodes: tuple[str, ...] = ()
    """Patterns; none: all nodes."""
    policies: tuple[str, ...] = ()
    """Patterns; none: whatever the policy."""
    problems_only: bool = False
    """Whether those that are current are left out."""

    @property
    def prefixes(self) -> tuple[str, ...]:
        """What the ids of the nodes begin with; nothing if they may begin with anything."""
        found = tuple(pattern.partition("*")[0] for pattern in self.nodes)
        return found if all(found) else ()

    def choose(self, sidecars: Iterable[SidecarStatus]) -> tuple[SidecarStatus, ...]:
        """Return those that are looked at."""
        is_node, is_policy = _matcher(self.nodes), _matcher(self.policies)
        return tuple(
            sidecar
            for sidecar in sidecars
            if is_node.fullmatch(sidecar.node)
            and is_policy.fullmatch(sidecar.policy)
            and not (self.problems_only and sidecar.state is State.CURRENT)
        )


def _matcher(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(
        "|".join(".*".join(map(re.escape, pattern.split("*"))) for pattern in patterns or ("*",)), re.DOTALL
    )


def put_together(
    answers: tuple[Answer, ...], expected: frozenset[str] | None, wanted: Filter, notes: Iterable[str] = ()
) -> Fleet:
    """
    Put together what the replicas said; `expected` are the nodes that should be connected, None: nobody knows.

    A filter by policy leaves out those who are offline, for nobody said which policy is theirs.
    """
    seen = [sidecar for answer in answers for sidecar in answer.sidecars]
    notes = list(notes)
    if expected is not None and any(answer.problem for answer in answers):
        notes.append("which sidecars are offline can't be told while a replica does not answer")
        expected = None
    absent = (expected or frozenset()) - {sidecar.node for sidecar in seen}
    seen += (SidecarStatus(node=node, state=State.OFFLINE) for node in absent)
    chosen = sorted(wanted.choose(seen), key=lambda sidecar: (sidecar.node, sidecar.replica))
    return Fleet(answers=answers, sidecars=tuple(chosen), notes=tuple(notes))


@dataclass(frozen=True, slots=True)
class Change:
    """What became of one sidecar between two looks; `before` or `after` is None for one that came or went."""

    before: SidecarStatus | None
    after: SidecarStatus | None


def find_changes(before: Fleet, after: Fleet) -> tuple[Change, ...]:
    """Return what is another than before, by node."""
    old, new = _by_stream(before), _by_stream(after)
    return tuple(
        Change(old.get(key), new.get(key)) for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)
    )


def remember(before: Fleet, after: Fleet) -> Fleet:
    """Return `after`, with what `before` knew of replicas that do not answer any more: that is not gone."""
    silent = {answer.replica for answer in after.answers if answer.problem}
    if not silent:
        return after
    known = {answer.replica: answer.sidecars for answer in before.answers if answer.replica in silent}
    lost = {_stream(sidecar) for sidecars in known.values() for sidecar in sidecars}
    seen = {sidecar.node for sidecar in after.sidecars}
    kept = [
        sidecar
        for sidecar in before.sidecars
        if _stream(sidecar) in lost or (sidecar.state is State.OFFLINE and sidecar.node not in seen)
    ]
    answers = tuple(
        replace(answer, sidecars=known[answer.replica]) if answer.replica in known else answer
        for answer in after.answers
    )
    return replace(after, answers=answers, sidecars=(*after.sidecars, *kept))


def _by_stream(fleet: Fleet) -> dict[tuple[str, str], SidecarStatus]:
    return {_stream(sidecar): replace(sidecar, since=None) for sidecar in fleet.sidecars}


def _stream(sidecar: SidecarStatus) -> tuple[str, str]:
    return sidecar.node, sidecar.replica
