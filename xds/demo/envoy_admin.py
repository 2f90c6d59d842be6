"""Asking a running Envoy through its admin interface on a unix socket. Nothing here changes that Envoy."""

from __future__ import annotations

import http.client
import re
import socket
from typing import TYPE_CHECKING
from urllib.parse import quote

from xds.demo.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_TIMEOUT = 10.0
"""Seconds."""


class EnvoyAdmin:
    """The admin interface at `path`. What does not answer is a LabError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, target: str) -> str:
        """Return the body of `GET target`, whatever its status."""
        connection = _UnixConnection(self.path)
        try:
            connection.request("GET", target)
            return connection.getresponse().read().decode()
        except (OSError, http.client.HTTPException) as error:
            raise LabError(f"Envoy's admin interface does not answer on {self.path}: {error}") from error
        finally:
            connection.close()

    def is_live(self) -> bool:
        """Whether Envoy has its whole configuration and serves it."""
        try:
            return self.get("/ready").strip() == "LIVE"
        except LabError:
            return False

    def counters(self, pattern: str) -> Mapping[str, int]:
        """Return the counters and gauges whose names match the regular expression `pattern`."""
        lines = (line.partition(": ") for line in self.get(f"/stats?filter={quote(pattern, safe='')}").splitlines())
        return {name: int(value) for name, _, value in lines if value.isdecimal()}

    def counter(self, name: str) -> int:
        """Return one counter; 0 as long as Envoy does not know it."""
        return self.counters(f"^{re.escape(name)}$").get(name, 0)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT)
        self.sock.connect(str(self._path))
