"""
A proxy that misbehaves: one way on each port. Started by the tests with ADDRESS and WAY=PORT …; says `ready`.

Every request line that it gets is printed, so that the tests see what it was asked for.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

WAYS: Mapping[str, bytes] = {
    "login-wanted": b"HTTP/1.1 407 Login\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n",
    "forbidden": b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
    "bad-gateway": b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
    "unavailable": b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
    "half-a-line": b"HTTP/1.1 2",
    "long-headers": b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 3000 + b"\r\n\r\n",
    "old-version": b"HTTP/1.0 200 Connection established\r\n\r\n",
    "body": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "garbage": b"\x16\x03\x01\x00\x05 no HTTP at all \x00\xff",
    "close": b"",
    "hang": b"",
}
"""What each way answers. `hang` then waits, `old-version` and `long-headers` open a tunnel that echoes."""


async def serve(way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        request_line = head.decode("latin-1").splitlines()[0]
        sys.stdout.write(f"{way}: {request_line}\n")
        sys.stdout.flush()
        writer.write(WAYS[way])
        await writer.drain()
        while way in ("hang", "old-version", "long-headers") and (data := await reader.read(65536)):
            writer.write(data)
            await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def main(address: str, places: list[str]) -> None:
    """Listen for ever."""
    for place in places:
        way, _, port = place.partition("=")
        await asyncio.start_server(functools.partial(serve, way), address, int(port))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2:]))
