"""
The HTTPS server that the API server asks: bounds, time and threads; which path asks what is handed in.

Deciding runs in few threads of its own, so that it takes nothing from the streams, and what is decided at one path
takes nothing from another. Invariants: whoever asks is answered within the time that he gave; where a decision takes
longer, or too many are waited for, the answer is the one that was handed in for that. As many objects are parsed at a
time as there are threads: whoever waits does so as the bytes that were sent, whose sum is bounded. What was sent is
never logged.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING

import structlog
from aiohttp import web

from xds.admission.budget import Budget
from xds.admission.connections import Connections
from xds.admission.review import MalformedReviewError, read_review, render_answer
from xds.errors import ListenError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from aiohttp.typedefs import Handler, Middleware

    from xds.admission.certificate import ServerCertificate
    from xds.admission.review import Review, Reviewer, Verdict
    from xds.flags import HostPort

VALIDATE_POLICY = "/validate-policy"
"""Where ConfigMaps with policies are reviewed."""
INJECT = "/inject"
"""Where pods get their sidecars."""

MAX_BYTES = 3 << 20
"""The largest body: the API server takes objects of 1.5 MiB, and an update sends two."""
MAX_POD_BYTES = 7 << 18
"""The largest body about a pod that is made: one object, and a quarter of a MiB for what is around it."""
MOST_HELD = 16 << 20
"""Bytes of bodies at a time, from before they are read to their answers."""
MOST_HELD_OF_ONE = 4 << 20
"""Those from one address; any body alone is within it."""

_THREADS = 2
"""For each path."""
_HANDSHAKE, _BODY, _STOP = 5.0, 5.0, 1.0
"""Seconds. An API server has sent a body as soon as it has begun to; whoever is slower keeps others from being read."""
_TIMEOUT = re.compile(r"([1-9]|[12][0-9]|30)s")
_DEFAULT_TIMEOUT = 10
"""Seconds that the API server waits at most (`timeoutSeconds`), and it says how many."""
_SHARE = 0.8
"""Of these, for all that is done here."""

_log = structlog.stdlib.get_logger(__name__)


class Outcome(Enum):
    """What became of a question, for metrics."""

    ALLOWED = "allowed"
    INJECTED = "injected"
    LEFT_ALONE = "left_alone"
    REFUSED = "refused"
    NOT_YET = "not_yet"
    """Refused for now: something that decides is not known."""
    UNDECIDED = "undecided"
    """Nothing was decided in time."""
    UNREAD = "unread"
    """There was no room for the body in time, or it did not come."""
    MALFORMED = "malformed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What is decided at one path, and what is answered where nothing was decided in time."""

    reviewer: Reviewer
    undecided: Verdict
    prepare: Callable[[Review], Awaitable[None]] | None = None
    """
    Waits for what the reviewer wants to know; half of the time that is left is its own, then it goes on without.

    It is told of no object, for none is kept meanwhile.
    """
    most_waiting: int = 32
    """Questions at a time; those beyond are undecided at once."""
    most_bytes: int = MAX_BYTES
    """Of a body."""
    unchanged: Outcome = Outcome.ALLOWED
    """What it is called that an object is allowed as it is."""


