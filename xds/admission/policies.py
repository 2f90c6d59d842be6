"""
Policies under review: a ConfigMap is refused for what `xds validate` would call an error, before it is stored.

Documents are judged by the code that judges them when they are served, together with those that are there already.
Nothing is judged that would not change: the status that operators read is written to the same objects. Secrets are not
looked at: they may come later, or change. Invariant: a refusal costs nobody a policy that is in force; withdrawing one
is never refused.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING

from xds.admission.review import MalformedReviewError, Verdict, mapping_of, text_of, texts_of
from xds.facts import Facts
from xds.judge import Judge, SourceRead
from xds.policy.config_maps import LABEL, build_document, is_document, source_of
from xds.policy.parse import check_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from xds.admission.review import Review
    from xds.diagnostics import Diagnostic
    from xds.policy.parse import Document, ParseResult

_CONFIG_MAP = ("", "v1", "ConfigMap")
UNDECIDED_POLICY = Verdict(
    warnings=(
        "egress-xds did not judge it in time; if it is bad, it won't come into force, and its status will say why",
    )
)
"""A cluster that can't store its objects is worse off than one with a policy that is looked at later."""

_MOST_FINDINGS = 20
_ALLOWED = Verdict()


class PolicyReviewer:
    """
    Decides about ConfigMaps that hold policies; a `Reviewer`.

    `home` is the control plane's own namespace, `documents` returns those of the cluster at this moment (called in the
    event loop), `clock` gives seconds since the epoch.
    """

    def __init__(
        self,
        *,
        home: str,
        documents: Callable[[], tuple[Document, ...]],
        clock: Callable[[], float],
        is_home_only: bool = False,
    ) -> None:
        """With `is_home_only`, policies of other namespaces are never in force, and whoever stores one is told."""
        self._home = home
        self._is_home_only = is_home_only
        self._documents = documents
        self._clock = clock
        self._parser = Judge()
        self._lock = Lock()

    def __call__(self, review: Review) -> Callable[[], Verdict]:
        """Return what decides about `review`, to be run in a thread. Raises MalformedReviewError."""
        if not is_judged(review):
            return lambda: _ALLOWED
        if self._is_home_only and review.namespace != self._home:
            message = f"it is not in force: policies are served of the namespace {self._home} only"
            return lambda: Verdict(warnings=(message,))
        documents = build_documents(review, self._home)
        if not documents:
            return lambda: Verdict(_explain_empty(review))
        return partial(self._judge, review, documents, self._documents())

    def _judge(self, review: Review, documents: tuple[Document, ...], current: tuple[Document, ...]) -> Verdict:
        with self._lock:
            # What is there already is parsed once, and not anew for each review.
            parsed = self._parser.parse(SourceRead(current))
        own = source_of(review.namespace, _name_of(review), "")
        others = {source: result for source, result in parsed.items() if not source.startswith(own)}
        return render_verdict(judge_documents(documents, others, now=self._clock()), own)


def is_judged(review: Review) -> bool:
    """Whether the question is about policies, and about other ones than before. Raises MalformedReviewError."""
    if review.kind != _CONFIG_MAP or review.operation in {"DELETE", "CONNECT"}:
        return False
    if review.operation not in {"CREATE", "UPDATE"}:
        raise MalformedReviewError("request.operation is unknown")
    if review.new is None:
        raise MalformedReviewError("request.object is missing")
    if not _is_policy(review.new) or text_of(mapping_of(review.new, "metadata"), "deletionTimestamp"):
        return False
    return review.old is None or not _is_policy(review.old) or _content(review.new) != _content(review.old)


def build_documents(review: Review, home: str) -> tuple[Document, ...]:
    """Return the documents of the ConfigMap under review, sorted by source. Raises MalformedReviewError."""
    if review.new is None or not review.namespace:
        raise MalformedReviewError("the ConfigMap has no content or no namespace")
    created = text_of(mapping_of(review.new, "metadata"), "creationTimestamp")
    return tuple(
        build_document(review.namespace, _name_of(review), key, text, home=home, created=created)
        for key, text in sorted(_content(review.new).items())
    )


def judge_documents(
    documents: tuple[Document, ...], others: Mapping[str, ParseResult], *, now: float
) -> tuple[Diagnostic, ...]:
    """
    Return all that is to be said about `documents`, and about names that they take from `others` or share with them.

    Of two policies of one name, one keeps it; for whoever adds the second, either is a reason to stop.
    """
    judge = Judge()
    results = judge.parse(SourceRead(documents))
    judgement = judge.judge(results, Facts(reads_files=False, now=now))
    known = frozenset(check_names(others))
    clashes = (finding for finding in check_names({**others, **results}) if finding not in known)
    return tuple(dict.fromkeys((*judgement.diagnostics, *clashes)))


def render_verdict(findings: Iterable[Diagnostic], own: str) -> Verdict:
    """Return the verdict that follows; `own` is what the sources of the documents under review begin with."""
    shown = [(finding, _show(finding, own)) for finding in findings]
    errors = [text for finding, text in shown if finding.is_error]
    warnings = tuple(text for finding, text in shown if not finding.is_error)
    if not errors:
        return Verdict(warnings=warnings)
    lines = [f"the policy has {_count(errors)}:", *errors[:_MOST_FINDINGS]]
    if len(errors) > _MOST_FINDINGS:
        lines.append(f"and {len(errors) - _MOST_FINDINGS} more; see them with: xds validate")
    code = next(finding.code for finding, _ in shown if finding.is_error)
    lines.append(f"More about a code: xds explain {code}")
    return Verdict("\n".join(lines), warnings)


def _explain_empty(review: Review) -> str:
    """
    Return why a policy without a document is refused.

    The label says that it is meant as one, and without a word nothing would be in force from it. It is no way to
    withdraw a policy either: an empty file isn't one, since editors truncate files.
    """
    has_binary = review.new is not None and any(map(is_document, mapping_of(review.new, "binaryData")))
    reason = "its *.yaml keys are in binaryData, which is not read" if has_binary else "it has no *.yaml key in data"
    remedy = "save the policy as UTF-8 text" if has_binary else "name the key of the policy policy.yaml"
    return (
        f"the ConfigMap has the label {LABEL}=true, but {reason}; {remedy}, or remove the label, or delete the "
        "ConfigMap to withdraw its policies"
    )


def _is_policy(config_map: Mapping[str, object]) -> bool:
    return texts_of(mapping_of(config_map, "metadata"), "labels").get(LABEL) == "true"


def _content(config_map: Mapping[str, object]) -> Mapping[str, str]:
    """Return what would be served of it."""
    return {key: text for key, text in texts_of(config_map, "data").items() if is_document(key)}


def _name_of(review: Review) -> str:
    """Return the ConfigMap's name. The API server names it late if it is to find a name."""
    metadata = mapping_of(review.new or {}, "metadata")
    return text_of(metadata, "name") or review.name or text_of(metadata, "generateName")


def _show(finding: Diagnostic, own: str) -> str:
    """Return a finding as `xds validate` shows it, of the object under review by its key alone."""
    source = finding.where.source.removeprefix(own)
    return str(replace(finding, where=replace(finding.where, source=source)))


def _count(errors: list[str]) -> str:
    return "an error" if len(errors) == 1 else f"{len(errors)} errors"
