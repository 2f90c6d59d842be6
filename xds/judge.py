"""
What a pass comes to: documents and facts in, a world and a verdict on each document out.

A document that can't be used costs its own policies their update and nobody else anything: its last good policies stay
in force, or, without any, the pods that it claims are told nothing. When to pass is decided elsewhere. Invariant: a
world never gives a pod a policy of lower rank because a document is broken.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from xds.cache import World
from xds.compile import Compilation, check_policy, compile_snapshot, narrow_moment, renew_files
from xds.compile.refuse import REFUSE_ALL
from xds.diagnostics import Diagnostic, Where
from xds.injection.environment import check_env_mode
from xds.policy.files import files_of
from xds.policy.findings import sort_diagnostics
from xds.policy.model import HeldPolicy, Policy
from xds.policy.parse import Document, ParseResult, check_names, hold, parse_document
from xds.policy.ties import check_ties
from xds.snapshot import build_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from structlog.typing import FilteringBoundLogger

    from xds.facts import Facts
    from xds.snapshot import Snapshot

PolicyKey = tuple[str | None, str]
"""Namespace (None: cluster-wide) and name."""

UNREADABLE = "EX901"
"""Code of a document whose text can't be had at all."""

INTERNAL_ERROR = "EX902"
"""Code of a document that the project itself stumbles over."""

