"""
When to compile and what to publish: the only place that decides either.

Level-triggered: an event only says that something may have changed, and each pass reads the whole current
world again. Passes never overlap, wait for a quiet moment but never too long, and compile in a thread so
that streams are not starved. Nothing is published before the source was read and the facts were
gathered. A document that can't be used costs its own policies their update and nobody else anything:
its last good policies stay in force, or, without any, the pods that it claims are told nothing.

The ways in (`Source`, `FactsSource`, `FilesSource`) are protocols that the edges implement; what is published goes
out through a function. Invariant: what is published never gives a pod a policy of lower rank because a document is
broken.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from time import monotonic
from typing import TYPE_CHECKING, Protocol, TypeVar

import structlog

from xds.cache import World
from xds.compile import Compilation, compile_snapshot, narrow_moment, renew_files
from xds.compile.refuse import REFUSE_ALL
from xds.diagnostics import Diagnostic, Where
from xds.errors import SourceError
from xds.policy.files import files_of
from xds.policy.findings import sort_diagnostics
from xds.policy.model import HeldPolicy, Policy
from xds.policy.parse import Document, ParseResult, check_names, parse_document

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping

    from xds.facts import Facts, File
    from xds.names import Version
    from xds.snapshot import Snapshot

PolicyKey = tuple[str | None, str]
"""Namespace (None: cluster-wide) and name."""

UNREADABLE = "EX901"
"""Code of a document whose text can't be had at all."""

INTERNAL_ERROR = "EX902"
"""Code of a document that the project itself stumbles over."""

_MAX_LOGGED = 10
"""Findings of one document that are logged; `xds validate` shows all."""

_LARGE = 1 << 20
"""Characters from which on a document takes seconds, so that the log says that it is being worked on."""

_MOMENT = 60.0
"""Seconds in which time stands still for those who look at the ends of certificates."""

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SourceRead:
    """All that a source holds at one moment; `unreadable` has one diagnostic per document without a text."""

    documents: tuple[Document, ...]
    unreadable: tuple[Diagnostic, ...] = ()


class Source(Protocol):
    """Where policy documents come from."""

    async def read(self) -> SourceRead:
        """Read everything there is now. Raises SourceError if not even the list of documents can be had."""
        ...

    def changes(self) -> AsyncIterator[None]:
        """Yield once when watching has begun, then whenever something may have changed; never raises."""
        ...


class FactsSource(Protocol):
    """Where the facts come from that compilation needs beside the policies."""

    async def collect(self, hosts: frozenset[str]) -> Facts:
        """Return what is known now, and keep the addresses of `hosts` fresh from now on; never raises."""
        ...

    def changes(self) -> AsyncIterator[None]:
        """Yield whenever the facts changed; never raises."""
        ...


class FilesSource(Protocol):
    """Where the content of the files comes from that policies name."""

    async def collect(self, paths: frozenset[str]) -> Mapping[str, File]:
        """Return what each of `paths` holds, and watch exactly these from now on; never raises."""
        ...

    def changes(self) -> AsyncIterator[None]:
        """Yield whenever a file changed; never raises."""
        ...


@dataclass(frozen=True, slots=True)
class Debounce:
    """How long to wait for more events, in seconds: until `quiet` has passed without one, at most `maximum`."""

    quiet: float
    maximum: float


