"""
Fetches single pages over plain HTTP: metrics and probes of a control plane, and what an Envoy tells of itself.

Nothing here knows what a page means or changes anything. Invariant: however slowly or much the other end says, and
whatever part of its answer that is, it is left in time.
"""

from __future__ import annotations

import http.client
import socket
from contextlib import closing
from time import monotonic
from typing import TYPE_CHECKING

from xds.bootstrap import Authority, UnixPath
from xds.errors import UnreachableError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_BYTES = 64 << 20
"""The largest page that is kept."""
MAX_DUMP = 256 << 20
"""The same of all that an Envoy holds."""
_PIECE = 1 << 16


def fetch_page(place: Authority | UnixPath, target: str, *, within: float, most: int = 0) -> tuple[int, bytes]:
    """
    Return status and body of `target`, e.g. `/metrics`.

    Raises UnreachableError if they can't be had `within` that many seconds, or if there are more than `most` bytes (0:
    `MAX_BYTES`).
    """
    try:
        return ask(place, target, within=within, most=most or MAX_BYTES)
    except TimeoutError as error:
        raise UnreachableError(f"{describe_place(place)} did not answer {target} within {within:g} s") from error
    except (OSError, http.client.HTTPException) as error:
        raise UnreachableError(
            f"{describe_place(place)} can't be asked for {target}: {describe_failure(error)}"
        ) from error


def ask(place: Authority | UnixPath, target: str, *, within: float, most: int) -> tuple[int, bytes]:
    """Do the same. Raises TimeoutError, OSError (also for what is too large) and HTTPException."""
    connection = _Connection(place, monotonic() + within)
    with closing(connection):
        connection.request("GET", target)
        # The answer keeps the connection open, if it is the last one.
        with closing(connection.getresponse()) as response:
            return response.status, _read(response, most)


def describe_failure(error: OSError | http.client.HTTPException) -> str:
    """Say in short why a page could not be had."""
    return error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__


def describe_place(place: Authority | UnixPath) -> str:
    """Return a place as people write it."""
    match place:
        case UnixPath(path=path):
            return path
        case Authority(host=host, port=port):
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _read(response: http.client.HTTPResponse, most: int) -> bytes:
    pieces, size = [], 0
    while piece := response.read1(_PIECE):
        size += len(piece)
        if size > most:
            raise OSError(0, f"the answer is larger than {most >> 20} MiB")
        pieces.append(piece)
    return b"".join(pieces)


class _Socket(socket.socket):
    """One that hears nothing after its deadline, however much there is to hear."""

    deadline = 0.0

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        """Wait no longer than until the deadline. Raises TimeoutError."""
        self.settimeout(_left(self.deadline))
        return super().recv_into(buffer, nbytes, flags)


class _Connection(http.client.HTTPConnection):
    """One that has to be done by a deadline, and may go to a unix socket."""

    def __init__(self, place: Authority | UnixPath, deadline: float) -> None:
        host, port = (place.host, place.port) if isinstance(place, Authority) else ("localhost", None)
        super().__init__(host, port)
        self._place, self._deadline = place, deadline

    def connect(self) -> None:
        """Connect to the place."""
        self.timeout = _left(self._deadline)
        match self._place:
            case UnixPath(path=path):
                self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                self.sock.settimeout(self.timeout)
                self.sock.connect(path)
            case Authority():
                super().connect()
        bounded = _Socket(fileno=self.sock.detach())
        bounded.deadline = self._deadline
        bounded.settimeout(_left(self._deadline))
        self.sock = bounded


def _left(deadline: float) -> float:
    left = deadline - monotonic()
    if left <= 0:
        raise TimeoutError
    return left
