"""What the reconciler's tests share: policies as text, a judge to ask, a bench to run one on. No test is here."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from structlog.testing import capture_logs

from tests.support.virtual_time import VirtualTimeLoop, run_virtually
from xds.cache import SnapshotCache, World
from xds.facts import Facts
from xds.judge import SourceRead
from xds.policy.parse import Document
from xds.reconcile import Debounce, Inputs, Reconciler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from xds.errors import SourceError
    from xds.judge import DocumentState, Judge, Judgement

QUIET, MAXIMUM = 0.1, 1.0
BROKEN = "httpProxy: [http://"


def policy(name: str, *, port: int = 3128, host: str = "192.0.2.1", priority: int = 0, namespace: str = "") -> str:
    """Write a policy in the long form, selecting everybody or one namespace."""
    selector = f"  selector: {{namespaces: [{namespace}]}}\n" if namespace else ""
    return (
        f"apiVersion: egress-xds/v1alpha1\nkind: EgressPolicy\nmetadata: {{name: {name}}}\nspec:\n{selector}"
        f"  priority: {priority}\n  proxies: {{corp: {{endpoints: [{{url: 'http://{host}:{port}'}}]}}}}\n"
        "  default: {action: tunnel, proxy: corp}\n"
    )


def read(**texts: str) -> SourceRead:
    """Return a reading of documents by name."""
    return SourceRead(tuple(Document(source=name, text=text) for name, text in texts.items()))


def judge_all(judge: Judge, documents: SourceRead, facts: Facts | None = None) -> Judgement:
    return judge.judge(judge.parse(documents), facts or Facts())


def state_of(judgement: Judgement, source: str) -> DocumentState:
    return next(state for state in judgement.documents if state.source == source)


class FakeSource:
    """Documents by name, and events on demand."""

    def __init__(self, **texts: str) -> None:
        self.texts: dict[str, str] = texts
        self.error: SourceError | None = None
        self._events: asyncio.Queue[None] = asyncio.Queue()
        self.notify()

    def write(self, **texts: str) -> None:
        self.texts |= texts
        self.notify()

    def notify(self) -> None:
        self._events.put_nowait(None)

    async def read(self) -> SourceRead:
        if self.error is not None:
            raise self.error
        return read(**self.texts)

    async def changes(self) -> AsyncIterator[None]:
        while True:
            await self._events.get()
            yield


class FakeFacts:
    """Facts that are there at once, or when `gate` is opened."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.facts = Facts()
        self._events: asyncio.Queue[None] = asyncio.Queue()

    def change(self, facts: Facts) -> None:
        self.facts = facts
        self._events.put_nowait(None)

    async def collect(self, hosts: frozenset[str]) -> Facts:
        del hosts
        await self.gate.wait()
        return self.facts

    async def changes(self) -> AsyncIterator[None]:
        while True:
            await self._events.get()
            yield


class Bench:
    """A running reconciler with fakes around it; `worlds` is what a cache would have told its streams."""

    def __init__(self, loop: VirtualTimeLoop, **texts: str) -> None:
        self.loop = loop
        self.source, self.facts, self.cache = FakeSource(**texts), FakeFacts(), SnapshotCache()
        self.published: list[World] = []
        self.notified: list[float] = []
        self.cache.subscribe(lambda: self.notified.append(loop.time()))
        self.reconciler = Reconciler(
            inputs=Inputs(self.source, self.facts),
            publish=self._publish,
            debounce=Debounce(QUIET, MAXIMUM),
            clock=loop.time,
        )

    def _publish(self, world: World) -> None:
        self.published.append(world)
        self.cache.publish(world)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(self.reconciler.run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task])


def on_bench(scenario: Callable[[Bench], Coroutine[object, object, None]], **texts: str) -> Bench:
    """Run a scenario against a running reconciler that has done its first pass."""

    async def main(loop: VirtualTimeLoop) -> Bench:
        bench = Bench(loop, **texts)
        async with bench.running():
            await asyncio.sleep(2)
            await scenario(bench)
        return bench

    with capture_logs():
        return run_virtually(main)
