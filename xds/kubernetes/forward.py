"""
A port of a pod, as a unix socket of this machine: what `kubectl port-forward` does with a port.

Source: Kubernetes, `pods/portforward` over web sockets with the subprotocol `v4.channel.k8s.io`: each message begins
with the number of its channel, 0 for data and 1 for what went wrong; the first message on either names the port. Each
connection gets a web socket of its own. Nothing here knows what is said through it.

Invariants: whoever connects speaks with the caller's rights, so nobody but the same user can (a port of the loopback
interface would be everybody's); and the socket is gone with the `Forward`.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import TYPE_CHECKING
from urllib.parse import quote

import aiohttp

from xds.errors import UnreachableError, clean_text
from xds.kubernetes.asking import FORBIDDEN, NOT_FOUND
from xds.kubernetes.connection import ApiError
from xds.render.said import redact_said

if TYPE_CHECKING:
    from xds.kubernetes.connection import ApiServer

PROTOCOL = "v4.channel.k8s.io"

_DATA, _ERROR = b"\x00", b"\x01"
_PIECE = 32 * 1024
"""Bytes of a message; a kubelet takes no more than some tens of kilobytes at once."""
_MAX_BRIDGES = 8
"""Connections at a time; one is used for gRPC, and one after the other for pages."""
_MAX_STALL = 10.0
"""Seconds for which either end may take nothing of what the other one says."""
_MAX_TEXT = 300
"""Characters of what the cluster says."""


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
        self._held = ExitStack()
        self.problem = ""
        """What went wrong last, in the words of the cluster; empty: nothing did."""

    async def open(self) -> str:
        """Return the path of the socket. Raises UnreachableError."""
        try:
            self._spare = await self._connect()
        except ApiError as error:
            raise self._explain(error) from error
        try:
            return await self._listen()
        except OSError as error:
            await _close(self._spare)
            raise UnreachableError(
                f"no socket can be made in {gettempdir()} ({error.strerror or error}); name another directory, with a "
                "short path: TMPDIR"
            ) from error

    async def _listen(self) -> str:
        with ExitStack() as held:
            path = str(Path(held.enter_context(TemporaryDirectory(prefix="egress-xds-"))) / "forward")
            self._server = await asyncio.start_unix_server(self._accept, path)
            self._held = held.pop_all()
        return path

    async def close(self) -> None:
        """End all connections."""
        if self._server is not None:
            self._server.close()
        self._held.close()
        for bridge in self._bridges:
            bridge.cancel()
        if self._bridges:
            await asyncio.wait(self._bridges)
        if self._spare is not None:
            await _close(self._spare)

    async def _connect(self) -> aiohttp.ClientWebSocketResponse:
        path = f"/api/v1/namespaces/{quote(self._namespace)}/pods/{quote(self._pod)}/portforward"
        return await self._api.open_socket(path, {"ports": str(self._port)}, PROTOCOL)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._bridges) >= _MAX_BRIDGES:
            writer.transport.abort()
            return
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
            await _close(socket)

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
                text = clean_text(redact_said(rest.decode(errors="replace").strip()))[:_MAX_TEXT]
                self.problem = (
                    f"port {self._port} of the pod {self._namespace}/{self._pod} can't be reached: {text}; does it "
                    "listen there? See --admin-listen"
                )
                return
            elif channel == _DATA and not await _hand_on(rest, writer):
                return

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


async def _hand_on(piece: bytes, writer: asyncio.StreamWriter) -> bool:
    """Tell whether this side takes what the pod said, or will in time."""
    try:
        writer.write(piece)
        async with asyncio.timeout(_MAX_STALL):
            await writer.drain()
    except (TimeoutError, ConnectionError):
        # To close it would wait for what is not taken.
        writer.transport.abort()
        return False
    return True


async def _close(socket: aiohttp.ClientWebSocketResponse) -> None:
    """Close a web socket, whether or not its other end takes notice."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_MAX_STALL):
            await socket.close()


async def _send(reader: asyncio.StreamReader, socket: aiohttp.ClientWebSocketResponse) -> None:
    """Hand on what is said on this side, and end the web socket with it: there is no other way to say that it ends."""
    with suppress(OSError):
        while piece := await reader.read(_PIECE):
            await socket.send_bytes(_DATA + piece)
    await socket.close()
