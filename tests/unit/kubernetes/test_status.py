"""What is written on a ConfigMap: true, bounded, equal for equal states, and without secrets."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xds.catalogue import CATALOGUE, Severity
from xds.clients import Clients
from xds.compile.refuse import REFUSE_ALL
from xds.diagnostics import Diagnostic, Where
from xds.judge import DocumentState, PolicyKey
from xds.kubernetes.status import (
    ACCEPTED,
    PROBLEMS,
    STATUS,
    STATUS_JSON,
    PolicyStatus,
    Streams,
    Tally,
    count_pods,
    count_streams,
    counted_keys,
    held_key,
    read_statuses,
    tally,
    told_refusal,
    told_verdict,
)
from xds.names import NodeId, Version
from xds.policy.config_maps import object_of
from xds.policy.model import HeldPolicy, Policy, Workload
from xds.reconcile import State
from xds.resources import ResourceType

KEY = ("team-a", "egress")
SOURCE = "configmap/team-a/egress/policy.yaml"
OWN: PolicyKey = ("team-a", "default")
SINCE = 1_795_255_200.25
BAD = Diagnostic(
    "EX101", Where(SOURCE, "spec.rules[0].to.cidrs[0]", 12), "10.0.0.0/33 is no network", "write 10.0.0.0/8"
)
GOOD = DocumentState(source=SOURCE, is_good=True, diagnostics=(), in_force=(OWN,), since=SINCE)
KEPT = DocumentState(source=SOURCE, is_good=False, diagnostics=(BAD,), in_force=(OWN,), since=SINCE)
LOST = replace(KEPT, in_force=())
POLICY = replace(REFUSE_ALL, name="default", namespace="team-a")
HELD = HeldPolicy(name="held", where=Where(SOURCE))
SECOND = "configmap/team-a/egress/second.yaml"
OTHER: PolicyKey = ("team-a", "other")


def _status(
    *documents: DocumentState, tallies: dict[PolicyKey, Tally] | None = None, problem: str | None = None
) -> PolicyStatus:
    (status,) = read_statuses(State(documents=documents, problem=problem, passes=1), tallies or {}).values()
    return status


@pytest.mark.parametrize(
    ("documents", "counts", "sentence", "label"),
    [
        pytest.param(
            (GOOD,),
            Tally(pods=12, acknowledged=10, refused=1, offline=1),
            "accepted since 2026-11-21T10:00:00Z; in force for 12 pods: 10 acknowledged, 1 refused, 1 offline",
            "true",
            id="a good one",
        ),
        pytest.param(
            (GOOD,),
            Tally(pods=1, pending=1),
            "accepted since 2026-11-21T10:00:00Z; in force for 1 pod: 1 pending",
            "true",
            id="a good one for one pod",
        ),
        pytest.param(
            (GOOD,), Tally(), "accepted since 2026-11-21T10:00:00Z; in force for no pods", "true", id="one for nobody"
        ),
        pytest.param(
            (replace(GOOD, in_force=()),),
            Tally(),
            "accepted since 2026-11-21T10:00:00Z; no policy in it",
            "true",
            id="one without a policy",
        ),
        pytest.param(
            (KEPT,),
            Tally(pods=3, acknowledged=3),
            "refused since 2026-11-21T10:00:00Z; what was last good stays in force for 3 pods: 3 acknowledged",
            "false",
            id="a bad one with a last good version",
        ),
        pytest.param(
            (LOST,),
            Tally(),
            "refused since 2026-11-21T10:00:00Z; there is no good version",
            "false",
            id="a bad one without",
        ),
        pytest.param(
            (GOOD, replace(LOST, source=SECOND)),
            Tally(pods=3, acknowledged=3),
            "1 of 2 documents refused since 2026-11-21T10:00:00Z; in force for 3 pods: 3 acknowledged",
            "false",
            id="one of two bad",
        ),
    ],
)
def test_the_sentence_says_how_it_stands(
    documents: tuple[DocumentState, ...], counts: Tally, sentence: str, label: str
) -> None:
    status = _status(*documents, tallies={OWN: counts})
    assert status.annotations()[STATUS] == sentence
    assert status.labels() == {ACCEPTED: label}


@pytest.mark.parametrize(
    ("documents", "tallies", "sentence"),
    [
        pytest.param(
            (LOST,),
            {held_key(SOURCE): Tally(pods=1, offline=1)},
            "refused since 2026-11-21T10:00:00Z; there is no good version; 1 pod is told nothing new",
            id="one document that never was good",
        ),
        pytest.param(
            (KEPT,),
            {OWN: Tally(pods=3, acknowledged=3), held_key(SOURCE): Tally(pods=2, pending=2)},
            "refused since 2026-11-21T10:00:00Z; "
            "what was last good stays in force for 3 pods: 3 acknowledged; 2 pods are told nothing new",
            id="one that claims more than its last good version",
        ),
        pytest.param(
            (GOOD, replace(LOST, source=SECOND)),
            {OWN: Tally(pods=3, acknowledged=3), held_key(SECOND): Tally(pods=1, pending=1)},
            "1 of 2 documents refused since 2026-11-21T10:00:00Z; in force for 3 pods: 3 acknowledged; "
            "1 pod is told nothing new",
            id="a good one beside one that never was",
        ),
        pytest.param(
            (GOOD, replace(KEPT, source=SECOND, in_force=(OTHER,))),
            {OWN: Tally(pods=3, acknowledged=3), OTHER: Tally(pods=1, acknowledged=1)},
            "1 of 2 documents refused since 2026-11-21T10:00:00Z; "
            "in force for 4 pods, for 1 of them what was last good: 4 acknowledged",
            id="a good one beside one that was",
        ),
    ],
)
def test_the_sentence_tells_who_keeps_what_was_good_from_who_is_told_nothing(
    documents: tuple[DocumentState, ...], tallies: dict[PolicyKey, Tally], sentence: str
) -> None:
    status = _status(*documents, tallies=tallies)
    assert status.annotations()[STATUS] == sentence
    held = sum(found.pods for key, found in tallies.items() if not key[1])
    assert json.loads(status.annotations()[STATUS_JSON])["held"] == held


def test_what_has_to_be_counted_is_what_is_in_force_and_what_is_refused() -> None:
    state = State(documents=(GOOD, replace(KEPT, source=SECOND, in_force=(OTHER,))), passes=1)
    assert counted_keys(state) == {OWN, OTHER, held_key(SECOND)}


def test_each_problem_is_a_line_with_place_code_text_and_hint() -> None:
    assert _status(KEPT).annotations()[PROBLEMS] == (
        "policy.yaml:12 spec.rules[0].to.cidrs[0]: error[EX101]: 10.0.0.0/33 is no network; write 10.0.0.0/8"
    )


def test_where_nothing_is_wrong_no_problems_are_written() -> None:
    assert set(_status(GOOD).annotations()) == {STATUS, STATUS_JSON}


def test_machines_read_the_same() -> None:
    told = json.loads(_status(KEPT, tallies={OWN: Tally(pods=2, acknowledged=1, offline=1)}).annotations()[STATUS_JSON])
    assert told["accepted"] is False
    assert told["since"] == "2026-11-21T10:00:00Z"
    assert told["documents"] == {"total": 1, "refused": 1}
    assert told["pods"] == {"total": 2, "acknowledged": 1, "refused": 0, "pending": 0, "offline": 1}
    assert told["problems"] == [
        {
            "document": "policy.yaml",
            "line": 12,
            "key": "spec.rules[0].to.cidrs[0]",
            "code": "EX101",
            "severity": "error",
            "message": "10.0.0.0/33 is no network",
            "hint": "write 10.0.0.0/8",
        }
    ]
    assert told["moreProblems"] == 0


def test_a_refusal_by_an_envoy_is_among_the_problems() -> None:
    annotations = _status(GOOD, tallies={OWN: Tally(pods=1, refused=1, refusal="web-1.team-a: no")}).annotations()
    assert annotations[PROBLEMS] == "refused by Envoy: web-1.team-a: no"
    assert told_refusal(annotations) == "web-1.team-a: no"


def test_what_keeps_the_control_plane_from_changes_is_told() -> None:
    text = _status(GOOD, problem="internal error, see the log").annotations()[STATUS]
    assert text.endswith("; the control plane can't take changes at the moment: internal error, see the log")


def test_errors_come_before_warnings_and_what_is_left_out_is_counted() -> None:
    code = next(code for code, entry in CATALOGUE.items() if entry.severity is Severity.WARNING)
    warning = Diagnostic(code, Where(SOURCE, "noProxy[0]", 1), "x" * 350, "y")
    lines = _status(replace(KEPT, diagnostics=(*[warning] * 30, BAD))).annotations()[PROBLEMS].split("\n")
    assert "EX101" in lines[0]
    assert lines[-1] == f"and {31 - len(lines) + 1} more: xds validate"


@given(
    texts=st.lists(st.text(max_size=2_000), max_size=60),
    problem=st.text(max_size=5_000),
    refusal=st.text(max_size=300),
)
def test_whatever_is_wrong_what_is_written_is_bounded(texts: list[str], problem: str, refusal: str) -> None:
    findings = tuple(replace(BAD, message=text, hint=text) for text in texts)
    tallies = {OWN: Tally(pods=10**9, refused=10**9, refusal=refusal), held_key(SOURCE): Tally(pods=10**9)}
    annotations = _status(replace(KEPT, diagnostics=findings), tallies=tallies, problem=problem).annotations()
    assert sum(len(key.encode()) + len(text.encode()) for key, text in annotations.items()) <= 8 * 1024
    assert told_verdict(annotations) is not None
    assert all(
        len(line.encode()) <= 700 for text in annotations.values() if text[0] != "{" for line in text.split("\n")
    )


def test_equal_states_give_equal_bytes_in_whatever_order_they_come() -> None:
    other = replace(LOST, source="configmap/team-a/egress/second.yaml")
    assert _status(GOOD, other).annotations() == _status(other, GOOD).annotations()


def test_no_login_gets_in() -> None:
    canary = "http://user:canary-login@proxy.corp.example:3128"
    finding = replace(BAD, message=f"bad URL {canary}", hint=f"not {canary}")
    clients = Clients()
    workload = Workload(pod="web-1", namespace="team-a")
    connection = clients.connect(NodeId("web-1.team-a"), workload, since=0.0)
    connection.note_sent(ResourceType.CLUSTER, Version("1"))
    connection.note_nack(ResourceType.CLUSTER, Version("1"), f"no good: {canary}")
    streams = count_streams(clients.connected(), lambda _: POLICY)
    assert streams[OWN].refused == 1
    status = _status(
        replace(KEPT, diagnostics=(finding,)),
        tallies={OWN: tally(streams[OWN], 1)},
        problem=f"can't read {canary}",
    )
    told = repr(status) + repr(status.annotations())
    assert "canary-login" not in told
    assert "[redacted]" in told


def test_the_moment_on_the_object_stays_as_long_as_the_judgement_does() -> None:
    """A new leader judged the same later; operators want to know since when it is so."""
    old, later = _status(KEPT), _status(replace(KEPT, since=SINCE + 500))
    assert later.at_least_since(old.annotations()).annotations() == old.annotations()
    changed = _status(replace(KEPT, since=SINCE + 500, diagnostics=(replace(BAD, message="other"),)))
    assert changed.at_least_since(old.annotations()) == changed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"verdict": 5}',
        '{"verdict": "x", "since": "yesterday", "accepted": "yes"}',
        "[" * 100_000,
    ],
    ids=["nothing", "half", "a list", "null", "numbers", "other words", "depth"],
)
def test_what_others_wrote_in_our_place_is_not_believed(text: str) -> None:
    status = _status(KEPT)
    odd = {STATUS_JSON: text.replace('"x"', json.dumps(status.verdict))}
    assert status.at_least_since(odd) == status
    assert told_verdict(odd) is None
    assert told_refusal(odd) == ""


@pytest.mark.parametrize(
    ("source", "key"),
    [
        ("configmap/team-a/egress/policy.yaml", ("team-a", "egress")),
        ("configmap/team-a/egress", None),
        ("/etc/policies/a/b/c.yaml", None),
        ("policy.yaml", None),
    ],
)
def test_only_config_maps_get_a_status(source: str, key: tuple[str, str] | None) -> None:
    assert object_of(source) == key


@pytest.mark.parametrize(
    ("streams", "expected", "found"),
    [
        pytest.param(
            Streams(connected=4, acknowledged=2, refused=1),
            6,
            Tally(pods=6, acknowledged=2, refused=1, pending=1, offline=2),
            id="all kinds",
        ),
        pytest.param(
            Streams(connected=4, acknowledged=3), None, Tally(pods=4, acknowledged=3, pending=1), id="pods unknown"
        ),
        pytest.param(
            Streams(connected=9, acknowledged=8, refused=1, refusal="x"),
            5,
            Tally(pods=5, acknowledged=4, refused=1, refusal="x"),
            id="pods seen by two replicas",
        ),
        pytest.param(Streams(refused=1, connected=1, refusal="x"), 0, Tally(), id="a pod that is gone"),
    ],
)
def test_counts_never_exceed_the_pods(streams: Streams, expected: int | None, found: Tally) -> None:
    assert tally(streams, expected) == found


@given(
    connected=st.integers(0, 50), acknowledged=st.integers(0, 50), refused=st.integers(0, 50), pods=st.integers(0, 50)
)
def test_counts_add_up_to_the_pods(connected: int, acknowledged: int, refused: int, pods: int) -> None:
    found = tally(Streams(connected=connected, acknowledged=acknowledged, refused=refused), pods)
    counts = (found.acknowledged, found.refused, found.pending, found.offline)
    assert sum(counts) == found.pods == pods
    assert min(counts) >= 0


def test_streams_are_counted_by_the_policy_of_their_pod() -> None:
    clients = Clients()
    for pod in ("new", "pending", "current", "twice", "twice", "held"):
        connection = clients.connect(NodeId(f"{pod}.team-a"), Workload(pod=pod, namespace="team-a"), since=0.0)
        if pod in {"pending", "current", "twice"}:
            connection.note_sent(ResourceType.CLUSTER, Version("1"))
        if pod in {"current", "twice"}:
            connection.note_ack(ResourceType.CLUSTER, Version("1"))
    found = count_streams(clients.connected(), lambda workload: HELD if workload.pod == "held" else POLICY)
    assert found == {OWN: Streams(connected=4, acknowledged=2), held_key(SOURCE): Streams(connected=1)}


def test_pods_are_counted_by_their_policy() -> None:
    policies: dict[str, Policy | HeldPolicy | None] = {"a": POLICY, "b": HELD, "c": None}
    workloads = [Workload(pod=pod, namespace="team-a") for pod in "aabc"]
    assert count_pods(workloads, lambda workload: policies.get(workload.pod)) == {OWN: 2, held_key(SOURCE): 1}
