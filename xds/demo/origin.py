"""
The servers at the far end: HTTP with and without TLS, one that speaks first, and one that returns every byte.

Run as `python -m xds.demo.origin`. What they answer with shows what arrived: `/headers` returns the head of the
request byte for byte. They know nothing of proxies, and log one line per request.

Paths of the HTTP server: `/headers`; `/slow?bytes=N&seconds=S` (N bytes of `pattern`, spread over S seconds);
`/wait?seconds=S` (an answer after S seconds); anything else is a greeting.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import ssl
import sys
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

BANNER = b"220 mail.example.net is listening\r\n"
"""What the server that speaks first says."""

_SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
_BLOCK = hashlib.sha256(b"egress-xds").digest() * 32
_STEPS_PER_SECOND = 20
_MAX_HEAD = 65536


def pattern(length: int) -> bytes:
    """Return the `length` bytes that a slow answer consists of."""
    return (_BLOCK * (length // len(_BLOCK) + 1))[:length]


def main(arguments: Sequence[str]) -> None:
    """Serve until the process is ended. Each option names an `ADDRESS:PORT`, and may be repeated."""
    parser = argparse.ArgumentParser(prog="origin", description=main.__doc__)
    parser.add_argument("--name", default="origin")
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    for option in ("--http", "--https", "--banner", "--echo", "--tls-echo"):
        parser.add_argument(option, action="append", default=[], metavar="ADDRESS:PORT")
    asyncio.run(_serve(parser.parse_args(arguments)))


async def _serve(options: argparse.Namespace) -> None:
    context = None
    if options.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.certificate, options.key)
    plain, encrypted = _http(options.name, "plain HTTP"), _http(options.name, "TLS")
    servers = [
        *[await _listen(plain, place, None) for place in options.http],
        *[await _listen(encrypted, place, context) for place in options.https],
        *[await _listen(_greet, place, None) for place in options.banner],
        *[await _listen(_echo, place, None) for place in options.echo],
        *[await _listen(_echo, place, context) for place in options.tls_echo],
    ]
    _log("origin: ready")
    await asyncio.gather(*(server.serve_forever() for server in servers))


async def _listen(serve: Serve, place: str, context: ssl.SSLContext | None) -> asyncio.Server:
    host, _, port = place.rpartition(":")

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
            writer.close()
            await writer.wait_closed()
        except (OSError, asyncio.IncompleteReadError) as error:
            # The other side went away; the next connection is a new one.
            _log(f"origin: {place}: {type(error).__name__}")
            writer.close()

    return await asyncio.start_server(guarded, host.strip("[]"), int(port), ssl=context, limit=_MAX_HEAD)


def _http(name: str, how: str) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                return
            request_line = head.partition(b"\r\n")[0].decode("latin-1")
            _log(f"origin: {how}: {request_line}")
            if b"\r\nupgrade: websocket" in head.lower():
                writer.write(_SWITCH)
                await _echo(reader, writer)
                return
            await _answer(request_line, head, writer, f"{name} greets you over {how}.\n".encode())

    return serve


async def _answer(request_line: str, head: bytes, writer: asyncio.StreamWriter, greeting: bytes) -> None:
    target = urlsplit(request_line.split(" ")[1])
    query = {name: values[0] for name, values in parse_qs(target.query).items()}
    if target.path == "/slow":
        await _answer_slowly(writer, int(query["bytes"]), float(query["seconds"]))
        return
    if target.path == "/wait":
        await asyncio.sleep(float(query["seconds"]))
    body = head if target.path == "/headers" else greeting
    writer.write(_response_head(len(body)) + body)
    await writer.drain()


async def _answer_slowly(writer: asyncio.StreamWriter, length: int, seconds: float) -> None:
    body = pattern(length)
    writer.write(_response_head(length))
    steps = max(1, int(seconds * _STEPS_PER_SECOND))
    for step in range(steps):
        writer.write(body[step * length // steps : (step + 1) * length // steps])
        await writer.drain()
        await asyncio.sleep(seconds / steps)


def _response_head(length: int) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n".encode()


async def _greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    _log("origin: a client for the server that speaks first")
    writer.write(BANNER)
    await writer.drain()
    while line := await reader.readline():
        writer.write(b"250 " + line)
        await writer.drain()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_MAX_HEAD):
        writer.write(data)
        await writer.drain()


def _log(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
