"""How the processes of `fanout` talk: orders on standard input, answers in lines of JSON on standard output."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Protocol

SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
METHODS = {"sotw": "StreamAggregatedResources", "delta": "DeltaAggregatedResources"}


class Server(Protocol):
    """What every measured server can do."""

    async def start(self) -> int:
        """Listen on a free port of loopback and return it."""
        ...

    def prepare(self) -> None:
        """Make the next world, off the clock."""
        ...

    def push(self) -> None:
        """Give the next world to everybody."""
        ...


async def obey(server: Server) -> None:
    """Serve until standard input ends; each line of it is the order to push, answered with the moment."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    say({"port": await server.start()})
    while await reader.readline():
        server.prepare()
        at = time.monotonic()
        server.push()
        say({"at": at})


def say(answer: object) -> None:
    """Write one line of JSON."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
