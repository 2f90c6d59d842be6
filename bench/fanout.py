"""
What a control plane costs that serves many Envoys: ours beside the floor, in turn and in one run.

The floor is a bare grpc.aio server that writes bytes and does nothing else, so the ratio is the price of the protocol
with all its checks. The clients are streams with a connection each, opened by two processes of `fanout_load`. Pushes
alternate between the two servers, and every figure of a push is the median of all rounds.

Cold start is the time from the first connection until the last stream has its clusters and its listeners. A push is
timed from the change until the last byte of the response is read.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, TypedDict

from fanout_ours import floor_answers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

VARIANTS = ("sotw", "delta")
SERVERS = ("ours", "floor")
_HERE = Path(__file__).parent
_LOADERS = 2
_PATIENCE = 120
"""Seconds after which a push that has not reached everybody counts as failed."""
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_QUIET = 0.2
"""Seconds without work after which a server is at rest."""


class Figures(NamedTuple):
    """What was measured of one server. Times in seconds, memory in bytes."""

    cold_start: float
    cold_start_cpu: float
    push_median: float
    push_p99: float
    push_last: float
    push_cpu: float
    memory: float


class Point(NamedTuple):
    """One line of the result."""

    variant: str
    streams: int
    resources: int
    ours: Figures
    floor: Figures


class Heard(TypedDict, total=False):
    """An answer of a process; each has some of these."""

    port: int
    at: float
    began: float
    waiting: int
    deaf: int
    heard: list[float]
    took: list[float]
    ended: int
    seconds: float


@dataclass(frozen=True)
class Program:
    """A process that takes orders."""

    process: subprocess.Popen[str]

    def order(self, words: object) -> None:
        """Give an order, without waiting."""
        _pipe(self.process.stdin).write(json.dumps(words) + "\n")
        _pipe(self.process.stdin).flush()

    def hear(self) -> Heard:
        """Wait for an answer. Raises RuntimeError if the process has ended, or a stream of its."""
        line = _pipe(self.process.stdout).readline()
        if not line:
            raise RuntimeError(f"{self.process.args!r} ended")
        answer: Heard = json.loads(line)
        if answer.get("ended"):
            raise RuntimeError(f"{answer['ended']} streams were ended by the server")
        return answer

    @property
    def cpu(self) -> float:
        """CPU seconds used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    @property
    def memory(self) -> int:
        """Resident bytes."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE

    def rest(self) -> None:
        """Wait until the process does nothing."""
        before = -1.0
        while self.cpu - before > 1 / _TICKS:
            before = self.cpu
            time.sleep(_QUIET)


@contextmanager
def running(*arguments: str) -> Iterator[Program]:
    """Run a script of this directory until the block ends."""
    environment = {**os.environ, "PYTHONPATH": str(_HERE.parent)}
    with subprocess.Popen(
        [sys.executable, str(_HERE / arguments[0]), *arguments[1:]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # The log of ours is written, as it is in service, but nobody reads it here.
        stderr=subprocess.DEVNULL if arguments[0] == "fanout_ours.py" else None,
        text=True,
        env=environment,
    ) as process:
        try:
            yield Program(process)
        finally:
            process.kill()


@dataclass
class Side:
    """One server and its clients."""

    server: Program
    loaders: list[Program]
    cold_start: float = 0
    cold_start_cpu: float = 0

    def connect(self, streams: int) -> None:
        """Open all streams at once, and wait until each is served."""
        before = self.server.cpu
        for number, loader in enumerate(self.loaders):
            share = streams // len(self.loaders) + (number < streams % len(self.loaders))
            loader.order({"connect": share, "first": number, "step": len(self.loaders)})
        answers = [loader.hear() for loader in self.loaders]
        self.cold_start = max(max(answer["heard"]) for answer in answers) - min(answer["began"] for answer in answers)
        self.server.rest()
        self.cold_start_cpu = self.server.cpu - before

    def push(self) -> tuple[list[float], float]:
        """Change a resource; return each stream's seconds, sorted, and the CPU seconds of the server."""
        before = self.server.cpu
        for loader in self.loaders:
            loader.order({"expect": _PATIENCE})
        expected = sum(loader.hear()["waiting"] for loader in self.loaders)
        self.server.order("push")
        at = self.server.hear()["at"]
        took = sorted(moment - at for loader in self.loaders for moment in loader.hear()["heard"])
        if len(took) != expected:
            raise RuntimeError(f"{expected - len(took)} streams of {expected} heard nothing in {_PATIENCE} s")
        self.server.rest()
        return took, self.server.cpu - before

    def nudge(self) -> float:
        """Change a resource that may concern few streams; return the CPU seconds of the server."""
        self.server.rest()
        before = self.server.cpu
        self.server.order("push")
        self.server.hear()
        self.server.rest()
        return self.server.cpu - before