@dataclass(frozen=True, slots=True)
class Burst:
    """The events since the last pass began: when the first and the last came."""

    first: float
    last: float

    def due(self, debounce: Debounce) -> float:
        """Return the moment at which waiting ends."""
        return min(self.last + debounce.quiet, self.first + debounce.maximum)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyState:
    """One policy in force: where it comes from, and which version of its resources is served since when."""

    namespace: str | None
    name: str
    source: str
    version: Version
    since: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything that a status page says about the policies, at one moment."""

    documents: tuple[DocumentState, ...] = ()
    policies: tuple[PolicyState, ...] = ()
    passes: int = 0
    problem: str | None = None
    """Why the last pass came to nothing; the world before it stays."""

    @property
    def is_synced(self) -> bool:
        """Whether anything was published yet."""
        return self.passes > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Passes:
    """How passes went: those that published, the seconds that they took in all, and when one last met no problem."""

    count: int = 0
    seconds: float = 0.0
    last_at: float = 0.0
    """On the reconciler's clock; a pass that found nothing new counts here."""


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

    def __init__(self) -> None:
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
        held = [claim for source in results if source not in good and source not in kept
                for claim in _claims(results[source])]  # fmt: skip
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
        self._compiled = {key: entry for key, entry in self._compiled.items() if key in {*served, _key(REFUSE_ALL)}}
        documents = tuple(_document_state(source, findings[source], served) for source in results)
        return Judgement(_build_world(served, held, refuse_all), documents, served)

    def _candidates(self, results: Mapping[str, ParseResult]) -> Iterable[Policy]:
        """Yield every policy that may have to be compiled: what parsed, and what may have to stay."""
        yield from (policy for result in results.values() for policy in result.policies)
        yield from (policy for source in results for policy in self._good.get(source, ()))

    def _parse(self, document: Document) -> ParseResult:
        known = self._parsed.get(document.source)
        if known is not None and known[0] == document:
            return known[1]
        with _telling("parse", document):
            result = _attempt(lambda: parse_document(document), source=document.source)
        return _unusable(_internal_error(Where(document.source))) if result is None else result

    def _find(self, results: Mapping[str, ParseResult], facts: Facts) -> dict[str, tuple[Diagnostic, ...]]:
        """Collect all that is to be said about each document; only what parsed is compiled."""
        findings = {source: list(result.diagnostics) for source, result in results.items()}
        for conflict in check_names(results):
            findings[conflict.where.source].append(conflict)
        for source, result in results.items():
            if not _has_error(findings[source]):
                findings[source] += self._compile_all(source, result.policies, facts)
        return {source: sort_diagnostics(found) for source, found in findings.items()}

    def _compile_all(self, source: str, policies: Iterable[Policy], facts: Facts) -> list[Diagnostic]:
        is_work = any(self._known(policy, facts) is None for policy in policies)
        with _telling("compile", self._parsed[source][0]) if is_work else nullcontext():
            compiled = [self._compile(policy, facts) for policy in policies]
        return [finding for compilation in compiled for finding in compilation.diagnostics]

    def _known(self, policy: Policy, facts: Facts) -> Compilation | None:
        """Return what `policy` was compiled to when all that matters to it was the same."""
        known = self._compiled.get(_key(policy))
        return known[2] if known is not None and known[:2] == (policy, _narrow(facts, policy)) else None

    def _compile(self, policy: Policy, facts: Facts) -> Compilation:
        known = self._known(policy, facts)
        if known is not None:
            return known
        needed = _narrow(facts, policy)
        compilation = _attempt(lambda: self._compile_anew(policy, needed), policy=policy.name, where=str(policy.where))
        if compilation is None:
            compilation = Compilation(None, (_internal_error(policy.where),))
        self._compiled[_key(policy)] = (policy, needed, compilation)
        return compilation

    def _compile_anew(self, policy: Policy, needed: Facts) -> Compilation:
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


