"""
The HTTPS server that the API server asks: bounds, time and threads; which path asks what is handed in.

Deciding runs in few threads of its own, so that it takes nothing from the streams. Invariant: whoever asks is answered
within the time that he gave; where a decision takes longer, or too many are waited for, the object is allowed with a
warning, because a cluster that can't store its objects is worse off than one with a policy that is looked at later.
What was sent is never logged.
"""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import TYPE_CHECKING

import structlog
from aiohttp import web

from xds.admission.review import MalformedReviewError, Verdict, read_review, render_answer
from xds.errors import ListenError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from xds.admission.certificate import ServerCertificate
    from xds.admission.review import Review, Reviewer
    from xds.flags import HostPort

VALIDATE_POLICY = "/validate-policy"
"""Where ConfigMaps with policies are reviewed."""

MAX_BYTES = 3 << 20
"""The largest body: the API server takes objects of 1.5 MiB, and an update sends two."""

MAX_CONNECTIONS = 128
"""Connections at a time; an API server keeps few. Further ones are closed at once."""

_MAX_WAITING = 32
_THREADS = 2
_HANDSHAKE, _STOP = 10.0, 1.0
"""Seconds."""
_TIMEOUT = re.compile(r"([1-9]|[12][0-9]|30)s")
_DEFAULT_TIMEOUT = 10
"""Seconds that the API server waits at most (`timeoutSeconds`), and it says how many."""
_SHARE = 0.8
"""Of these, for all that is done here."""

_UNDECIDED = "egress-xds did not judge it in time; if it is bad, it won't come into force, and its status will say why"

_log = structlog.stdlib.get_logger(__name__)


class AdmissionServer:
    """Serves reviews, by path, and `/healthz`."""

    def __init__(self, reviewers: Mapping[str, Reviewer], certificate: ServerCertificate) -> None:
        """Take what decides at each path; nothing is started."""
        application = web.Application(client_max_size=MAX_BYTES)
        application.router.add_get("/healthz", _tell_health)
        for path, reviewer in reviewers.items():
            application.router.add_post(path, self._handler(reviewer))
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=_STOP)
        self._certificate = certificate
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="admission")
        self._listening: asyncio.Server | None = None
        self._waiting = 0

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
        _log.info("reviews of policies", address=listen.host, port=taken)
        return taken

    async def stop(self) -> None:
        """Answer what was asked already, if that is soon, and close every connection."""
        if self._listening is not None:
            self._listening.close()
        await self._runner.cleanup()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _accept(self) -> asyncio.BaseProtocol:
        serve = self._runner.server
        assert serve is not None, "the runner is set up before anybody connects"
        return serve() if len(serve.connections) < MAX_CONNECTIONS else _TurnedAway()

    def _handler(self, reviewer: Reviewer) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def answer(request: web.Request) -> web.StreamResponse:
            deadline = asyncio.get_running_loop().time() + _SHARE * _timeout_of(request)
            try:
                async with asyncio.timeout_at(deadline):
                    review = await asyncio.to_thread(read_review, await request.read())
                work = reviewer(review)
            except MalformedReviewError as error:
                return web.Response(status=HTTPStatus.BAD_REQUEST, text=f"{error}\n")
            except TimeoutError:
                return web.Response(status=HTTPStatus.REQUEST_TIMEOUT, text="the body did not come in time\n")
            verdict = await self._decide(work, deadline)
            _tell(review, verdict)
            return web.Response(body=render_answer(review, verdict), content_type="application/json")

        return answer

    async def _decide(self, work: Callable[[], Verdict], deadline: float) -> Verdict:
        if self._waiting >= _MAX_WAITING:
            return Verdict(warnings=(_UNDECIDED,))
        self._waiting += 1
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except TimeoutError:
            return Verdict(warnings=(_UNDECIDED,))
        finally:
            self._waiting -= 1


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


def _tell(review: Review, verdict: Verdict) -> None:
    log = _log.bind(operation=review.operation, kind=review.kind[2], namespace=review.namespace, name=review.name)
    if not verdict.is_allowed:
        log.info("review: refused")
    elif _UNDECIDED in verdict.warnings:
        log.warning("review: allowed, for it took too long")
    else:
        log.debug("review: allowed", warnings=len(verdict.warnings))
