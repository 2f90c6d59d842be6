"""What is decided about ConfigMaps that hold policies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from xds.admission.policies import PolicyReviewer, build_documents, is_judged
from xds.admission.review import MalformedReviewError, Verdict, read_review
from xds.policy.parse import Document

if TYPE_CHECKING:
    from xds.admission.review import Review

RECORDED = Path(__file__).resolve().parents[2] / "data" / "kubernetes-1.36"
HOME = "egress-system"
GOOD = "httpProxy: http://proxy.corp.example:3128\nhttpsProxy: http://proxy.corp.example:3128\n"
BROKEN = "noProxy: [10.0.0.0/99]\n"
NAMED = """\
apiVersion: egress-xds/v1alpha1
kind: EgressPolicy
metadata: {name: NAME}
spec:
  proxies: {corp: {endpoints: [{url: "http://192.0.2.10:3128"}]}}
  default: {action: tunnel, proxy: corp}
"""


def recorded(name: str) -> dict[str, Any]:
    """Return the body of a recorded question."""
    body = json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))["body"]
    assert isinstance(body, dict)
    return body


def review(
    data: dict[str, str] | None = None, *, old: dict[str, str] | None = None, namespace: str = HOME, **changes: object
) -> Review:
    """Return a question about a ConfigMap `corp2` with `data`, an update if there is `old`."""
    body = recorded("admission-configmap-create" if old is None else "admission-configmap-update")
    request = body["request"]
    request["namespace"] = request["object"]["metadata"]["namespace"] = namespace
    request["object"]["data"] = {"policy.yaml": GOOD} if data is None else data
    if old is not None:
        request["oldObject"]["data"] = old
    request.update(changes)
    return read_review(json.dumps(body).encode())


def config_map(data: dict[str, str] | None, label: str | None = "true", **metadata: object) -> dict[str, object]:
    """Return a ConfigMap with `label`."""
    labels = {} if label is None else {"egress-xds/policy": label}
    return {"data": data, "metadata": {"name": "corp2", "namespace": HOME, "labels": labels, **metadata}}


def decide(question: Review, *current: Document) -> Verdict:
    """Return what is decided while `current` is in the cluster."""
    return PolicyReviewer(home=HOME, documents=lambda: current, clock=lambda: 1_800_000_000.0)(question)()


def stored(name: str, text: str, *, namespace: str = HOME) -> Document:
    """Return a document of another ConfigMap."""
    return Document(
        source=f"configmap/{namespace}/{name}/policy.yaml",
        text=text,
        namespace=None if namespace == HOME else namespace,
        secrets=namespace,
    )


def test_a_good_policy_is_allowed_without_a_word() -> None:
    assert decide(review()) == Verdict()


def test_whoever_stores_a_policy_where_only_those_at_home_count_is_told() -> None:
    reviewer = PolicyReviewer(home=HOME, documents=tuple, clock=lambda: 1_800_000_000.0, is_home_only=True)
    (warning,) = reviewer(review({"a.yaml": "httpProxi: x\n"}, namespace="team"))().warnings

    assert warning == f"it is not in force: policies are served of the namespace {HOME} only"
    assert reviewer(review())() == Verdict()
    assert reviewer(review({"a.yaml": "httpProxi: x\n"}))().refusal


def test_the_recorded_half_of_a_policy_is_refused() -> None:
    verdict = decide(read_review(json.dumps(recorded("admission-configmap-create")).encode()))

    assert "policy.yaml:1 httpProxy: error[EX306]" in verdict.refusal


def test_the_recorded_bad_update_is_refused_as_validate_would() -> None:
    verdict = decide(read_review(json.dumps(recorded("admission-configmap-update")).encode()))

    assert verdict.refusal.startswith("the policy has ")
    assert "policy.yaml:1 noProxy[0]: error[EX" in verdict.refusal
    assert "10.0.0.0/99" in verdict.refusal
    assert verdict.refusal.splitlines()[-1].startswith("More about a code: xds explain EX")


def test_each_finding_has_its_key_and_its_line() -> None:
    verdict = decide(review({"a.yaml": f"{GOOD}noProxy:\n- 10.0.0.0/99\n", "b.yml": "httpProxi: x\n", "note": "{"}))

    lines = verdict.refusal.splitlines()
    assert any(line.startswith("a.yaml:4 noProxy[0]: error[EX") for line in lines)
    assert any(line.startswith("b.yml:1 ") for line in lines)
    assert "note" not in verdict.refusal


def test_what_is_only_worth_a_warning_is_allowed_with_it() -> None:
    warned = decide(review({"policy.yaml": f"{GOOD}noProxy: [a.example, a.example]\n"}))

    assert warned.is_allowed
    assert any("policy.yaml:3 " in warning and "warning[EX" in warning for warning in warned.warnings)


def test_very_many_findings_are_cut() -> None:
    entries = ", ".join(f"10.0.0.{number}/99" for number in range(200))

    refusal = decide(review({"policy.yaml": f"{GOOD}noProxy: [{entries}]\n"})).refusal

    assert len(refusal.splitlines()) == 23
    assert "and 180 more; see them with: xds validate" in refusal


def test_a_login_in_a_policy_is_not_repeated() -> None:
    verdict = decide(review({"policy.yaml": "httpsProxy: http://user:canary-secret@proxy.corp.example:3128\n"}))

    assert not verdict.is_allowed
    assert "canary-secret" not in verdict.refusal


@pytest.mark.parametrize("operation", ["DELETE", "CONNECT"])
def test_what_removes_a_policy_is_never_refused(operation: str) -> None:
    assert decide(review(old={"policy.yaml": BROKEN}, operation=operation, object=None)).is_allowed


NOT_JUDGED = {
    "no label": config_map({"policy.yaml": BROKEN}, label=None),
    "another value of the label": config_map({"policy.yaml": BROKEN}, label="false"),
    "an object that is being deleted": config_map({"policy.yaml": BROKEN}, deletionTimestamp="2026-11-21T01:22:31Z"),
    "no labels at all": {"data": {"policy.yaml": BROKEN}, "metadata": {"name": "corp2"}},
}


@pytest.mark.parametrize("found", NOT_JUDGED.values(), ids=NOT_JUDGED)
def test_what_is_no_policy_is_none_of_our_business(found: dict[str, object]) -> None:
    assert not is_judged(review(object=found))
    assert not is_judged(review(old={"policy.yaml": GOOD}, object=found))


def test_another_kind_is_none_of_our_business() -> None:
    pod = read_review(json.dumps(recorded("admission-pod-plain")).encode())

    assert decide(pod) == Verdict()


def test_a_label_that_is_taken_away_withdraws_the_policy_and_one_that_is_put_on_makes_one() -> None:
    plain, policy = config_map({"policy.yaml": BROKEN}, label=None), config_map({"policy.yaml": BROKEN})

    assert decide(review(old={}, object=plain, oldObject=policy)).is_allowed
    assert not decide(review(old={}, object=policy, oldObject=plain)).is_allowed


def test_a_status_on_a_policy_that_is_bad_already_can_be_written() -> None:
    """Otherwise nobody would be told what is wrong with it."""
    annotated = config_map({"policy.yaml": BROKEN}, annotations={"egress-xds/status": "bad"})

    verdict = decide(review(old={}, object=annotated, oldObject=config_map({"policy.yaml": BROKEN})))

    assert verdict == Verdict()


def test_a_key_that_is_no_document_may_change_beside_a_bad_one() -> None:
    assert decide(review({"policy.yaml": BROKEN, "note": "b"}, old={"policy.yaml": BROKEN, "note": "a"})).is_allowed


def test_a_dry_run_is_judged_like_the_real_thing() -> None:
    assert not decide(review({"policy.yaml": BROKEN}, dryRun=True)).is_allowed
    assert decide(review(dryRun=True)).is_allowed


@pytest.mark.parametrize("data", [{}, None, {"policy.txt": GOOD}], ids=["empty", "absent", "a key of another kind"])
def test_a_policy_without_a_document_is_refused_and_the_way_out_is_told(data: dict[str, str] | None) -> None:
    refusal = decide(review(object=config_map(data))).refusal

    assert "it has no *.yaml key in data" in refusal
    assert "remove the label, or delete the ConfigMap" in refusal


def test_a_document_that_is_no_text_is_told() -> None:
    assert "binaryData" in decide(review(object={**config_map({}), "binaryData": {"policy.yaml": "/w=="}})).refusal


def test_an_empty_document_is_refused_as_everywhere() -> None:
    assert "error[EX112]" in decide(review({"policy.yaml": "# nothing\n"})).refusal


def test_a_name_that_another_config_map_has_is_refused_whichever_is_older() -> None:
    text = NAMED.replace("NAME", "corp")

    for other in ("a", "z"):
        verdict = decide(review({"policy.yaml": text}), stored(other, text))

        assert "error[EX405]" in verdict.refusal
        assert f"configmap/{HOME}/{other}/policy.yaml" in verdict.refusal


def test_an_earlier_version_of_itself_is_no_other() -> None:
    text = NAMED.replace("NAME", "corp")

    verdict = decide(review({"renamed.yaml": text}, old={"policy.yaml": text}), stored("corp2", text))

    assert verdict.is_allowed


def test_names_that_others_share_are_not_held_against_it() -> None:
    text = NAMED.replace("NAME", "corp")

    assert decide(review({"mine.yaml": GOOD}), stored("a", text), stored("b", text)).is_allowed


def test_the_same_name_in_another_namespace_is_another_policy() -> None:
    text = NAMED.replace("NAME", "corp")

    assert decide(review({"policy.yaml": text}, namespace="shop"), stored("a", text)).is_allowed


def test_two_documents_of_one_config_map_may_not_share_a_name() -> None:
    text = NAMED.replace("NAME", "corp")

    assert "error[EX405]" in decide(review({"a.yaml": text, "b.yaml": text})).refusal


def test_documents_concern_their_own_namespace_and_those_at_home_the_cluster() -> None:
    (home,) = build_documents(review(), HOME)
    (shop,) = build_documents(review(namespace="shop"), HOME)

    assert (home.source, home.namespace, home.secrets) == (f"configmap/{HOME}/corp2/policy.yaml", None, HOME)
    assert (shop.source, shop.namespace, shop.secrets) == ("configmap/shop/corp2/policy.yaml", "shop", "shop")
    assert home.created == "2026-11-21T01:22:31Z"


def test_a_policy_may_not_say_that_it_stands_in_another_namespace() -> None:
    text = NAMED.replace("{name: NAME}", "{name: corp, namespace: bank}")

    assert not decide(review({"policy.yaml": text}, namespace="shop")).is_allowed


def test_secrets_are_not_looked_for() -> None:
    text = NAMED.replace("NAME", "corp").replace("}]}}", "}], auth: {basic: {secretRef: {name: login}}}}}")

    assert decide(review({"policy.yaml": text})).is_allowed


def test_an_object_that_is_still_to_be_named_is_judged() -> None:
    found = config_map({"policy.yaml": BROKEN}, name="", generateName="corp-")

    assert "policy.yaml:1" in decide(review(object=found, name="")).refusal


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"operation": "PATCH"}, id="an operation that there is not"),
        pytest.param({"object": None}, id="nothing to be created"),
        pytest.param({"namespace": ""}, id="a ConfigMap without a namespace"),
        pytest.param({"object": {"metadata": {"labels": {"egress-xds/policy": True}}}}, id="a label that is no text"),
        pytest.param({"object": {"metadata": []}}, id="metadata that is no mapping"),
        pytest.param({"object": config_map({}) | {"data": {"policy.yaml": 3}}}, id="data that is no text"),
    ],
)
def test_what_no_api_server_would_ask_is_malformed(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedReviewError):
        decide(review(**changes))