class Reconciler:
    """The loop: wake, wait for quiet, read, judge, publish. `state` says where it stands."""

    def __init__(
        self,
        *,
        source: Source,
        facts: FactsSource,
        files: FilesSource | None = None,
        publish: Callable[[World], None],
        debounce: Debounce,
        clock: Callable[[], float],
    ) -> None:
        """Without `files`, a policy that names one can't be used."""
        self._source = source
        self._facts = facts
        self._files = files
        self._publish = publish
        self._debounce = debounce
        self._clock = clock
        self._judge = Judge()
        self._seen: tuple[SourceRead, Facts] | None = None
        self._burst: Burst | None = None
        self._wake = asyncio.Event()
        self._state = State()
        self._passes = Passes()

    @property
    def state(self) -> State:
        """What is in force, and what is wrong, at this moment."""
        return self._state

    @property
    def passes(self) -> Passes:
        """How the passes went so far."""
        return self._passes

    async def run(self) -> None:
        """
        Watch and reconcile until cancelled.

        Raises SourceError (in the group of a TaskGroup) if the source can't be read at the start; later on
        that is a problem in `state`.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch(self._source.changes()))
            group.create_task(self._watch(self._facts.changes()))
            if self._files is not None:
                group.create_task(self._watch(self._files.changes()))
            while True:
                await self._settle()
                await self._pass()

    async def _watch(self, changes: AsyncIterator[None]) -> None:
        async for _ in changes:
            now = asyncio.get_running_loop().time()
            self._burst = Burst(now, now) if self._burst is None else replace(self._burst, last=now)
            self._wake.set()

    async def _settle(self) -> None:
        """Wait for an event, then for the end of its burst. What comes after that belongs to the next pass."""
        await self._wake.wait()
        assert self._burst is not None
        loop = asyncio.get_running_loop()
        while (wait := self._burst.due(self._debounce) - loop.time()) > 0:  # noqa: ASYNC110  # each event moves the end
            await asyncio.sleep(wait)
        self._burst = None
        self._wake.clear()

    async def _pass(self) -> None:
        began = monotonic()
        try:
            read = await self._source.read()
        except SourceError as error:
            if not self._state.is_synced:
                raise
            self._seen = None
            self._fail(str(error))
            return
        results = await asyncio.to_thread(self._judge.parse, read)
        facts = await self._collect(results)
        if self._seen == (read, facts):
            self._passes = replace(self._passes, last_at=self._clock())
            return
        judgement = await asyncio.to_thread(_attempt, lambda: self._judge.judge(results, facts))
        self._seen = (read, facts)
        if judgement is None:
            self._fail("internal error, see the log; please report it")
        else:
            self._adopt(judgement)
            self._passes = Passes(
                count=self._passes.count + 1,
                seconds=self._passes.seconds + monotonic() - began,
                last_at=self._clock(),
            )

    async def _collect(self, results: Mapping[str, ParseResult]) -> Facts:
        facts = await self._facts.collect(self._judge.hosts(results))
        files = {} if self._files is None else await self._files.collect(self._judge.files(results))
        return replace(facts, files=files, now=self._clock() // _MOMENT * _MOMENT)

    def _fail(self, problem: str) -> None:
        if problem != self._state.problem:
            _log.error("the last good state stays in force", problem=problem)
        self._state = replace(self._state, problem=problem)

    def _adopt(self, judgement: Judgement) -> None:
        before = self._state
        self._publish(judgement.world)
        now = self._clock()
        self._state = State(
            documents=_date(judgement.documents, before.documents, now),
            policies=_date(_policy_states(judgement.served), before.policies, now),
            passes=before.passes + 1,
        )
        _log_changes(before, self._state)


def hold(policy: Policy) -> HeldPolicy:
    """Return the claim of a policy that can't be served: its pods are told nothing."""
    return HeldPolicy(
        name=policy.name,
        namespace=policy.namespace,
        priority=policy.priority,
        selector=policy.selector,
        where=policy.where,
    )


def _attempt(step: Callable[[], _T], **context: str) -> _T | None:
    """Run `step`; a bug in it (None) must cost one document its update, and not the streams."""
    try:
        return step()
    except Exception:  # noqa: BLE001  # the one place that outlives bugs in parsing and compiling
        _log.exception("internal error", **context)
        return None


@contextmanager
def _telling(step: str, document: Document) -> Iterator[None]:
    """Log when `step` begins and ends, if the document is so large that somebody may wonder meanwhile."""
    if len(document.text) < _LARGE:
        yield
        return
    log = _log.bind(document=document.source, step=step)
    log.info("large document, this may take long", characters=len(document.text))
    began = monotonic()
    yield
    log.info("large document done", seconds=round(monotonic() - began, 1))


def _internal_error(where: Where) -> Diagnostic:
    hint = "the log has the details; please report it together with this document"
    return Diagnostic(INTERNAL_ERROR, where, "the control plane stumbled over this document", hint)


