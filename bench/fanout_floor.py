"""
What `fanout` measures against: grpc.aio and nothing else.

It writes bytes that were serialised before, the same to every stream, keeps no state and looks at no request. The file
on the command line holds, as hexadecimal lines, the answers to the first two requests and what a push says.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from fanout_orders import METHODS, SERVICE, obey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    Context = grpc.aio.ServicerContext[bytes, bytes]


class Floor:
    """A server of given bytes."""

    def __init__(self, variant: str, first: list[bytes], pushed: bytes) -> None:
        self._first, self._pushed = first, pushed
        self._contexts: set[Context] = set()
        self._writes: set[asyncio.Future[None]] = set()
        # With fewer pending requests, gRPC refuses most of those who come at once. All else is as it ships.
        limits = (("grpc.server.max_pending_requests", 20_000), ("grpc.server.max_pending_requests_hard_limit", 50_000))
        self._server = grpc.aio.server(options=(("grpc.so_reuseport", 0), *limits))
        method: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(self._serve)
        handlers = grpc.method_handlers_generic_handler(SERVICE, {METHODS[variant]: method})
        self._server.add_generic_rpc_handlers((handlers,))

    async def start(self) -> int:
        """Listen on a free port of loopback and return it."""
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return port

    def prepare(self) -> None:
        """Do nothing: the bytes are there."""

    def push(self) -> None:
        """Write to everybody."""
        for context in self._contexts:
            write = asyncio.ensure_future(context.write(self._pushed))
            self._writes.add(write)
            write.add_done_callback(self._writes.discard)

    async def _serve(self, requests: AsyncIterator[bytes], context: Context) -> None:
        said = 0
        self._contexts.add(context)
        try:
            async for _ in requests:
                if said < len(self._first):
                    await context.write(self._first[said])
                    said += 1
        finally:
            self._contexts.discard(context)


async def main(variant: str, first: list[bytes], pushed: bytes) -> None:
    """Serve until standard input ends."""
    await obey(Floor(variant, first, pushed))


if __name__ == "__main__":
    *clusters_and_listeners, push = map(bytes.fromhex, Path(sys.argv[2]).read_text(encoding="ascii").split())
    asyncio.run(main(sys.argv[1], clusters_and_listeners, push))
