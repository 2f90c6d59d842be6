"""
What operators read on a policy's ConfigMap: whether it was accepted, what is wrong, and how its pods stand.

Pure: the reconciler's state and counts in, texts for one label and three annotations out. Nothing here asks or tells
the API server, or reads a clock. Invariants: equal arguments give equal bytes, all that is written on one object is
bounded, and no login gets in.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from types import MappingProxyType
from typing import TYPE_CHECKING

from xds.errors import redact_logins
from xds.policy.config_maps import object_of
from xds.policy.model import HeldPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from xds.clients import Client
    from xds.diagnostics import Diagnostic
    from xds.judge import DocumentState, PolicyKey
    from xds.policy.model import Policy, Workload
    from xds.reconcile import State

ObjectKey = tuple[str, str]
"""Namespace and name of a ConfigMap."""

STATUS = "egress-xds/status"
"""Annotation: one sentence for people."""
PROBLEMS = "egress-xds/problems"
"""Annotation: one line for each finding; absent if there is none."""
STATUS_JSON = "egress-xds/status-json"
"""Annotation: the same for machines."""
ACCEPTED = "egress-xds/accepted"
"""Label: `true` or `false`, for a column of `kubectl get`."""

OURS = (STATUS, PROBLEMS, STATUS_JSON)
"""The annotations that are written; a change of these is no change of a policy."""

MAX_REFUSAL = 300
"""Characters kept of an Envoy's reason for a refusal."""

