"""
A port of a pod, as an address of this machine: what `kubectl port-forward` does.

Source: Kubernetes, `pods/portforward` over web sockets with the subprotocol `v4.channel.k8s.io`: each message begins
with the number of its channel, 0 for data and 1 for what went wrong; the first message on either names the port. Each
connection gets a web socket of its own. Nothing here knows what is said through it.

Invariant: the address is one of the loopback interface, and is gone with the `Forward`.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import quote

import aiohttp

from xds.errors import UnreachableError
from xds.kubernetes.asking import FORBIDDEN, NOT_FOUND
from xds.kubernetes.connection import ApiError

if TYPE_CHECKING:
    from xds.kubernetes.connection import ApiServer

PROTOCOL = "v4.channel.k8s.io"

_DATA, _ERROR = b"\x00", b"\x01"
_PIECE = 32 * 1024
"""Bytes of a message; a kubelet takes no more than some tens of kilobytes at once."""


class Forward:
    """
    One port of one pod. `open` it, and `close` it in the end.

    The first web socket is opened before the first connection, so that one who may not, or a pod that is not there, is
    known at once.
    """

    def __init__(self, api: ApiServer, namespace: str, pod: str, port: int) -> None:
        self._api = api
        self._namespace, self._pod, self._port = namespace, pod, port
        self._server: asyncio.Server | None = None
        self._spare: aiohttp.ClientWebSocketResponse | None = None
        self._bridges: set[asyncio.Task[None]] = set()
        self.problem = ""
        """What went wrong last, in the words of the cluster; empty: nothing did."""

    async def open(self) -> str:
        """Return the address, as `host:port`. Raises UnreachableError."""
        try:
            self._spare = await self._connect()
        except ApiError as error:
            raise self._explain(error) from error
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        return f"{host}:{port}"

    async def close(self) -> None:
        """End all connections."""
        if self._server is not None:
            self._server.close()
        for bridge in self._bridges:
            bridge.cancel()
        if self._bridges:
            await asyncio.wait(self._bridges)
        if self._spare is not None:
            await self._spare.close()

    async def _connect(self) -> aiohttp.ClientWebSocketResponse:
        path = f"/api/v1/namespaces/{quote(self._namespace)}/pods/{quote(self._pod)}/portforward"
        return await self._api.open_socket(path, {"ports": str(self._port)}, PROTOCOL)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        bridge = asyncio.create_task(self._bridge(reader, writer))
        self._bridges.add(bridge)
        bridge.add_done_callback(self._bridges.discard)

    async def _bridge(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            spare, self._spare = self._spare, None
            socket = spare if spare is not None and not spare.closed else await self._connect()
        except ApiError as error:
            self.problem = str(self._explain(error))
            writer.close()
            return
        sending = asyncio.create_task(_send(reader, socket))
        try:
            await self._receive(socket, writer)
        finally:
            sending.cancel()
            with suppress(OSError):
                writer.close()
            await socket.close()

    async def _receive(self, socket: aiohttp.ClientWebSocketResponse, writer: asyncio.StreamWriter) -> None:
        """Hand on what comes, until the pod's side ends."""
        begun: set[bytes] = set()
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.BINARY:
                continue
            channel, rest = message.data[:1], message.data[1:]
            if channel not in begun:
                begun.add(channel)  # it repeats the port
            elif channel == _ERROR:
                text = rest.decode(errors="replace").strip()
                self.problem = (
                    f"port {self._port} of the pod {self._namespace}/{self._pod} can't be reached: {text}; does it "
                    "listen there? See --admin-listen"
                )
                return
            elif channel == _DATA:
                with suppress(ConnectionError):
                    writer.write(rest)
                    await writer.drain()

    def _explain(self, error: ApiError) -> UnreachableError:
        pod = f"the pod {self._namespace}/{self._pod}"
        match error.status:
            case status if status == FORBIDDEN:
                return UnreachableError(
                    f"{pod} can't be asked: you may not forward its ports; allow the verbs get and create of "
                    f"pods/portforward in the namespace {self._namespace}: kubectl auth can-i create pods/portforward "
                    f"-n {self._namespace}"
                )
            case status if status == NOT_FOUND:
                return UnreachableError(f"{pod} is not there any more; try again")
            case _:
                return UnreachableError(f"{pod} can't be asked: {error.message} Try: kubectl port-forward")


async def _send(reader: asyncio.StreamReader, socket: aiohttp.ClientWebSocketResponse) -> None:
    """Hand on what is said on this side, and end the web socket with it: there is no other way to say that it ends."""
    with suppress(OSError):
        while piece := await reader.read(_PIECE):
            await socket.send_bytes(_DATA + piece)
    await socket.close()
