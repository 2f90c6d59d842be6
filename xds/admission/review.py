"""
Reviews: what the API server asks before it stores an object, and how it is answered (admission.k8s.io/v1).

A request is read into a frozen value, a verdict rendered into the answer; what is asked about and who decides is not
known here. Invariants: text that is no review raises MalformedReviewError and nothing else; whatever a verdict holds,
the answer stays within the limits of the API server.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_API_VERSION = "admission.k8s.io/v1"
_KIND = "AdmissionReview"
_INVALID = 422
"""What the API server itself answers for an object that breaks its rules (reason `Invalid`)."""
_UNAVAILABLE = 503
_RETRY_AFTER = 1
"""Seconds; the API server makes a `Retry-After` of it, and its clients ask again by themselves."""

_LONGEST_MESSAGE = 8_192
_LONGEST_WARNING = 256
"""Characters; the API server may cut what is longer."""
_MOST_WARNINGS = 12
"""The API server passes on 4096 characters of warnings in all."""
_LONGEST_UID = 256
_MOST_CONTAINERS = 1 << 17
"""
Brackets that open something, those in texts included: two large ConfigMaps of policies in JSON have less.

An empty mapping is three bytes of JSON, and thirty times as many in memory.
"""
_LONGEST_NAME, _LONGEST_WORD = 253, 64
"""Characters that a name, or the name of a kind or an operation, has at most; a group's is a DNS name, too."""


class MalformedReviewError(ValueError):
    """What was sent is no review that could be answered; the message says why, and holds nothing of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """A question: whether `new` (None: it is removed) may take the place of `old` (None: there was nothing)."""

    uid: str
    operation: str
    """`CREATE`, `UPDATE`, `DELETE` or `CONNECT`."""
    kind: tuple[str, str, str]
    """Group, version and kind."""
    namespace: str = ""
    name: str = ""
    is_dry_run: bool = False
    """Nothing will be stored, whatever is answered."""
    new: Mapping[str, object] | None = field(default=None, repr=False)
    old: Mapping[str, object] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer: `refusal` says why not (empty: allowed), `warnings` are shown to the user in any case."""

    refusal: str = ""
    warnings: tuple[str, ...] = ()
    is_passing: bool = field(default=False, kw_only=True)
    """The refusal is about this moment and not about the object: whoever asks again may get another answer."""
    patch: tuple[Mapping[str, object], ...] = field(default=(), kw_only=True, repr=False)
    """What is changed in an object that is allowed (RFC 6902)."""
    audit: tuple[tuple[str, str], ...] = field(default=(), kw_only=True)
    """Key and value of what the API server's audit log gets to know."""
    more: str = field(default="xds validate", kw_only=True)
    """The command that shows the warnings for which there was no room."""

    @property
    def is_allowed(self) -> bool:
        """Whether the object may be stored."""
        return not self.refusal


Reviewer = Callable[[Review], Callable[[], Verdict]]
"""
Looks at a review, cheaply and in the event loop, and returns what is to be run in a thread to decide it.

Raises MalformedReviewError.
"""


def read_review(body: bytes) -> Review:
    """Read the body of a request. Raises MalformedReviewError."""
    if body.count(b"{") + body.count(b"[") > _MOST_CONTAINERS:
        raise MalformedReviewError("the body has more lists and mappings than any object")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):  # broken JSON or UTF-8; nested without end
        raise MalformedReviewError("the body is not JSON") from None
    review = _mapping(found, "the body")
    if review.get("apiVersion") != _API_VERSION or review.get("kind") != _KIND:
        raise MalformedReviewError(f"the body is no {_KIND} of {_API_VERSION}")
    request = _mapping(review.get("request"), "request")
    kind = _mapping(request.get("kind"), "request.kind")
    uid = text_of(request, "uid")
    if not 0 < len(uid) <= _LONGEST_UID:
        raise MalformedReviewError("request.uid is missing, or too long to be one")
    return Review(
        uid=uid,
        operation=_short(request, "operation", _LONGEST_WORD),
        kind=(
            _short(kind, "group", _LONGEST_NAME),
            _short(kind, "version", _LONGEST_WORD),
            _short(kind, "kind", _LONGEST_WORD),
        ),
        namespace=_short(request, "namespace", _LONGEST_NAME),
        name=_short(request, "name", _LONGEST_NAME),
        is_dry_run=request.get("dryRun") is True,
        new=_optional_mapping(request, "object"),
        old=_optional_mapping(request, "oldObject"),
    )