@contextmanager
def side(which: str, variant: str, resources: int, *, policies: int = 0) -> Iterator[Side]:
    """Start a server and the processes that will load it."""
    with ExitStack() as stack:
        if which == "floor":
            answers = stack.enter_context(tempfile.NamedTemporaryFile("w", encoding="ascii"))
            answers.write("\n".join(answer.hex() for answer in floor_answers(variant, resources)))
            answers.flush()
            server = stack.enter_context(running("fanout_floor.py", variant, answers.name))
        else:
            server = stack.enter_context(running("fanout_ours.py", str(resources), f"--policies={policies}"))
        port = server.hear()["port"]
        load = ("fanout_load.py", variant, str(port), f"--policies={policies}")
        yield Side(server, [stack.enter_context(running(*load)) for _ in range(_LOADERS)])


def measure(
    *, streams: Sequence[int], resources: Sequence[int], rounds: int, say: Callable[[str], None]
) -> list[Point]:
    """Measure every combination, in both variants."""
    points = []
    for variant, count, clients in product(VARIANTS, resources, streams):
        say(f"{variant}: {clients:,} streams, {count:,} resources")
        with side("floor", variant, count) as floor, side("ours", variant, count) as ours:
            figures = _compare((ours, floor), clients, rounds)
        points.append(Point(variant, clients, count, *figures))
    return points


def _compare(sides: tuple[Side, Side], streams: int, rounds: int) -> list[Figures]:
    for each in reversed(sides):
        each.connect(streams)
    pushes: list[list[tuple[list[float], float]]] = [[], []]
    for _ in range(rounds):
        for each, took in zip(sides, pushes, strict=True):
            took.append(each.push())
    return [_figures(each, took) for each, took in zip(sides, pushes, strict=True)]


def _figures(measured: Side, pushes: list[tuple[list[float], float]]) -> Figures:
    return Figures(
        measured.cold_start,
        measured.cold_start_cpu,
        statistics.median(percentile(took, 0.5) for took, _ in pushes),
        statistics.median(percentile(took, 0.99) for took, _ in pushes),
        statistics.median(took[-1] for took, _ in pushes),
        statistics.median(cpu for _, cpu in pushes),
        measured.server.memory,
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the ordered values lie."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


class Deafness(NamedTuple):
    """Pushes to those who read, in seconds, while nobody or some never read."""

    deaf: int
    push_median: float
    push_p99: float
    push_last: float
    memory: float


def measure_deaf(*, streams: int, deaf: int, resources: int, rounds: int) -> list[Deafness]:
    """Push the state of the world to `streams` without, then with `deaf` others that never read."""
    with side("ours", "sotw", resources) as ours, ExitStack() as stack:
        ours.connect(streams)
        rows = [_deafness(ours, 0, rounds)]
        others = stack.enter_context(running("fanout_load.py", "sotw", str(_port(ours))))
        others.order({"connect": deaf, "first": streams, "step": 1})
        others.hear()
        others.order({"deafen": 1})
        others.hear()
        return [*rows, _deafness(ours, deaf, rounds)]


def _port(measured: Side) -> int:
    arguments = measured.loaders[0].process.args
    assert isinstance(arguments, list)
    return int(arguments[3])


def _deafness(measured: Side, deaf: int, rounds: int) -> Deafness:
    pushes = [measured.push() for _ in range(rounds)]
    mine = _figures(measured, pushes)
    return Deafness(deaf, mine.push_median, mine.push_p99, mine.push_last, mine.memory)


class Churn(NamedTuple):
    """
    Pods that come and go while each of many policies is in force for its own.

    `median` to `last` are the seconds that a new pod waits until it is served; `cpu_share` is what the server spends
    on that, of one core; `push_cpu` what a change of one policy costs, with all streams looking whether it is theirs.
    """

    variant: str
    policies: int
    streams: int
    per_second: int
    cold_start: float
    median: float
    p99: float
    last: float
    cpu_share: float
    push_cpu: float
    memory_before: float
    memory: float


def measure_churn(variant: str, *, policies: int, streams: int, per_second: int, seconds: int, rounds: int) -> Churn:
    """Replace pods, oldest first, while each of `policies` is in force for its own; then change one policy."""
    with side("ours", variant, 10, policies=policies) as ours:
        ours.connect(streams)
        memory, before = ours.server.memory, ours.server.cpu
        for loader in ours.loaders:
            loader.order({"churn": per_second // _LOADERS, "seconds": seconds, "step": _LOADERS})
        answers = [loader.hear() for loader in ours.loaders]
        took = sorted(moment for answer in answers for moment in answer["took"])
        share = (ours.server.cpu - before) / max(answer["seconds"] for answer in answers)
        memory_after = ours.server.memory
        pushes = [ours.nudge() for _ in range(rounds)]
        return Churn(
            variant,
            policies,
            streams,
            per_second,
            ours.cold_start,
            percentile(took, 0.5),
            percentile(took, 0.99),
            took[-1],
            share,
            statistics.median(pushes),
            memory,
            memory_after,
        )


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe
