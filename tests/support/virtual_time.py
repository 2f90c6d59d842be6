"""
An event loop whose time is a number: it jumps to the next timer when there is nothing else to do.

Work for threads runs in the loop's own thread and takes `work_time` of that time, so a test sees what
overlaps. A loop in which nothing can happen any more is a failed test, not a hanging one.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Executor

T = TypeVar("T")


class _JumpingSelector(selectors.SelectSelector):
    """Instead of waiting, moves the time on."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "nothing can ever happen in this loop again"
        self.now += max(timeout, 0.0)
        return super().select(0)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """See the module."""

    work_time = 0.0
    """Seconds that each piece of work in a thread takes."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)
        self._at_work = 0
        self.most_at_work = 0
        """The largest number of pieces of work that overlapped."""

    def time(self) -> float:
        return self._jumping.now

    def run_in_executor(self, executor: Executor | None, func: Callable[..., T], *args: object) -> asyncio.Future[T]:
        del executor
        future: asyncio.Future[T] = self.create_future()
        self._at_work += 1
        self.most_at_work = max(self.most_at_work, self._at_work)

        def finish() -> None:
            self._at_work -= 1
            if future.cancelled():
                return
            try:
                future.set_result(func(*args))
            except Exception as error:  # noqa: BLE001  # a thread hands over whatever was raised in it
                future.set_exception(error)

        self.call_later(self.work_time, finish)
        return future


def run_virtually(main: Callable[[VirtualTimeLoop], Coroutine[object, object, T]]) -> T:
    """Run `main(loop)` in virtual time."""
    loops: list[VirtualTimeLoop] = []

    def make() -> VirtualTimeLoop:
        loops.append(VirtualTimeLoop())
        return loops[-1]

    with asyncio.Runner(loop_factory=make) as runner:
        runner.get_loop()
        return runner.run(main(loops[0]))