def render_answer(review: Review, verdict: Verdict) -> bytes:
    """Return the body of the answer."""
    response: dict[str, object] = {"uid": review.uid, "allowed": verdict.is_allowed}
    if not verdict.is_allowed:
        response["status"] = _render_status(verdict)
    elif verdict.patch:
        response["patchType"] = "JSONPatch"
        response["patch"] = b64encode(json.dumps(verdict.patch).encode()).decode()
    if verdict.warnings:
        response["warnings"] = _bound_warnings(verdict.warnings, verdict.more)
    if verdict.audit:
        response["auditAnnotations"] = dict(verdict.audit)
    return json.dumps({"apiVersion": _API_VERSION, "kind": _KIND, "response": response}).encode()


def _render_status(verdict: Verdict) -> dict[str, object]:
    status: dict[str, object] = {"status": "Failure", "message": _cut(verdict.refusal, _LONGEST_MESSAGE)}
    if verdict.is_passing:
        details = {"retryAfterSeconds": _RETRY_AFTER}
        return {**status, "reason": "ServiceUnavailable", "code": _UNAVAILABLE, "details": details}
    # Without `details`: kubectl would show those in place of the message.
    return {**status, "reason": "Invalid", "code": _INVALID}


def text_of(parent: Mapping[str, object], key: str) -> str:
    """Return the text of a field, empty where there is none. Raises MalformedReviewError."""
    found = parent.get(key)
    if found is not None and not isinstance(found, str):
        raise MalformedReviewError(f"{key} is no text")
    return found or ""


def _short(parent: Mapping[str, object], key: str, longest: int) -> str:
    """Return a text that goes into logs. Raises MalformedReviewError."""
    found = text_of(parent, key)
    if len(found) > longest:
        raise MalformedReviewError(f"{key} is longer than {longest} characters")
    return found


def texts_of(parent: Mapping[str, object], key: str) -> Mapping[str, str]:
    """Return a field that maps text to text, empty where there is none. Raises MalformedReviewError."""
    found = mapping_of(parent, key)
    texts = {name: value for name, value in found.items() if isinstance(value, str)}
    if len(texts) != len(found):
        raise MalformedReviewError(f"{key} holds what is no text")
    return texts


def mapping_of(parent: Mapping[str, object], key: str) -> Mapping[str, object]:
    """Return a field that is a mapping, empty where there is none. Raises MalformedReviewError."""
    return _optional_mapping(parent, key) or {}


def _optional_mapping(parent: Mapping[str, object], key: str) -> Mapping[str, object] | None:
    found = parent.get(key)
    return None if found is None else _mapping(found, key)


def _mapping(found: object, what: str) -> Mapping[str, object]:
    if not isinstance(found, dict):
        raise MalformedReviewError(f"{what} is not a mapping")
    return found


def _bound_warnings(warnings: tuple[str, ...], more: str) -> list[str]:
    # They travel in headers of HTTP: each on one line.
    shown = [_cut(" ".join(warning.split()), _LONGEST_WARNING) for warning in warnings]
    if len(shown) > _MOST_WARNINGS:
        left_out = len(shown) - _MOST_WARNINGS + 1
        shown[_MOST_WARNINGS - 1 :] = [f"and {left_out} more; see them with: {more}"]
    return shown


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
