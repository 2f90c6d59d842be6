"""
Asks a running Envoy, through its admin interface, what it holds. Nothing here changes that Envoy.

That interface answers whoever reaches it, so it is on loopback or on a unix socket as a rule; that of a pod is reached
by forwarding a port, or what it answers is kept in a file and read by `read_config_dump`.
"""

from __future__ import annotations

import http.client
import socket
import sys
from contextlib import closing
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from xds.bootstrap import Authority, UnixPath, parse_authority
from xds.errors import SettingsError, UnreachableError
from xds.inspection.config_dump import parse_config_dump

if TYPE_CHECKING:
    from xds.inspection.config_dump import ConfigDump

STDIN = "-"
"""What stands for the standard input where a file is named."""

_TARGET = "/config_dump?include_eds"
_PIECE = 1 << 20


def parse_place(text: str) -> Authority | UnixPath:
    """Read where an admin interface is: `HOST:PORT` or the path of a unix socket. Raises SettingsError."""
    if "/" in text and "@" not in text and "//" not in text:
        return UnixPath(text)
    return parse_authority(text)


def ask_envoy(place: Authority | UnixPath, *, within: float) -> ConfigDump:
    """
    Return what the Envoy holds whose admin interface is at `place`.

    Raises UnreachableError if nobody answers there `within` that many seconds, or somebody else than an Envoy does.
    """
    where = _describe(place)
    try:
        status, body = _get(place, monotonic() + within)
    except TimeoutError as error:
        raise UnreachableError(
            f"the admin interface at {where} did not answer completely within {within:g} s; give it longer: --timeout"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise UnreachableError(
            f"the admin interface at {where} can't be asked ({reason}); is an Envoy running there? That of a pod: "
            "kubectl port-forward POD 15000, or keep its answer in a file for --config-dump"
        ) from error
    if status != http.client.OK:
        raise UnreachableError(
            f"{where} answers {_TARGET} with the status {status}; is this the admin interface of an Envoy? "
            f"Try: {_command(place)}"
        )
    try:
        return parse_config_dump(body)
    except ValueError as error:
        raise UnreachableError(
            f"what {where} answers can't be used: {error}; is this the admin interface of an Envoy? "
            f"Try: {_command(place)}"
        ) from None


def read_config_dump(path: str) -> ConfigDump:
    """Read what an Envoy answered; `-` is the standard input. Raises SettingsError."""
    name = "standard input" if path == STDIN else path
    try:
        body = _read_stdin() if path == STDIN else Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(f"--config-dump {name} can't be read: {error.strerror}; correct the path") from error
    try:
        return parse_config_dump(body)
    except ValueError as error:
        raise SettingsError(
            f"--config-dump {name} can't be used: {error}; write it anew: "
            f"curl --silent --output FILE 'localhost:15000{_TARGET}'"
        ) from None


def _read_stdin() -> bytes:
    """Read all of it; there is none if it was closed before the start."""
    return b"" if sys.stdin is None else sys.stdin.buffer.read()


def _describe(place: Authority | UnixPath) -> str:
    match place:
        case UnixPath(path=path):
            return path
        case Authority(host=host, port=port):
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _command(place: Authority | UnixPath) -> str:
    match place:
        case UnixPath(path=path):
            return f"curl --unix-socket {path} localhost/server_info"
        case Authority():
            return f"curl {_describe(place)}/server_info"


def _get(place: Authority | UnixPath, deadline: float) -> tuple[int, bytes]:
    connection = _Connection(place, deadline)
    with closing(connection):
        connection.request("GET", _TARGET)
        # The answer keeps the connection open, if it is the last one.
        with closing(connection.getresponse()) as response:
            pieces = []
            while piece := response.read1(_PIECE):
                pieces.append(piece)
                connection.renew()
            return response.status, b"".join(pieces)


class _Connection(http.client.HTTPConnection):
    """One that has to be done by a deadline, however slowly its other end speaks."""

    def __init__(self, place: Authority | UnixPath, deadline: float) -> None:
        host, port = (place.host, place.port) if isinstance(place, Authority) else ("localhost", None)
        super().__init__(host, port)
        self._place, self._deadline = place, deadline
        # `sock` is forgotten as soon as the answer begins, if that is the last one.
        self._socket: socket.socket | None = None

    def connect(self) -> None:
        """Connect to the place."""
        self.timeout = self._left()
        match self._place:
            case UnixPath(path=path):
                self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                self.sock.settimeout(self.timeout)
                self.sock.connect(path)
            case Authority():
                super().connect()
        self._socket = self.sock

    def renew(self) -> None:
        """Wait for the next piece no longer than until the deadline. Raises TimeoutError."""
        if self._socket is not None:
            self._socket.settimeout(self._left())

    def _left(self) -> float:
        left = self._deadline - monotonic()
        if left <= 0:
            raise TimeoutError
        return left
