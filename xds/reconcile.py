"""
When to compile and what to publish: the only place that decides either.

Level-triggered: an event only says that something may have changed, and each pass reads the whole current
world again. Passes never overlap, wait for a quiet moment but never too long, and compile in a thread so
that streams are not starved. Nothing is published before the source was read and the facts were
gathered. What a pass comes to is for the judge to say.

The ways in (`Source`, `FactsSource`, `FilesSource`) are protocols that the edges implement; what is published goes
out through a function. Invariant: a pass that fails changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, replace
from time import monotonic
from typing import TYPE_CHECKING, Protocol, TypeVar

import structlog

from xds.errors import SourceError
from xds.judge import DocumentState, Judge, PolicyKey, Served, SourceRead, attempt

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

    from xds.cache import World
    from xds.facts import Facts, File
    from xds.judge import Judgement
    from xds.names import Version
    from xds.policy.parse import ParseResult

_MAX_LOGGED = 10
"""Findings of one document that are logged; `xds validate` shows all."""

_MOMENT = 60.0
"""Seconds in which time stands still for those who look at the ends of certificates."""

_log = structlog.get_logger(__name__)


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
class Inputs:
    """All that goes in."""

    source: Source
    facts: FactsSource
    files: FilesSource | None = None
    """None: a policy that names a file can't be used."""


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


class Reconciler:
    """The loop: wake, wait for quiet, read, judge, publish. `state` says where it stands."""

    def __init__(
        self,
        *,
        inputs: Inputs,
        publish: Callable[[World], None],
        debounce: Debounce,
        clock: Callable[[], float],
    ) -> None:
        self._source = inputs.source
        self._facts = inputs.facts
        self._files = inputs.files
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
        judgement = await asyncio.to_thread(attempt, lambda: self._judge.judge(results, facts))
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
