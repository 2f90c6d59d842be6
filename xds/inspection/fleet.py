"""
All sidecars at one moment: what the replicas said, put together, with those that none of them knows.

Pure: nothing here asks anybody. Invariant: a sidecar counts as offline only if every replica was asked and answered.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from xds.clients import InForce

_NAMED, _COMPARED = 5, 1_000
"""How many are named of what there is instead, and among how many those most alike are looked for."""


class State(Enum):
    """How a sidecar stands."""

    CURRENT = "current"
    """It runs what it is to run."""
    PENDING = "pending"
    """It has not got so far yet."""
    REFUSED = "refused"
    """Its last answer for some type was a refusal; it runs what it had before."""
    HELD = "held"
    """Its policy can't be used: it is told nothing, and keeps what it has."""
    LACKING = "lacking"
    """Its policy lacks what its mode needs: applications find nobody where they are told to go."""
    OFFLINE = "offline"
    """It is connected to none of the replicas."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a sidecar refused, and why in its own words, without logins."""

    version: str
    text: str
    at: float | None = None
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeReport:
    """Where a sidecar stands with one type."""

    is_current: bool
    resources: int | None = None
    """How many it subscribes to or was sent; None: it is not known."""
    sent: str = ""
    """The newest version; empty: nothing was sent on this stream, or it is not known."""
    acknowledged: str = ""
    """The last version that it took; empty: none on this stream, or it is not known."""
    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SidecarStatus:
    """One sidecar, as one replica sees it."""

    node: str
    replica: str = ""
    state: State
    policy: str = ""
    """`namespace/name`; empty: there is none, or it is not known."""
    standing: InForce | None = None
    """None: the server does not say."""
    since: float | None = None
    """When its stream was opened, in seconds since the epoch."""
    variant: str = ""
    lacks: str = ""
    """The key that its policy lacks and its mode needs; empty: none, or it is not known."""
    types: Mapping[str, TypeReport] = field(default_factory=lambda: MappingProxyType({}))
    """By the name of the `ResourceType` in lower case, or by the type URL of one that is not ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one replica said; with a `problem`, it said nothing."""

    replica: str
    sidecars: tuple[SidecarStatus, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What is known at one moment."""

    answers: tuple[Answer, ...]
    sidecars: tuple[SidecarStatus, ...]
    """By node, then by replica: a node that moves from one replica to another is seen by both for a moment."""
    notes: tuple[str, ...] = ()
    """What is not known, and why."""
    missing: tuple[str, ...] = ()
    """What was asked for that there is not."""

    @property
    def problems(self) -> tuple[str, ...]:
        """Which replicas did not answer, and why."""
        return tuple(answer.problem for answer in self.answers if answer.problem)

    @property
    def told(self) -> tuple[str, ...]:
        """All that somebody who looks has to know besides the sidecars."""
        return (*self.problems, *self.notes, *self.missing)

    @property
    def counts(self) -> Mapping[State, int]:
        """How many sidecars there are in each state."""
        found = Counter(sidecar.state for sidecar in self.sidecars)
        return {state: found[state] for state in State}

    @property
    def is_current(self) -> bool:
        """Whether every sidecar runs what it is to run, and all were found that were asked for."""
        return not self.missing and all(sidecar.state is State.CURRENT for sidecar in self.sidecars)


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

    def unmatched(self, nodes: Iterable[str]) -> tuple[str, ...]:
        """Return the patterns of nodes that none of `nodes` matches."""
        known = frozenset(nodes)
        return tuple(
            pattern
            for pattern in dict.fromkeys(self.nodes)
            if pattern not in known and not any(map(_matcher((pattern,)).fullmatch, known))
        )

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
    answers: tuple[Answer, ...],
    expected: frozenset[str] | None,
    wanted: Filter,
    notes: Iterable[str] = (),
    *,
    connected: Iterable[str] = (),
) -> Fleet:
    """
    Put together what the replicas said; `expected` are the nodes that should be connected, None: nobody knows.

    A node that `wanted` names and that nobody knows may be mistyped: it is told of, among those that are `connected`
    (the answers may hold only what was asked for). A filter by policy leaves out those who are offline, for nobody said
    which policy is theirs.
    """
    seen = [sidecar for answer in answers for sidecar in answer.sidecars]
    notes = list(notes)
    absent = (expected or frozenset()) - {sidecar.node for sidecar in seen}
    if absent and any(answer.problem for answer in answers):
        notes.append("which sidecars are offline can't be told while a replica does not answer")
        absent = frozenset()
    seen += (SidecarStatus(node=node, state=State.OFFLINE) for node in absent)
    chosen = sorted(wanted.choose(seen), key=lambda sidecar: (sidecar.node, sidecar.replica))
    known = {sidecar.node for sidecar in seen} | (expected or frozenset())
    who = "no replica that answers" if any(answer.problem for answer in answers) else "no replica"
    others = sorted({*connected, *(sidecar.node for answer in answers for sidecar in answer.sidecars)})
    missing = [f"{who} knows {node}; {_name_some('connected are', node, others)}" for node in wanted.unmatched(known)]
    # Which policies there are can be told only of those that were found.
    if not missing:
        missing += _find_missing_policies(replace(wanted, problems_only=False), seen)
    return Fleet(answers=answers, sidecars=tuple(chosen), notes=tuple(notes), missing=tuple(missing))


def _find_missing_policies(wanted: Filter, seen: Iterable[SidecarStatus]) -> Iterable[str]:
    sidecars = replace(wanted, policies=()).choose(seen)
    policies = sorted({sidecar.policy for sidecar in sidecars} - {""})
    among = f" of {', '.join(wanted.nodes)}" if wanted.nodes else ""
    for pattern in dict.fromkeys(wanted.policies):
        if not replace(wanted, policies=(pattern,)).choose(sidecars):
            yield f"no sidecar{among} has the policy {pattern}; {_name_some('there are', pattern, policies)}"


def _name_some(verb: str, wanted: str, names: Sequence[str]) -> str:
    """Name what is most like `wanted`, and others if there is room."""
    alike = get_close_matches(wanted, names[:_COMPARED], n=_NAMED)
    some = list(dict.fromkeys([*alike, *names[:_NAMED]]))[:_NAMED]
    more = f" and {len(names) - len(some)} more" if len(names) > len(some) else ""
    return f"{verb}: {', '.join(some)}{more}" if some else f"{verb} none"


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
