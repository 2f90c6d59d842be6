"""
The HTTPS server that the API server asks: bounds, time and threads; which path asks what is handed in.

Deciding runs in few threads of its own, so that it takes nothing from the streams, and what is decided at one path
takes nothing from another. Invariant: whoever asks is answered within the time that he gave; where a decision takes
longer, or too many are waited for, the answer is the one that was handed in for that. What was sent is never logged.
"""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

import structlog
from aiohttp import web

from xds.admission.review import MalformedReviewError, read_review, render_answer
from xds.errors import ListenError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from xds.admission.certificate import ServerCertificate
    from xds.admission.review import Review, Reviewer, Verdict
    from xds.flags import HostPort

VALIDATE_POLICY = "/validate-policy"
"""Where ConfigMaps with policies are reviewed."""
INJECT = "/inject"
"""Where pods get their sidecars."""

MAX_BYTES = 3 << 20
"""The largest body: the API server takes objects of 1.5 MiB, and an update sends two."""

MAX_CONNECTIONS = 512
"""
Connections at a time; further ones are closed at once.

An API server of usual settings has 200 changes under way at a time, and each asks over a connection of its own.
"""
_MAX_BODIES = 64
"""Bodies that are read at a time: together they bound the memory that this takes."""

_THREADS = 2
"""For each path."""
_HANDSHAKE, _BODY, _STOP = 10.0, 5.0, 1.0
"""Seconds. An API server has sent a body as soon as it has begun to; whoever is slower keeps others from being read."""
_TIMEOUT = re.compile(r"([1-9]|[12][0-9]|30)s")
_DEFAULT_TIMEOUT = 10
"""Seconds that the API server waits at most (`timeoutSeconds`), and it says how many."""
_SHARE = 0.8
"""Of these, for all that is done here."""

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What is decided at one path, and what is answered where nothing was decided in time."""

    reviewer: Reviewer
    undecided: Verdict
    prepare: Callable[[Review], Awaitable[None]] | None = None
    """Waits for what the reviewer wants to know; half of the time that is left is its own, then it goes on without."""
    most_waiting: int = 32
    """Questions at a time; those beyond are undecided at once."""


class AdmissionServer:
    """Serves reviews, by path, and `/healthz`."""

    def __init__(self, desks: Mapping[str, Desk], certificate: ServerCertificate) -> None:
        """Take what decides at each path; nothing is started."""
        application = web.Application(client_max_size=MAX_BYTES)
        application.router.add_get("/healthz", _tell_health)
        self._clerks = [_Clerk(desk) for desk in desks.values()]
        for path, clerk in zip(desks, self._clerks, strict=True):
            application.router.add_post(path, self._handler(clerk))
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=_STOP)
        self._certificate = certificate
        self._bodies = asyncio.Semaphore(_MAX_BODIES)
        self.was_asked = False
        """Whether somebody asked anything: whoever did will go on for a moment after he is told of another replica."""
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
        for clerk in self._clerks:
            clerk.stop()

    def _accept(self) -> asyncio.BaseProtocol:
        serve = self._runner.server
        assert serve is not None, "the runner is set up before anybody connects"
        return serve() if len(serve.connections) < MAX_CONNECTIONS else _TurnedAway()

    def _handler(self, clerk: _Clerk) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def answer(request: web.Request) -> web.StreamResponse:
            now = asyncio.get_running_loop().time()
            deadline = now + _SHARE * _timeout_of(request)
            try:
                async with asyncio.timeout_at(min(deadline, now + _BODY)), self._bodies:
                    review = await asyncio.to_thread(read_review, await request.read())
                self.was_asked = True
                verdict = await clerk.decide(review, deadline)
            except MalformedReviewError as error:
                return web.Response(status=HTTPStatus.BAD_REQUEST, text=f"{error}\n")
            except TimeoutError:
                return web.Response(status=HTTPStatus.REQUEST_TIMEOUT, text="the body did not come in time\n")
            _tell(review, verdict, is_decided=verdict is not clerk.desk.undecided)
            return web.Response(body=render_answer(review, verdict), content_type="application/json")

        return answer


class _Clerk:
    """Decides at one path, in threads of its own."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="admission")
        self._waiting = 0

    def stop(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def decide(self, review: Review, deadline: float) -> Verdict:
        """Return the verdict, by `deadline` (of the loop's clock). Raises MalformedReviewError."""
        if self._waiting >= self.desk.most_waiting:
            return self.desk.undecided
        self._waiting += 1
        try:
            await self._prepare(review, deadline)
            async with asyncio.timeout_at(deadline):
                return await asyncio.get_running_loop().run_in_executor(self._threads, self.desk.reviewer(review))
        except TimeoutError:
            return self.desk.undecided
        finally:
            self._waiting -= 1

    async def _prepare(self, review: Review, deadline: float) -> None:
        if self.desk.prepare is not None:
            now = asyncio.get_running_loop().time()
            with suppress(TimeoutError):
                async with asyncio.timeout_at((now + deadline) / 2):
                    await self.desk.prepare(review)


class _TurnedAway(asyncio.Protocol):
    """One connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


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
