"""
Fetches single pages over plain HTTP: metrics and probes of a control plane, and what an Envoy tells of itself.

Nothing here knows what a page means or changes anything. Invariant: a page is fetched completely and in time, or an
UnreachableError says why not.
"""

from __future__ import annotations

import http.client
import socket
from time import monotonic
from typing import TYPE_CHECKING

from xds.bootstrap import Authority, UnixPath
from xds.errors import UnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_BYTES = 64 * 1024 * 1024
"""The largest page that is kept."""
_PIECE = 1 << 16


def fetch_page(place: Authority | UnixPath, target: str, *, within: float) -> tuple[int, bytes]:
    """
    Return status and body of `target`, e.g. `/metrics`.

    Raises UnreachableError if they can't be had `within` that many seconds, or are larger than `MAX_BYTES`.
    """
    deadline = monotonic() + within

    def left() -> float:
        # Zero would mean not to wait at all, which sockets take for another mode.
        return max(deadline - monotonic(), 0.001)

    connection = _Connection(place, left())
    try:
        connection.request("GET", target)
        response = connection.getresponse()
        return response.status, _read(response, connection.held, left, deadline)
    except TimeoutError as error:
        raise UnreachableError(f"{describe_place(place)} did not answer {target} within {within:g} s") from error
    except (OSError, http.client.HTTPException) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise UnreachableError(f"{describe_place(place)} can't be asked for {target}: {reason}") from error
    finally:
        connection.close()


def describe_place(place: Authority | UnixPath) -> str:
    """Return a place as people write it."""
    match place:
        case UnixPath(path=path):
            return path
        case Authority(host=host, port=port):
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _read(
    response: http.client.HTTPResponse, held: socket.socket | None, left: Callable[[], float], deadline: float
) -> bytes:
    pieces, size = [], 0
    while piece := response.read1(_PIECE):
        size += len(piece)
        if size > MAX_BYTES:
            raise OSError(0, f"the answer is larger than {MAX_BYTES >> 20} MiB")
        if monotonic() > deadline:
            raise TimeoutError
        pieces.append(piece)
        if held is not None:
            held.settimeout(left())
    return b"".join(pieces)


class _Connection(http.client.HTTPConnection):
    """One that may go to a unix socket."""

    def __init__(self, place: Authority | UnixPath, timeout: float) -> None:
        host, port = (place.host, place.port) if isinstance(place, Authority) else ("localhost", None)
        super().__init__(host, port, timeout=timeout)
        self._place = place
        self.held: socket.socket | None = None
        """`sock` is forgotten as soon as the answer begins, if that is the last one."""

    def connect(self) -> None:
        """Connect to the place."""
        match self._place:
            case UnixPath(path=path):
                self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                self.sock.settimeout(self.timeout)
                self.sock.connect(path)
            case Authority():
                super().connect()
        self.held = self.sock