class AdmissionServer:
    """Serves reviews, by path, and `/healthz`."""

    def __init__(self, desks: Mapping[str, Desk], certificate: ServerCertificate) -> None:
        """Take what decides at each path; nothing is started."""
        self._connections = Connections()
        application = web.Application(client_max_size=MAX_BYTES, middlewares=[self._middleware()])
        application.router.add_get("/healthz", _tell_health)
        self._clerks = {path: _Clerk(desk) for path, desk in desks.items()}
        for path, clerk in self._clerks.items():
            application.router.add_post(path, self._handler(path, clerk))
        self._runner = web.AppRunner(
            application, access_log=None, handle_signals=False, shutdown_timeout=_STOP, auto_decompress=False
        )
        self._certificate = certificate
        self._budget = Budget(MOST_HELD, MOST_HELD_OF_ONE)
        self._parser = ThreadPoolExecutor(1, thread_name_prefix="admission-parser")
        self.was_asked = False
        """Whether somebody asked anything: whoever did will go on for a moment after he is told of another replica."""
        self.outcomes = Counter({(path, outcome): 0 for path, desk in desks.items() for outcome in _outcomes_of(desk)})
        """How many questions there were, by path and by what became of them."""
        self._listening: asyncio.Server | None = None

    async def start(self, listen: HostPort) -> int:
        """Listen, on any port if it is 0, and return the port. Raises ListenError."""
        await self._runner.setup()
        try:
            self._listening = await asyncio.get_running_loop().create_server(
                self._accept,
                listen.host,
                listen.port,
                ssl=self._certificate.context,
                ssl_handshake_timeout=_HANDSHAKE,
            )
        except OSError as error:
            await self._runner.cleanup()
            reason = error.strerror or str(error)
            raise ListenError(
                f"can't listen on {listen}: {reason}; choose another --admission-listen, or none"
            ) from error
        taken: int = self._listening.sockets[0].getsockname()[1]
        _log.info("reviews for the API server", address=listen.host, port=taken)
        return taken

    async def stop(self) -> None:
        """Answer what was asked already, if that is soon, and close every connection."""
        if self._listening is not None:
            self._listening.close()
        await self._runner.cleanup()
        self._parser.shutdown(wait=False, cancel_futures=True)
        for clerk in self._clerks.values():
            clerk.stop()

    def _accept(self) -> asyncio.BaseProtocol:
        serve = self._runner.server
        assert serve is not None, "the runner is set up before anybody connects"
        return self._connections.admit(serve())

    def _middleware(self) -> Middleware:
        @web.middleware
        async def watch(request: web.Request, handler: Handler) -> web.StreamResponse:
            transport = request.transport
            self._connections.begin(transport)
            try:
                return await handler(request)
            finally:
                self._connections.end(transport)

        return watch

    def _handler(self, path: str, clerk: _Clerk) -> Handler:
        async def answer(request: web.Request) -> web.StreamResponse:
            deadline = asyncio.get_running_loop().time() + _SHARE * _timeout_of(request)
            try:
                async with self._budget.hold(request.remote or "", _size_of(request, clerk.desk), deadline):
                    body = await _read(request, deadline)
                    head = await self._read_head(body, deadline)
                    verdict = await clerk.decide(head, body, deadline)
            except (MalformedReviewError, web.HTTPRequestEntityTooLarge) as error:
                self.outcomes[path, Outcome.MALFORMED] += 1
                if isinstance(error, web.HTTPException):
                    raise
                return web.Response(status=HTTPStatus.BAD_REQUEST, text=f"{error}\n")
            except TimeoutError:
                self.outcomes[path, Outcome.UNREAD] += 1
                return web.Response(status=HTTPStatus.REQUEST_TIMEOUT, text="the body was not read in time\n")
            self.outcomes[path, _outcome_of(verdict, clerk.desk)] += 1
            _tell(head, verdict, is_decided=verdict is not clerk.desk.undecided)
            return web.Response(body=render_answer(head, verdict), content_type="application/json")

        return answer

    async def _read_head(self, body: bytes, deadline: float) -> Review:
        """Return the question without its objects. Raises MalformedReviewError and TimeoutError."""
        async with asyncio.timeout_at(deadline):
            head = await asyncio.get_running_loop().run_in_executor(self._parser, _parse_head, body)
        self.was_asked = True
        return head


