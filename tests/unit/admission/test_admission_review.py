"""How a question of the API server is read, and how its answer stays within bounds."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from xds.admission.review import MalformedReviewError, Verdict, read_review, render_answer

RECORDED = Path(__file__).resolve().parents[2] / "data" / "kubernetes-1.36"
QUESTION = json.loads((RECORDED / "admission-configmap-create.json").read_text(encoding="utf-8"))["body"]


def body(**changes: object) -> bytes:
    """Return the recorded question with other fields in `request`."""
    return json.dumps({**QUESTION, "request": {**QUESTION["request"], **changes}}).encode()


def answer(verdict: Verdict) -> dict[str, object]:
    """Return what is answered to the recorded question."""
    found = json.loads(render_answer(read_review(body()), verdict))
    assert (found["apiVersion"], found["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    response = found["response"]
    assert isinstance(response, dict)
    return response


def test_the_recorded_question_is_read() -> None:
    review = read_review(body())

    assert (review.operation, review.kind) == ("CREATE", ("", "v1", "ConfigMap"))
    assert (review.namespace, review.name) == ("egress-system", "corp2")
    assert review.old is None
    assert review.new is not None


def test_a_question_shows_nothing_of_its_objects() -> None:
    assert "proxy.corp.example" not in repr(read_review(body()))


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        pytest.param(b"", "not JSON", id="nothing"),
        pytest.param(b"{", "not JSON", id="half of an object"),
        pytest.param(b"\xff\xfe", "not JSON", id="no UTF-8"),
        pytest.param(b"[" * 100_000, "not JSON", id="nested without end"),
        pytest.param(b"1" * 10_000, "not JSON", id="a number without end"),
        pytest.param(b"[" + b"{}," * 200_000 + b"{}]", "more lists", id="what would be large in memory"),
        pytest.param(b"[]", "not a mapping", id="a list"),
        pytest.param(b"{}", "no AdmissionReview", id="an empty object"),
        pytest.param(
            json.dumps({**QUESTION, "apiVersion": "admission.k8s.io/v1beta1"}).encode(), "no Admiss", id="old version"
        ),
        pytest.param(json.dumps({**QUESTION, "request": None}).encode(), "request", id="an answer"),
        pytest.param(body(uid=""), "request.uid", id="no uid"),
        pytest.param(body(uid=7), "uid", id="a uid that is no text"),
        pytest.param(body(uid="x" * 300), "request.uid", id="a uid without end"),
        pytest.param(body(kind=None), "request.kind", id="no kind"),
        pytest.param(body(kind="ConfigMap"), "kind", id="a kind that is no mapping"),
        pytest.param(body(object="text"), "object", id="an object that is none"),
    ],
)
def test_what_is_no_question_is_refused_with_a_reason(sent: bytes, reason: str) -> None:
    with pytest.raises(MalformedReviewError, match=reason):
        read_review(sent)


def test_an_allowed_object_needs_no_word() -> None:
    assert answer(Verdict()) == {"uid": QUESTION["request"]["uid"], "allowed": True}


def test_a_refusal_is_a_status_whose_message_a_client_prints() -> None:
    response = answer(Verdict("no proxy"))

    assert response["allowed"] is False
    assert response["status"] == {"status": "Failure", "message": "no proxy", "reason": "Invalid", "code": 422}


def test_a_refusal_for_now_has_clients_ask_again() -> None:
    """The API server makes a `Retry-After` of the seconds, and its clients heed it with such a code."""
    response = answer(Verdict("not yet", is_passing=True))

    assert response["status"] == {
        "status": "Failure",
        "message": "not yet",
        "reason": "ServiceUnavailable",
        "code": 503,
        "details": {"retryAfterSeconds": 1},
    }


def test_a_change_is_a_patch_in_base64() -> None:
    patch = ({"op": "add", "path": "/metadata/annotations", "value": {"a": "\N{SNOWMAN}"}},)
    response = answer(Verdict(patch=patch, audit=(("mode", "explicit"),)))

    assert (response["allowed"], response["patchType"]) == (True, "JSONPatch")
    assert json.loads(base64.b64decode(str(response["patch"]))) == [*patch]
    assert response["auditAnnotations"] == {"mode": "explicit"}


def test_what_is_refused_is_not_changed() -> None:
    assert "patch" not in answer(Verdict("no", patch=({"op": "remove", "path": "/spec"},)))


@pytest.mark.parametrize(("sent", "expected"), [(True, True), (False, False), (None, False), ("true", False)])
def test_a_dry_run_is_known(sent: object, expected: bool) -> None:
    assert read_review(body(dryRun=sent)).is_dry_run is expected


def test_a_refusal_is_bounded() -> None:
    status = answer(Verdict("x" * 100_000))["status"]

    assert isinstance(status, dict)
    assert len(status["message"]) <= 8192
    assert status["message"].endswith("x…")


def test_warnings_fit_into_headers() -> None:
    """Each within 256 characters and on one line, all within 4096, and none is lost without a word."""
    warnings = answer(Verdict(warnings=tuple(f"{number}\n{'é' * 400}" for number in range(50))))["warnings"]

    assert isinstance(warnings, list)
    assert all(len(warning) <= 256 and warning.isprintable() for warning in warnings)
    assert sum(map(len, warnings)) <= 4096
    assert warnings[0].startswith("0 é")
    assert warnings[-1] == "and 39 more; see them with: xds validate"


def test_few_warnings_are_shown_as_they_are() -> None:
    assert answer(Verdict(warnings=("one", "two")))["warnings"] == ["one", "two"]