def _unusable(finding: Diagnostic) -> ParseResult:
    """Return the result for a document that may concern anybody, since nothing is known of it."""
    claim = HeldPolicy(name=finding.where.source, is_unreadable=True, where=finding.where)
    return ParseResult(policies=(), held=(claim,), diagnostics=(finding,))


def _claims(result: ParseResult) -> tuple[HeldPolicy, ...]:
    return result.held or tuple(hold(policy) for policy in result.policies)


def _key(policy: Policy) -> PolicyKey:
    return (policy.namespace, policy.name)


def _hosts(policy: Policy) -> Iterable[str]:
    return (endpoint.host for proxy in policy.proxies for endpoint in proxy.endpoints)


def _narrow(facts: Facts, policy: Policy) -> Facts:
    """Return the facts that matter to `policy`: another proxy's new address or login must not recompile it."""
    hosts, files = set(_hosts(policy)), files_of(policy)
    narrowed = replace(
        facts,
        addresses={host: known for host, known in facts.addresses.items() if host in hosts},
        files={path: file for path, file in facts.files.items() if path in files},
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


def _document_state(source: str, findings: tuple[Diagnostic, ...], served: Mapping[PolicyKey, Served]) -> DocumentState:
    return DocumentState(
        source=source,
        is_good=not _has_error(findings),
        diagnostics=findings,
        in_force=tuple(key for key, entry in served.items() if entry.source == source),
    )


def _policy_states(served: Mapping[PolicyKey, Served]) -> tuple[PolicyState, ...]:
    return tuple(
        PolicyState(namespace=namespace, name=name, source=entry.source, version=entry.snapshot.version)
        for (namespace, name), entry in sorted(served.items(), key=lambda item: (item[0][0] or "", item[0][1]))
    )


_S = TypeVar("_S", DocumentState, PolicyState)


def _date(states: Iterable[_S], before: Iterable[_S], now: float) -> tuple[_S, ...]:
    """Give each state the moment since when it is so: what did not change keeps its own."""
    known = {replace(state, since=0.0): state for state in before}
    return tuple(known.get(state) or replace(state, since=now) for state in states)


def _log_changes(before: State, after: State) -> None:
    """Say what changed, once: documents that went bad or came back, and how many policies are in force."""
    known = {state.source: state for state in before.documents}
    for state in after.documents:
        if state != known.get(state.source):
            _log_document(state)
    for source in sorted(known.keys() - {state.source for state in after.documents}):
        _log.info("document gone", document=source)
    if after.policies != before.policies or not before.is_synced:
        _log.info("published", policies=len(after.policies), documents=len(after.documents))
    if not after.policies and not (_is_bare(before) and bool(before.documents) == bool(after.documents)):
        _log_bare(after)


def _is_bare(state: State) -> bool:
    """Whether no policy is in force, though there was a pass."""
    return state.is_synced and not state.policies


def _log_bare(state: State) -> None:
    """Say what becomes of pods without a policy: refusing is right, and seldom what was wanted."""
    if state.documents:
        _log.warning(
            "no policy is in force: to pods that no document claims every connection is refused, "
            "except to addresses that are always direct",
            hint="mend the documents that were refused; xds validate shows what is wrong",
        )
    else:
        _log.warning(
            "no policy is in force: every connection is refused, except to addresses that are always direct",
            hint="put a policy document where this server reads them; xds validate checks it before",
        )


def _log_document(state: DocumentState) -> None:
    log = _log.bind(document=state.source)
    if state.is_good:
        log.info("document in force")
    elif state.has_last_good:
        log.error("document refused; its last good version stays in force")
    else:
        log.error("document refused; there is no good version, so the pods that it claims are told nothing")
    for finding in state.diagnostics[:_MAX_LOGGED]:
        level = logging.ERROR if finding.is_error else logging.WARNING
        log.log(level, "finding", code=finding.code, where=str(finding.where), what=finding.message, hint=finding.hint)
    if len(state.diagnostics) > _MAX_LOGGED:
        log.warning("more findings; see them all with xds validate", count=len(state.diagnostics) - _MAX_LOGGED)