class _Clerk:
    """Decides at one path, in threads of its own."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="admission")
        self._free = asyncio.Semaphore(_THREADS)
        self._judging: set[asyncio.Task[Verdict | str]] = set()
        self._waiting = 0

    def stop(self) -> None:
        for task in self._judging:
            task.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def decide(self, head: Review, body: bytes, deadline: float) -> Verdict:
        """Return the verdict, by `deadline` (of the loop's clock). Raises MalformedReviewError."""
        if self._waiting >= self.desk.most_waiting:
            return self.desk.undecided
        self._waiting += 1
        try:
            await self._prepare(head, deadline)
            # A thread can't be stopped. What it decides too late is nobody's, but it goes on to be one of the few.
            judging = asyncio.create_task(self._judge(body, deadline))
            self._judging.add(judging)
            judging.add_done_callback(self._forget)
            async with asyncio.timeout_at(deadline):
                found = await asyncio.shield(judging)
        except TimeoutError:
            return self.desk.undecided
        finally:
            self._waiting -= 1
        if isinstance(found, str):
            raise MalformedReviewError(found)
        return found

    async def _judge(self, body: bytes, deadline: float) -> Verdict | str:
        """Return the verdict, or why there can be none: an exception would keep the object for as long as itself."""
        async with asyncio.timeout_at(deadline):
            await self._free.acquire()
        try:
            run = partial(asyncio.get_running_loop().run_in_executor, self._threads)
            return await run(self.desk.reviewer(await run(read_review, body)))
        except MalformedReviewError as error:
            return str(error)
        finally:
            self._free.release()

    def _forget(self, judging: asyncio.Task[Verdict | str]) -> None:
        self._judging.discard(judging)
        if not judging.cancelled():
            judging.exception()  # whoever asked has it, if he still waits

    async def _prepare(self, head: Review, deadline: float) -> None:
        if self.desk.prepare is not None:
            now = asyncio.get_running_loop().time()
            with suppress(TimeoutError):
                async with asyncio.timeout_at((now + deadline) / 2):
                    await self.desk.prepare(head)


def _size_of(request: web.Request, desk: Desk) -> int:
    """Return how large a body can be. Raises HTTPRequestEntityTooLarge."""
    size = desk.most_bytes if request.content_length is None else request.content_length
    if size > desk.most_bytes:
        raise web.HTTPRequestEntityTooLarge(desk.most_bytes, size)
    return size


async def _read(request: web.Request, deadline: float) -> bytes:
    """Return the body. Raises TimeoutError."""
    async with asyncio.timeout_at(min(deadline, asyncio.get_running_loop().time() + _BODY)):
        return await request.read()


def _parse_head(body: bytes) -> Review:
    return replace(read_review(body), new=None, old=None)


def _outcomes_of(desk: Desk) -> tuple[Outcome, ...]:
    changed = () if desk.unchanged is Outcome.ALLOWED else (Outcome.INJECTED, Outcome.NOT_YET)
    always = (Outcome.REFUSED, Outcome.UNDECIDED, Outcome.UNREAD, Outcome.MALFORMED)
    return (desk.unchanged, *changed, *always)


def _outcome_of(verdict: Verdict, desk: Desk) -> Outcome:
    if verdict is desk.undecided:
        return Outcome.UNDECIDED
    if not verdict.is_allowed:
        return Outcome.NOT_YET if verdict.is_passing else Outcome.REFUSED
    return Outcome.INJECTED if verdict.patch else desk.unchanged


async def _tell_health(_: web.Request) -> web.Response:
    return web.Response(text="ok\n")


def _timeout_of(request: web.Request) -> int:
    """Return how many seconds the API server waits; it adds this to the address that it asks."""
    found = _TIMEOUT.fullmatch(request.query.get("timeout", ""))
    return int(found[1]) if found else _DEFAULT_TIMEOUT


def _tell(review: Review, verdict: Verdict, *, is_decided: bool) -> None:
    log = _log.bind(operation=review.operation, kind=review.kind[2], namespace=review.namespace, name=review.name)
    if not is_decided and verdict.is_allowed:
        log.warning("review: allowed, for it took too long")
    elif not is_decided:
        log.warning("review: refused for now, for it took too long")
    elif verdict.is_passing:
        log.warning("review: refused for now")
    elif not verdict.is_allowed:
        log.info("review: refused")
    else:
        changes = len(verdict.patch)
        log.debug("review: allowed", warnings=len(verdict.warnings), changes=changes, dry_run=review.is_dry_run)