_LARGE = 1 << 20
"""Characters from which on a document takes seconds, so that the log says that it is being worked on."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class SourceRead:
    """All that a source holds at one moment; `unreadable` has one diagnostic per document without a text."""

    documents: tuple[Document, ...]
    unreadable: tuple[Diagnostic, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentState:
    """What became of one document, and since when (on the reconciler's clock)."""

    source: str
    is_good: bool
    diagnostics: tuple[Diagnostic, ...]
    in_force: tuple[PolicyKey, ...]
    """Policies in force from it: its own if it is good, else the last good ones."""
    since: float = 0.0

    @property
    def has_last_good(self) -> bool:
        """Whether an earlier version of it is in force in its stead."""
        return not self.is_good and bool(self.in_force)


@dataclass(frozen=True, slots=True)
class Served:
    """A policy in force, the document that it came from and what its pods get."""

    source: str
    policy: Policy
    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one pass came to: the world to publish, and what became of each document and policy."""

    world: World
    documents: tuple[DocumentState, ...]
    served: Mapping[PolicyKey, Served]

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """Every finding, by document."""
        return tuple(finding for document in self.documents for finding in document.diagnostics)


class Judge:
    """
    Documents and facts in, a world out; remembers what was good and what was compiled already.

    A fresh judge is what `validate` and `dump` use: it knows no last good versions. Its methods block, and
    must not run at the same time.
    """

    def __init__(self, *, builds: bool = True) -> None:
        """
        Build what pods get, or only find all that is wrong with the documents, in a tenth of the time.

        Unless it `builds`, what the judge finds is the same, and every snapshot of its world is empty: nobody may be
        served from it.
        """
        self._builds = builds
        self._parsed: dict[str, tuple[Document, ParseResult]] = {}
        self._compiled: dict[PolicyKey, tuple[Policy, Facts, Compilation]] = {}
        self._good: Mapping[str, tuple[Policy, ...]] = {}
        self._served: Mapping[PolicyKey, Served] = {}

    def parse(self, read: SourceRead) -> Mapping[str, ParseResult]:
        """Parse what is new in `read`; results by source, sorted."""
        self._parsed = {document.source: (document, self._parse(document)) for document in read.documents}
        results = {source: result for source, (_, result) in self._parsed.items()}
        results |= {finding.where.source: _unusable(finding) for finding in read.unreadable}
        return dict(sorted(results.items()))

    def hosts(self, results: Mapping[str, ParseResult]) -> frozenset[str]:
        """Return the hosts of the proxies of every policy that may have to be compiled."""
        return frozenset(host for policy in self._candidates(results) for host in _hosts(policy))

    def files(self, results: Mapping[str, ParseResult]) -> frozenset[str]:
        """Return the paths of the files that every policy that may have to be compiled names."""
        return frozenset(path for policy in self._candidates(results) for path in files_of(policy))

    def judge(self, results: Mapping[str, ParseResult], facts: Facts) -> Judgement:
        """Compile what is good, keep or hold what is not, and remember the outcome."""
        findings = self._find(results, facts)
        good = {source: result.policies for source, result in results.items() if not _has_error(findings[source])}
        kept = {source: self._good[source] for source in results if source not in good and source in self._good}
        served: dict[PolicyKey, Served] = {}
        held = [claim for source, result in results.items() if source not in good
                for claim in _claims(result, is_kept=source in kept)]  # fmt: skip
        # Good documents come first: a kept policy whose name another document took by now can only be held.
        for source, policy in _flatten(good, kept):
            snapshot = None if _key(policy) in served else self._snapshot(policy, facts)
            if snapshot is None:
                held.append(hold(policy))
            else:
                served[_key(policy)] = Served(source, policy, snapshot)
        refuse_all = self._snapshot(REFUSE_ALL, facts)
        assert refuse_all is not None, "the built-in policy does not compile"
        self._good = {source: policies for source, policies in {**kept, **good}.items() if policies}
        self._served = served
        needed = {*served, _key(REFUSE_ALL)}
        self._compiled = {key: entry for key, entry in self._compiled.items() if key in needed}
        in_force: dict[str, list[PolicyKey]] = defaultdict(list)
        for key, entry in served.items():
            in_force[entry.source].append(key)
        documents = tuple(_document_state(source, findings[source], in_force[source]) for source in results)
        return Judgement(_build_world(served, dict.fromkeys(held), refuse_all), documents, served)

    def _candidates(self, results: Mapping[str, ParseResult]) -> Iterable[Policy]:
        """Yield every policy that may have to be compiled: what parsed, and what may have to stay."""
        yield from (policy for result in results.values() for policy in result.policies)
        yield from (policy for source in results for policy in self._good.get(source, ()))

    def _parse(self, document: Document) -> ParseResult:
        known = self._parsed.get(document.source)
        if known is not None and known[0] == document:
            return known[1]
        with _telling("parse", document):
            result = attempt(lambda: parse_document(document), source=document.source)
        if result is None:
            return _unusable(_internal_error(Where(document.source)), document.namespace)
        return result

    def _find(self, results: Mapping[str, ParseResult], facts: Facts) -> dict[str, tuple[Diagnostic, ...]]:
        """Collect all that is to be said about each document; only what parsed is compiled."""
        findings = {source: list(result.diagnostics) for source, result in results.items()}
        for conflict in check_names(results):
            findings[conflict.where.source].append(conflict)
        for source, result in results.items():
            if not _has_error(findings[source]):
                findings[source] += self._compile_all(source, result.policies, facts)
        for tie in self._find_ties(results, findings):
            findings[tie.where.source].append(tie)
        return {source: sort_diagnostics(found) for source, found in findings.items()}

    def _find_ties(
        self, results: Mapping[str, ParseResult], findings: Mapping[str, list[Diagnostic]]
    ) -> Iterable[Diagnostic]:
        """Return the ties at good documents; last good versions take part, so that nobody hears of others' mistakes."""
        good = {source: result.policies for source, result in results.items() if not _has_error(findings[source])}
        kept = {source: self._good.get(source, ()) for source in results if source not in good}
        rivals = {_key(policy): policy for _, policy in _flatten(kept, good)}
        return (tie for tie in check_ties(rivals.values()) if tie.where.source in good)

    def _compile_all(self, source: str, policies: tuple[Policy, ...], facts: Facts) -> list[Diagnostic]:
        is_work = any(self._known(policy, facts) is None for policy in policies)
        with _telling("compile", self._parsed[source][0]) if is_work else nullcontext():
            compiled = [self._compile(policy, facts) for policy in policies]
        undeliverable = [finding for policy in policies for finding in check_env_mode(policy)]
        return [*undeliverable, *(finding for compilation in compiled for finding in compilation.diagnostics)]

    def _known(self, policy: Policy, facts: Facts) -> Compilation | None:
        """Return what `policy` was compiled to when all that matters to it was the same."""
        known = self._compiled.get(_key(policy))
        return known[2] if known is not None and known[:2] == (policy, _narrow(facts, policy)) else None

    def _compile(self, policy: Policy, facts: Facts) -> Compilation:
        known = self._known(policy, facts)
        if known is not None:
            return known
        needed = _narrow(facts, policy)
        compilation = attempt(lambda: self._compile_anew(policy, needed), policy=policy.name, where=str(policy.where))
        if compilation is None:
            compilation = Compilation(None, (_internal_error(policy.where),))
        self._compiled[_key(policy)] = (policy, needed, compilation)
        return compilation

    def _compile_anew(self, policy: Policy, needed: Facts) -> Compilation:
        if not self._builds:
            checked = check_policy(policy, needed)
            return Compilation(build_snapshot(()) if checked.is_good else None, checked.diagnostics)
        known = self._compiled.get(_key(policy))
        if known is None or known[0] != policy or known[2].snapshot is None:
            return compile_snapshot(policy, needed)
        if replace(known[1], files=needed.files, now=needed.now) == needed:
            return renew_files(known[2], policy, needed)
        return compile_snapshot(policy, needed)

    def _snapshot(self, policy: Policy, facts: Facts) -> Snapshot | None:
        """Return what the pods of `policy` get: compiled now, or else what they have."""
        snapshot = self._compile(policy, facts).snapshot
        served = self._served.get(_key(policy))
        if snapshot is None and served is not None and served.policy == policy:
            return served.snapshot
        return snapshot


def attempt(step: Callable[[], _T], **context: str) -> _T | None:
    """Run `step`; a bug in it (None) must cost one document its update, and not the streams."""
    try:
        return step()
    except Exception:  # noqa: BLE001  # the one place that outlives bugs in parsing and compiling
        _get_log().exception("internal error", **context)
        return None


@contextmanager
def _telling(step: str, document: Document) -> Iterator[None]:
    """Log when `step` begins and ends, if the document is so large that somebody may wonder meanwhile."""
    if len(document.text) < _LARGE:
        yield
        return
    log = _get_log().bind(document=document.source, step=step)
    log.info("large document, this may take long", characters=len(document.text))
    began = monotonic()
    yield
    log.info("large document done", seconds=round(monotonic() - began, 1))


def _get_log() -> FilteringBoundLogger:
    import structlog  # noqa: PLC0415  # takes longer to import than most documents to judge, and seldom logs anything

    log: FilteringBoundLogger = structlog.get_logger(__name__)
    return log


def _internal_error(where: Where) -> Diagnostic:
    hint = "the log has the details; please report it together with this document"
    return Diagnostic(INTERNAL_ERROR, where, "the control plane stumbled over this document", hint)


def _unusable(finding: Diagnostic, namespace: str | None = None) -> ParseResult:
    """
    Return the result for a document of which nothing is known.

    It may concern anybody in the namespace that it stands in; without one, anybody at all.
    """
    claim = HeldPolicy(name=finding.where.source, namespace=namespace, is_unreadable=True, where=finding.where)
    return ParseResult(policies=(), held=(claim,), diagnostics=(finding,), namespace=namespace)


def _claims(result: ParseResult, *, is_kept: bool) -> tuple[HeldPolicy, ...]:
    """
    Return whom a document claims that can't be used.

    If its last good version is in force, what can't be read claims nobody beyond that one; what can be read may well.
    """
    claims = result.held or tuple(hold(policy) for policy in result.policies)
    return tuple(claim for claim in claims if not (is_kept and claim.is_unreadable))


def _key(policy: Policy) -> PolicyKey:
    return (policy.namespace, policy.name)


def _hosts(policy: Policy) -> Iterable[str]:
    return (endpoint.host for proxy in policy.proxies for endpoint in proxy.endpoints)


def _narrow(facts: Facts, policy: Policy) -> Facts:
    """Return the facts that matter to `policy`: another proxy's new address or login must not recompile it."""
    # There may be as many facts as policies, so that looking through all of them for each would not do.
    hosts, files = sorted(set(_hosts(policy))), sorted(files_of(policy))
    narrowed = replace(
        facts,
        addresses={host: facts.addresses[host] for host in hosts if host in facts.addresses},
        files={path: facts.files[path] for path in files if path in facts.files},
        cluster_direct=facts.cluster_direct if policy.always_direct.cluster_networks else (),
    )
    return replace(narrowed, now=narrow_moment(policy, narrowed))


def _has_error(findings: Iterable[Diagnostic]) -> bool:
    return any(finding.is_error for finding in findings)


def _flatten(*groups: Mapping[str, tuple[Policy, ...]]) -> Iterable[tuple[str, Policy]]:
    return ((source, policy) for group in groups for source, policies in group.items() for policy in policies)


def _build_world(served: Mapping[PolicyKey, Served], held: Iterable[HeldPolicy], refuse_all: Snapshot) -> World:
    candidates: tuple[Policy | HeldPolicy, ...] = (*(entry.policy for entry in served.values()), *held)
    return World(
        candidates=tuple(sorted(candidates, key=lambda item: (item.namespace or "", item.name, str(item.where)))),
        snapshots={key: entry.snapshot for key, entry in served.items()},
        refuse_all=refuse_all,
    )


def _document_state(source: str, findings: tuple[Diagnostic, ...], in_force: Iterable[PolicyKey]) -> DocumentState:
    return DocumentState(
        source=source,
        is_good=not _has_error(findings),
        diagnostics=findings,
        in_force=tuple(in_force),
    )