_MAX_STATUS = 1_000
_MAX_PROBLEMS = 3_000
_MAX_JSON = 4_000
_MAX_LINE = 400
_MAX_FINDINGS = 20
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """What Envoys with open streams made of one policy; each Envoy counts once."""

    connected: int = 0
    acknowledged: int = 0
    """Those that run what they were last sent."""
    refused: int = 0
    """Those whose last answer for some type was a refusal."""
    refusal: str = ""
    """One of the refusals: node and reason."""

    def plus(self, other: Streams) -> Streams:
        """Return the sum of both; the refusal is the one that sorts first."""
        return Streams(
            connected=self.connected + other.connected,
            acknowledged=self.acknowledged + other.acknowledged,
            refused=self.refused + other.refused,
            refusal=min(filter(None, (self.refusal, other.refusal)), default=""),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How the pods stand that a policy is in force for; the last four add up to the first."""

    pods: int = 0
    acknowledged: int = 0
    refused: int = 0
    pending: int = 0
    """Connected, and owed something or yet to answer."""
    offline: int = 0
    """A sidecar is expected, and there is no stream."""
    refusal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyStatus:
    """What is known of one ConfigMap at one moment."""

    is_accepted: bool
    """Whether every document in it is good."""
    verdict: str
    """Digest of what was judged, without moments and counts: it changes exactly when the judgement does."""
    since: str
    """RFC 3339: since when the judgement is this one."""
    documents: int
    refused: int
    policies: int
    """How many policies are in force from it."""
    findings: tuple[str, ...]
    """One line each, errors first."""
    details: tuple[Mapping[str, str | int | None], ...]
    """The same for machines."""
    tally: Tally
    kept: int | None = None
    """Pods among these that what was last good stays in force for; None: no refused document has a good version."""
    held: int = 0
    """Pods that are told nothing new, because what a refused document says of them is not known."""
    problem: str = ""
    """Why the control plane can't take changes at the moment."""

    def at_least_since(self, annotations: Mapping[str, str]) -> PolicyStatus:
        """Return it with the moment that the object tells already, if that is about the same judgement."""
        told = _told(annotations)
        since = told.get("since")
        if told.get("verdict") == self.verdict and isinstance(since, str) and _MOMENT.fullmatch(since):
            return replace(self, since=since)
        return self

    def annotations(self) -> dict[str, str]:
        """Return the annotations to write; together at most 8 KiB."""
        found = {STATUS: _cut(_sentence(self), _MAX_STATUS), STATUS_JSON: _json(self)}
        if problems := _problems(self):
            found[PROBLEMS] = problems
        return found

    def labels(self) -> dict[str, str]:
        """Return the label to write."""
        return {ACCEPTED: "true" if self.is_accepted else "false"}


def told_verdict(annotations: Mapping[str, str]) -> tuple[str, bool] | None:
    """Return the digest of the judgement that an object tells already, and whether it was accepted; None: nothing."""
    told = _told(annotations)
    verdict, is_accepted = told.get("verdict"), told.get("accepted")
    return (verdict, is_accepted) if isinstance(verdict, str) and isinstance(is_accepted, bool) else None


def told_refusal(annotations: Mapping[str, str]) -> str:
    """Return the refusal by an Envoy that an object tells already."""
    refusal = _told(annotations).get("refusal")
    return refusal if isinstance(refusal, str) else ""


def count_streams(
    clients: Iterable[Client], policy_for: Callable[[Workload], Policy | HeldPolicy | None]
) -> Mapping[PolicyKey, Streams]:
    """
    Count what `clients` made of their policies, in one pass; of two streams of a node the later one counts.

    Those that a refused document holds are connected, and no more, under its `held_key`.
    """
    found: dict[PolicyKey, list[int]] = {}
    refusals: dict[PolicyKey, str] = {}
    for client in {client.node_id: client for client in clients}.values():
        policy = policy_for(client.workload)
        if policy is None:
            continue
        key = _key(policy)
        counts = found.setdefault(key, [0, 0, 0])
        counts[0] += 1
        if isinstance(policy, HeldPolicy):
            continue
        if client.is_rejecting:
            counts[2] += 1
            refusals.setdefault(key, _refusal(client))
        elif client.types and all(status.is_current for status in client.types.values()):
            counts[1] += 1
    return {
        key: Streams(connected=counts[0], acknowledged=counts[1], refused=counts[2], refusal=refusals.get(key, ""))
        for key, counts in found.items()
    }


def count_pods(
    workloads: Iterable[Workload], policy_for: Callable[[Workload], Policy | HeldPolicy | None]
) -> Mapping[PolicyKey, int]:
    """
    Count the pods that each policy is in force for, in one pass; give only those that have a sidecar.

    Those that a refused document holds are counted under its `held_key`.
    """
    found: dict[PolicyKey, int] = {}
    for workload in workloads:
        policy = policy_for(workload)
        if policy is not None:
            key = _key(policy)
            found[key] = found.get(key, 0) + 1
    return found


def held_key(source: str) -> PolicyKey:
    """Return what the pods are counted under that a refused document holds; no policy is called so."""
    return source, ""


def counted_keys(state: State) -> set[PolicyKey]:
    """Return everything of which `read_statuses` wants to know the tally."""
    policies = {key for document in state.documents for key in document.in_force}
    return policies | {held_key(document.source) for document in state.documents if not document.is_good}


def _key(policy: Policy | HeldPolicy) -> PolicyKey:
    return held_key(policy.where.source) if isinstance(policy, HeldPolicy) else (policy.namespace, policy.name)


def tally(streams: Streams, expected: int | None) -> Tally:
    """
    Set streams against the number of pods that are expected to have one; None: nobody knows.

    Counts are taken at different moments and in different processes, and a pod that moves between replicas may be seen
    by both: what exceeds the pods is left out, pending ones first, then acknowledged ones.
    """
    pods = streams.connected if expected is None else expected
    refused = min(streams.refused, pods)
    acknowledged = min(streams.acknowledged, pods - refused)
    pending = min(max(streams.connected - streams.refused - streams.acknowledged, 0), pods - refused - acknowledged)
    return Tally(
        pods=pods,
        acknowledged=acknowledged,
        refused=refused,
        pending=pending,
        offline=pods - refused - acknowledged - pending,
        refusal=streams.refusal if refused else "",
    )


def read_statuses(state: State, tallies: Mapping[PolicyKey, Tally]) -> Mapping[ObjectKey, PolicyStatus]:
    """Return the status of every ConfigMap that `state` has a document of."""
    documents: dict[ObjectKey, list[DocumentState]] = {}
    for document in state.documents:
        if (key := object_of(document.source)) is not None:
            documents.setdefault(key, []).append(document)
    problem = one_line(redact_logins(state.problem or ""))
    return MappingProxyType({key: _status(found, tallies, problem) for key, found in documents.items()})


def _status(documents: list[DocumentState], tallies: Mapping[PolicyKey, Tally], problem: str) -> PolicyStatus:
    documents.sort(key=lambda document: document.source)
    refused = [document for document in documents if not document.is_good]
    findings = _errors_first(documents)
    policies = sorted(_in_force(documents), key=_policy_order)
    kept = _in_force(document for document in refused if document.has_last_good)
    return PolicyStatus(
        is_accepted=not refused,
        verdict=_digest(documents),
        since=_moment(max(document.since for document in refused or documents)),
        documents=len(documents),
        refused=len(refused),
        policies=len(policies),
        findings=tuple(_finding(finding) for finding in findings),
        details=tuple(_detail(finding) for finding in findings[:_MAX_FINDINGS]),
        tally=_sum(tallies.get(key, Tally()) for key in policies),
        kept=sum(tallies.get(key, Tally()).pods for key in kept) if kept else None,
        held=sum(tallies.get(held_key(document.source), Tally()).pods for document in refused),
        problem=problem,
    )


def _errors_first(documents: Iterable[DocumentState]) -> list[Diagnostic]:
    found = (finding for document in documents for finding in document.diagnostics)
    return sorted(found, key=lambda finding: not finding.is_error)


def _in_force(documents: Iterable[DocumentState]) -> set[PolicyKey]:
    return {key for document in documents for key in document.in_force}


def _policy_order(key: PolicyKey) -> tuple[str, str]:
    return key[0] or "", key[1]


def _sum(tallies: Iterable[Tally]) -> Tally:
    found = tuple(tallies)
    return Tally(
        pods=sum(item.pods for item in found),
        acknowledged=sum(item.acknowledged for item in found),
        refused=sum(item.refused for item in found),
        pending=sum(item.pending for item in found),
        offline=sum(item.offline for item in found),
        refusal=min((item.refusal for item in found if item.refusal), default=""),
    )


def _digest(documents: Iterable[DocumentState]) -> str:
    judged = [
        [
            document.source,
            document.is_good,
            [[item.code, item.where.line, item.where.key, item.message] for item in document.diagnostics],
            sorted(map(_policy_order, document.in_force)),
        ]
        for document in documents
    ]
    return sha256(json.dumps(judged).encode()).hexdigest()[:16]


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _place(finding: Diagnostic) -> str:
    """Return the key of the ConfigMap that a finding is about."""
    return finding.where.source.split("/", 3)[-1]


def _finding(finding: Diagnostic) -> str:
    where = replace(finding.where, source=_place(finding))
    return one_line(redact_logins(str(replace(finding, where=where))))


def _detail(finding: Diagnostic) -> Mapping[str, str | int | None]:
    return {
        "document": _place(finding),
        "line": finding.where.line,
        "key": one_line(finding.where.key),
        "code": finding.code,
        "severity": finding.severity.value,
        "message": one_line(redact_logins(finding.message)),
        "hint": one_line(redact_logins(finding.hint)),
    }


def _refusal(client: Client) -> str:
    texts = [status.nack.text for status in client.types.values() if status.is_rejected and status.nack is not None]
    return _cut(one_line(redact_logins(f"{client.node_id}: {min(texts, default='')}")), MAX_REFUSAL)


def _sentence(status: PolicyStatus) -> str:
    parts = [_verdict_text(status), _pods_text(status), _held_text(status)]
    if status.problem:
        parts.append(f"the control plane can't take changes at the moment: {status.problem}")
    return "; ".join(filter(None, parts))


def _verdict_text(status: PolicyStatus) -> str:
    if status.is_accepted:
        return f"accepted since {status.since}"
    if status.documents == 1:
        return f"refused since {status.since}"
    return f"{status.refused} of {status.documents} documents refused since {status.since}"


def _pods_text(status: PolicyStatus) -> str:
    if not status.policies:
        return "no policy in it" if status.is_accepted else "there is no good version"
    pods = f"in force for {_number(status.tally.pods, 'pod')}"
    if status.kept == status.tally.pods:
        pods = f"what was last good stays {pods}"
    elif status.kept:
        pods += f", for {status.kept} of them what was last good"
    counts = ", ".join(f"{number} {word}" for word, number in _counts(status.tally).items() if number)
    return f"{pods}: {counts}" if counts else pods


def _held_text(status: PolicyStatus) -> str:
    if not status.held:
        return ""
    return f"{_number(status.held, 'pod')} {'is' if status.held == 1 else 'are'} told nothing new"


def _counts(found: Tally) -> dict[str, int]:
    return {
        "acknowledged": found.acknowledged,
        "refused": found.refused,
        "pending": found.pending,
        "offline": found.offline,
    }


def _number(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}{'' if count == 1 else 's'}"


def _problems(status: PolicyStatus) -> str:
    lines = [*status.findings]
    if status.tally.refusal:
        lines.insert(0, f"refused by Envoy: {status.tally.refusal}")
    shown: list[str] = []
    room = _MAX_PROBLEMS
    for line in lines[:_MAX_FINDINGS]:
        room -= len(line.encode()) + 1
        if room < 0:
            break
        shown.append(line)
    if len(shown) < len(lines):
        shown.append(f"and {len(lines) - len(shown)} more: xds validate")
    return "\n".join(shown)


def _json(status: PolicyStatus) -> str:
    found: dict[str, object] = {
        "accepted": status.is_accepted,
        "since": status.since,
        "verdict": status.verdict,
        "documents": {"total": status.documents, "refused": status.refused},
        "policies": status.policies,
        "pods": {"total": status.tally.pods, **_counts(status.tally)},
        "held": status.held,
        "refusal": status.tally.refusal,
        "problem": status.problem,
    }
    for shown in range(len(status.details), -1, -1):
        problems = status.details[:shown]
        text = _dump({**found, "problems": problems, "moreProblems": len(status.findings) - shown})
        if len(text.encode()) <= _MAX_JSON:
            return text
    raise AssertionError("without problems all that is told is bounded")


def _dump(found: Mapping[str, object]) -> str:
    return json.dumps(found, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _told(annotations: Mapping[str, str]) -> Mapping[str, object]:
    try:
        told = json.loads(annotations.get(STATUS_JSON, ""))
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def one_line(text: str) -> str:
    """Return `text` as one line of at most 400 bytes, without what a terminal would obey."""
    words = " ".join(text.split())
    return _cut("".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in words), _MAX_LINE)


def _cut(text: str, size: int) -> str:
    """Return `text` in at most `size` bytes of UTF-8."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= size:
        return encoded.decode()
    return encoded[: size - 3].decode(errors="ignore") + "…"
