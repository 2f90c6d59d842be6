"""
A small HTTP server for pages that a program reads: metrics and probes.

h11 reads and writes HTTP; this module owns the sockets and sets limits: size of a request (h11's 16 KiB), time,
number of connections. It runs in the loop of the streams on purpose: a probe that is answered proves that the loop
turns. It knows no page; GET and HEAD are all that it does, so nothing can be changed through it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import h11
import structlog

from xds.errors import ListenError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_CONNECTIONS = 64
"""Connections at a time; further ones are closed at once."""

_READ = 65_536
_OK, _BAD_REQUEST, _NOT_FOUND, _NOT_ALLOWED = 200, 400, 404, 405

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Page:
    """What is answered to a request."""

    body: bytes
    status: int = _OK
    content_type: str = "text/plain; charset=utf-8"


class HttpServer:
    """
    Serves `pages`, by path.

    `patience` is how long a client may take, in seconds: for a request, for the answer, and between the two.
    """

    def __init__(self, pages: Mapping[str, Callable[[], Page]], *, patience: float = 30.0) -> None:
        self._pages = pages
        self._patience = patience
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> int:
        """Listen, on any port if it is 0, and return the port. Raises ListenError."""
        try:
            self._server = await asyncio.start_server(self._connected, host, port)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ListenError(
                f"can't listen on {host} port {port}: {reason}; choose another --http-listen, or none"
            ) from error
        taken: int = self._server.sockets[0].getsockname()[1]
        _log.info("metrics and probes", address=host, port=taken)
        return taken

    async def stop(self) -> None:
        """Close every connection."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._tasks) < MAX_CONNECTIONS:
            self._tasks.add(task)
            try:
                await self._converse(reader, writer)
            except (TimeoutError, ConnectionError, asyncio.CancelledError):
                # The client went away or took too long, or the server ends: what was not read is not waited for.
                writer.transport.abort()
            finally:
                self._tasks.discard(task)
        writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER)
        while True:
            async with asyncio.timeout(self._patience):
                request = await _read_request(connection, reader)
                if request is None:
                    return
                _answer(connection, writer, request, self._find(request))
                await writer.drain()
            if connection.our_state is h11.MUST_CLOSE or connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()

    def _find(self, request: h11.Request | Page) -> Page:
        if isinstance(request, Page):
            return request
        if request.method not in {b"GET", b"HEAD"}:
            return Page(b"only GET and HEAD are served\n", _NOT_ALLOWED)
        path = request.target.partition(b"?")[0].decode("ascii", "replace")
        page = self._pages.get(path)
        return Page(b"no such page\n", _NOT_FOUND) if page is None else page()


async def _read_request(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | Page | None:
    """Return the next request, whose body is left unread; None: the client is done; a page: what it gets for it."""
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            return Page(b"no usable request\n", error.error_status_hint)
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(_READ))
        elif isinstance(event, h11.Request):
            if connection.their_state is h11.SEND_BODY:
                try:
                    connection.next_event()  # the end of a request without a body
                except h11.RemoteProtocolError as error:
                    return Page(b"no usable request\n", error.error_status_hint)
            return event
        else:
            return None


def _answer(connection: h11.Connection, writer: asyncio.StreamWriter, request: h11.Request | Page, page: Page) -> None:
    headers = [
        ("Content-Type", page.content_type),
        ("Content-Length", str(len(page.body))),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
    ]
    if page.status == _NOT_ALLOWED:
        headers.append(("Allow", "GET, HEAD"))
    if connection.their_state is not h11.DONE:
        headers.append(("Connection", "close"))
    is_head = isinstance(request, h11.Request) and request.method == b"HEAD"
    events: list[h11.Event] = [h11.Response(status_code=page.status, headers=headers)]
    events += [] if is_head else [h11.Data(data=page.body)]
    for event in (*events, h11.EndOfMessage()):
        writer.write(connection.send(event) or b"")
