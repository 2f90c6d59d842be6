"""
Ports of emulated pods, forwarded as a kubelet does it over web sockets (subprotocol `v4.channel.k8s.io`).

Channel 0 is data, channel 1 what went wrong; each begins with a message that repeats the port, in two bytes.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from aiohttp import WSMsgType, web

from tests.support.api_store import Refused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.api_requests import Target

PORT_FORWARD = "portforward"
PROTOCOL = "v4.channel.k8s.io"


async def forward_port(
    request: web.BaseRequest, target: Target, listening: Mapping[tuple[str, str, int], int]
) -> web.WebSocketResponse:
    """Bridge one web socket to the port that a pod listens on; without one, say so as a kubelet does."""
    port = int(request.query["ports"])
    pod = (target.namespace, target.name)
    if not any(known[:2] == pod for known in listening):
        raise Refused(404, "NotFound", f'pods "{target.name}" not found')
    socket = web.WebSocketResponse(protocols=(PROTOCOL,))
    await socket.prepare(request)
    for channel in (b"\x00", b"\x01"):
        await socket.send_bytes(channel + port.to_bytes(2, "little"))
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", listening[*pod, port])
    except (OSError, KeyError):
        await socket.send_bytes(b"\x01failed to connect to localhost:%d inside namespace: connection refused" % port)
        await socket.close()
        return socket
    sending = asyncio.create_task(_send(reader, socket))
    try:
        async for message in socket:
            if message.type is WSMsgType.BINARY and message.data[:1] == b"\x00":
                writer.write(message.data[1:])
                await writer.drain()
    finally:
        sending.cancel()
        writer.close()
    return socket


async def _send(reader: asyncio.StreamReader, socket: web.WebSocketResponse) -> None:
    with suppress(ConnectionError):
        while piece := await reader.read(2**15):
            await socket.send_bytes(b"\x00" + piece)
        await socket.close()
