"""
Everything for operators, started and stopped together: the gRPC side and the HTTP side.

It is up before the first world and until after the last stream, so that a server which can't get ready or can't end
is able to say why. Its two default addresses are taken if they are free, because several servers may run on one
machine; an address that somebody chose must be had.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import structlog

from xds.admin.csds import ClientStatus
from xds.admin.http import HttpServer
from xds.admin.pages import build_pages
from xds.admin.server import AdminServer, Health
from xds.errors import ListenError
from xds.settings import DEFAULT_ADMIN, DEFAULT_HTTP

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from xds.admin.metrics import Observed
    from xds.flags import HostPort
    from xds.settings import Settings

_log = structlog.stdlib.get_logger(__name__)


class Administration:
    """The ports for operators. Create it inside a running loop; `check` raises ListenError if an address is taken."""

    def __init__(self, observed: Observed, settings: Settings, *, check: Callable[[HostPort], None]) -> None:
        self._settings = settings
        self._check = check
        self.observed = observed
        self.readiness = observed.readiness
        self.health = Health(observed.readiness)
        status = ClientStatus(observed.clients, observed.cache, replica=settings.identifier or socket.gethostname())
        self._grpc = AdminServer(status, self.health)
        self._http = HttpServer(build_pages(observed))
        self.admin_port: int | None = None
        """The port of the gRPC side; None: it does not listen."""
        self.http_port: int | None = None
        """The port of the HTTP side; None: it does not listen."""

    async def start(self) -> None:
        """Listen where the settings say. Raises ListenError."""
        await self.health.update()
        settings = self._settings
        if settings.admin_listen is not None:
            _warn_if_open(settings.admin_listen)
            self.admin_port = await self._listen(settings.admin_listen, DEFAULT_ADMIN, self._start_grpc)
        if settings.http_listen is not None:
            self.http_port = await self._listen(settings.http_listen, DEFAULT_HTTP, self._start_http)

    async def end(self) -> None:
        """Say that no new clients are wanted, everywhere."""
        self.readiness.note_ending()
        await self.health.update()

    async def stop(self) -> None:
        """Close both ports."""
        await self._http.stop()
        await self._grpc.stop()

    async def _listen(
        self, address: HostPort, default: HostPort, start: Callable[[HostPort], Awaitable[int]]
    ) -> int | None:
        try:
            await asyncio.to_thread(self._check, address)
            return await start(address)
        except ListenError as error:
            if address != default:
                raise
            _log.warning("an address for operators is not served", address=str(address), reason=str(error))
            return None

    async def _start_grpc(self, address: HostPort) -> int:
        return await self._grpc.start(str(address))

    async def _start_http(self, address: HostPort) -> int:
        return await self._http.start(address.host, address.port)


def _warn_if_open(address: HostPort) -> None:
    if not address.is_loopback:
        _log.warning(
            "client status is not for sidecars, and asks nobody who he is: whoever reaches this address can read what "
            "every client is told, but for secrets",
            address=str(address),
        )
