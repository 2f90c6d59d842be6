"""What one namespace writes costs the others nothing: no pod of theirs is held, moved or compiled anew."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from tests.unit.reconcile_bench import BROKEN, judge_all, policy, state_of
from xds import judge as verdict
from xds.compile import Compilation, compile_snapshot
from xds.facts import DirectEndpoint, Facts, FileContent
from xds.judge import INTERNAL_ERROR, Judge, SourceRead
from xds.policy.model import HeldPolicy, Policy, Workload
from xds.policy.parse import Document, parse_document
from xds.policy.selection import select_policy

if TYPE_CHECKING:
    from xds.judge import Judgement
    from xds.policy.parse import ParseResult

OURS = Workload(pod="p", namespace="team-a")
THEIRS = Workload(pod="p", namespace="team-b")


def in_cluster(source: str, text: str, namespace: str | None = None, created: str = "") -> Document:
    return Document(source, text, namespace, secrets=namespace or "egress-system", created=created)


WIDE = in_cluster("wide", policy("wide"))
OTHER = in_cluster("other", policy("other"), "team-b")


def chosen(judgement: Judgement, pod: Workload) -> Policy | HeldPolicy | None:
    return select_policy(judgement.world.candidates, pod)


def name_of(judgement: Judgement, pod: Workload) -> str:
    found = chosen(judgement, pod)
    assert isinstance(found, Policy)
    return found.name


def test_a_document_that_stops_the_parser_holds_its_own_namespace_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(document: Document) -> ParseResult:
        if document.source == "bug":
            raise ZeroDivisionError(document.source)
        return parse_document(document)

    monkeypatch.setattr(verdict, "parse_document", stumble)
    with capture_logs():
        judgement = judge_all(Judge(), SourceRead((in_cluster("bug", "x", "team-a"), WIDE, OTHER)))

    assert isinstance(chosen(judgement, OURS), HeldPolicy)
    assert name_of(judgement, THEIRS) == "other"
    assert name_of(judgement, replace(THEIRS, namespace="team-c")) == "wide"


def test_a_document_that_stops_compilation_holds_its_own_namespace_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(given: Policy, facts: Facts) -> Compilation:
        if given.name == "bug":
            raise ZeroDivisionError(given.name)
        return compile_snapshot(given, facts)

    monkeypatch.setattr(verdict, "compile_snapshot", stumble)
    with capture_logs():
        judgement = judge_all(Judge(), SourceRead((in_cluster("bug", policy("bug"), "team-a"), WIDE, OTHER)))

    assert [item.code for item in state_of(judgement, "bug").diagnostics] == [INTERNAL_ERROR]
    assert isinstance(chosen(judgement, OURS), HeldPolicy)
    assert name_of(judgement, THEIRS) == "other"
    assert name_of(judgement, replace(THEIRS, namespace="team-c")) == "wide"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(BROKEN, id="no YAML"),
        pytest.param("", id="nothing"),
        pytest.param("hello", id="no policy"),
        pytest.param("a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
            f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(9)
        ), id="a billion laughs"),
        pytest.param("[" * 100_000, id="very deep"),
        pytest.param("#" + "x" * 400_000, id="very long"),
        pytest.param(policy("wide").replace("{name: wide}", "{name: wide, namespace: team-b}"), id="another namespace"),
        pytest.param(policy("x").replace("192.0.2.1", "u:p@"), id="a bad proxy"),
        pytest.param(f"{policy('wide')}---\n{policy('wide')}", id="one name twice"),
    ],
)  # fmt: skip
def test_a_bad_document_concerns_its_own_namespace_alone(text: str) -> None:
    judgement = judge_all(Judge(), SourceRead((in_cluster("a-bad", text, "team-a"), WIDE, OTHER)))

    assert not state_of(judgement, "a-bad").is_good
    assert isinstance(chosen(judgement, OURS), HeldPolicy)
    assert name_of(judgement, THEIRS) == "other"
    assert name_of(judgement, replace(THEIRS, namespace="team-c")) == "wide"
    for source in ("wide", "other"):
        assert state_of(judgement, source).diagnostics == ()


def test_a_bad_document_for_pods_of_others_concerns_nobody() -> None:
    text = policy("x", namespace="team-b").replace(":3128", "")
    judgement = judge_all(Judge(), SourceRead((in_cluster("a-bad", text, "team-a"), WIDE, OTHER)))

    assert not state_of(judgement, "a-bad").is_good
    assert (name_of(judgement, OURS), name_of(judgement, THEIRS)) == ("wide", "other")


def test_a_name_that_is_taken_does_not_make_the_operators_document_bad() -> None:
    """It holds a cluster-wide policy as well, which all would lose."""
    for_team = policy("default").replace("{name: default}", "{name: default, namespace: team-a}")
    operators = in_cluster("z-operators", f"{for_team}---\n{policy('wide')}")
    judgement = judge_all(Judge(), SourceRead((in_cluster("a-team", policy("default"), "team-a"), operators)))

    assert {state.source: state.is_good for state in judgement.documents} == {"a-team": False, "z-operators": True}
    assert name_of(judgement, THEIRS) == "wide"


def test_the_older_of_equals_is_in_force_and_the_other_is_told() -> None:
    newer = in_cluster("a", policy("a"), "team-a", "2026-11-21T08:00:00Z")
    older = in_cluster("b", policy("b"), "team-a", "2026-11-20T08:00:00Z")
    judgement = judge_all(Judge(), SourceRead((newer, older)))

    assert name_of(judgement, OURS) == "b"
    assert [item.code for item in judgement.diagnostics] == ["EX408"]
    assert state_of(judgement, "a").diagnostics[0].where.source == "a"
    assert state_of(judgement, "a").is_good


def test_a_document_that_is_out_of_force_anyway_is_no_rival() -> None:
    bad = in_cluster("a", policy("a") + "  rules: [{to: {domains: ['**']}, action: deny}]\n", "team-a")
    judgement = judge_all(Judge(), SourceRead((bad, in_cluster("b", policy("b"), "team-a"))))

    assert state_of(judgement, "b").diagnostics == ()


def test_a_tie_is_told_also_while_the_last_good_version_of_the_other_is_in_force() -> None:
    """So what is said of a document does not change because another one broke."""
    judge = Judge()
    first, second = in_cluster("a", policy("a"), "team-a"), in_cluster("b", policy("b"), "team-a")
    before = judge_all(judge, SourceRead((first, second)))

    after = judge_all(judge, SourceRead((replace(first, text=BROKEN), second)))

    assert [item.code for item in state_of(before, "b").diagnostics] == ["EX408"]
    assert state_of(after, "b").diagnostics == state_of(before, "b").diagnostics
    assert "EX408" not in [item.code for item in state_of(after, "a").diagnostics]


def test_the_age_of_a_document_changes_nothing_that_an_envoy_gets() -> None:
    judge = Judge()
    old, new = (in_cluster("a", policy("a"), "team-a", f"2026-11-2{day}T08:00:00Z") for day in (0, 1))

    worlds = [judge_all(judge, SourceRead((document,))).world for document in (old, new)]

    assert worlds[0].snapshots == worlds[1].snapshots
    assert worlds[0].candidates != worlds[1].candidates


def test_new_networks_of_the_cluster_compile_only_the_policies_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []

    def count(given: Policy, facts: Facts) -> Compilation:
        compiled.append(given.name)
        return compile_snapshot(given, facts)

    monkeypatch.setattr(verdict, "compile_snapshot", count)
    without = in_cluster("a", policy("a") + "  alwaysDirect: {clusterNetworks: false}\n", "team-a")
    documents = SourceRead((without, OTHER))
    judge = Judge()
    judge_all(judge, documents)
    compiled.clear()

    nodes = DirectEndpoint(reason="nodes", network=ip_network("192.0.2.64/26"))
    judge_all(judge, documents, Facts(cluster_direct=(nodes,)))

    assert sorted(compiled) == ["other", "refuse-all"]


def test_a_secret_compiles_only_the_policies_of_its_own_namespace() -> None:
    """Two namespaces have a Secret of one name, and neither gets the other's."""
    text = (
        "apiVersion: egress-xds/v1alpha1\nkind: EgressPolicy\nmetadata: {name: a}\nspec:\n"
        "  proxies: {corp: {endpoints: [{url: 'https://p.example:1'}], auth: {basic: {secretRef: {name: login}}}}}\n"
        "  default: {action: tunnel}\n"
    )
    documents = SourceRead((in_cluster("a", text, "team-a"), in_cluster("b", text, "team-b")))
    judge = Judge()
    results = judge.parse(documents)
    assert judge.files(results) == {"secret:team-a/login/login", "secret:team-b/login/login"}

    def world(login: str) -> Judgement:
        files = {"secret:team-a/login/login": FileContent(login), "secret:team-b/login/login": FileContent("b:b")}
        return judge.judge(results, Facts(files=files))

    before, after = world("one:one"), world("two:two")

    assert before.world.snapshots["team-a", "a"] != after.world.snapshots["team-a", "a"]
    assert before.world.snapshots["team-b", "a"] is after.world.snapshots["team-b", "a"]
