"""What the small HTTP server answers to programs, and what it does not put up with."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support.control_plane import PATIENCE
from xds.admin.http import MAX_CONNECTIONS, HttpServer, Page
from xds.errors import ListenError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PAGES = {"/page": lambda: Page(b"body"), "/bad": lambda: Page(b"no\n", 503)}


@asynccontextmanager
async def serving(patience: float = 10.0) -> AsyncIterator[int]:
    server = HttpServer(PAGES, patience=patience)
    port = await server.start("127.0.0.1", 0)
    try:
        yield port
    finally:
        await server.stop()


async def say(port: int, request: bytes) -> bytes:
    """Send `request` and return all that comes until the server closes."""
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        answer = await reader.read()
        writer.close()
    return answer


def request(method: str = "GET", path: str = "/page", *headers: str, body: str = "") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", *headers, "", body]
    return "\r\n".join(lines).encode()


CLOSE = "Connection: close"


@pytest.mark.parametrize(
    ("asked", "status", "body"),
    [
        pytest.param(request("GET", "/page", CLOSE), 200, b"body", id="a page"),
        pytest.param(request("GET", "/page?x=1", CLOSE), 200, b"body", id="a query changes nothing"),
        pytest.param(request("GET", "/bad", CLOSE), 503, b"no\n", id="a page that is not well"),
        pytest.param(request("HEAD", "/page", CLOSE), 200, b"", id="only the head"),
        pytest.param(request("GET", "/none", CLOSE), 404, b"no such page\n", id="no page"),
        pytest.param(request("GET", "/%2e%2e/page", CLOSE), 404, b"no such page\n", id="no path is decoded"),
        pytest.param(request("POST", "/page", CLOSE), 405, b"only GET and HEAD are served\n", id="another method"),
        pytest.param(request("GET", "/page", "Content-Length: 4", body="more"), 200, b"body", id="a body is not read"),
        pytest.param(b"nonsense\r\n\r\n", 400, b"no usable request\n", id="no HTTP"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 400, b"no usable request\n", id="no host"),
        pytest.param(b"GET /" + b"x" * 40_000, 431, b"no usable request\n", id="too large"),
    ],
)
async def test_a_request_is_answered(asked: bytes, status: int, body: bytes) -> None:
    async with serving() as port:
        head, _, found = (await say(port, asked)).partition(b"\r\n\r\n")

    assert (int(head.split()[1]), found) == (status, body)


async def test_a_connection_is_kept_for_further_requests() -> None:
    async with serving() as port:
        answer = await say(port, request() + request("GET", "/page", CLOSE))

    assert answer.count(b"HTTP/1.1 200") == 2


async def test_who_takes_too_long_is_cut_off() -> None:
    async with serving(patience=0.05) as port:
        assert await say(port, b"GET /page HT") == b""


async def test_there_are_only_so_many_connections_at_a_time() -> None:
    async with serving() as port, asyncio.timeout(PATIENCE):
        open_now = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MAX_CONNECTIONS)]
        for _, writer in open_now:
            writer.write(b"GET")
        refused = await say(port, b"")
        open_now[0][1].write(b" /page HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        served = await open_now[0][0].read()
        for _, writer in open_now:
            writer.close()

    assert refused == b""
    assert served.startswith(b"HTTP/1.1 200")


async def test_the_end_of_the_server_closes_connections() -> None:
    server = HttpServer(PAGES)
    port = await server.start("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /page")
    await server.stop()

    try:
        async with asyncio.timeout(PATIENCE):
            rest = await reader.read()
    except ConnectionError:  # a reset is an end, too
        rest = b""
    assert rest == b""


async def test_an_address_that_is_taken_is_named() -> None:
    message = "choose another --http-listen, or none"
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ListenError, match=message):
        await HttpServer(PAGES).start("127.0.0.1", taken.getsockname()[1])
