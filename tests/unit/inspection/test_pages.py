"""A page is fetched completely and in time, or it is said why not."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager, suppress
from time import monotonic
from typing import TYPE_CHECKING

import pytest

from xds.bootstrap import Authority, UnixPath
from xds.errors import UnreachableError
from xds.inspection import pages
from xds.inspection.pages import describe_place, fetch_page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HEAD = b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"


@contextmanager
def serving(answer: Callable[[socket.socket], None], listener: socket.socket) -> Iterator[None]:
    """Read one request, and answer it."""

    def run() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            with suppress(OSError):  # whoever asked has heard enough
                answer(connection)

    with listener:
        thread = threading.Thread(target=run)
        thread.start()
        yield
        thread.join()


def loopback() -> tuple[socket.socket, Authority]:
    listener = socket.create_server(("127.0.0.1", 0))
    return listener, Authority("127.0.0.1", listener.getsockname()[1])


@pytest.mark.parametrize("status", [200, 503], ids=["good", "not ready"])
def test_status_and_body_are_returned(status: int) -> None:
    listener, place = loopback()
    with serving(lambda connection: connection.sendall(HEAD % (status, 4) + b"body"), listener):
        assert fetch_page(place, "/readyz", within=5) == (status, b"body")


def test_a_unix_socket_is_asked_as_well(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "admin.sock"))
    listener.listen()
    with serving(lambda connection: connection.sendall(HEAD % (200, 2) + b"ok"), listener):
        assert fetch_page(UnixPath(str(tmp_path / "admin.sock")), "/", within=5) == (200, b"ok")


def test_nobody_there_is_unreachable() -> None:
    listener, place = loopback()
    listener.close()

    with pytest.raises(UnreachableError, match="can't be asked for /metrics: Connection refused"):
        fetch_page(place, "/metrics", within=5)


def test_an_answer_that_takes_too_long_is_given_up_however_it_trickles() -> None:
    listener, place = loopback()
    done = threading.Event()

    def trickle(connection: socket.socket) -> None:
        connection.sendall(HEAD % (200, 1000))
        while not done.wait(0.05):
            connection.sendall(b"x")

    with serving(trickle, listener):
        try:
            with pytest.raises(UnreachableError, match=r"did not answer /metrics within 0\.3 s"):
                fetch_page(place, "/metrics", within=0.3)
        finally:
            done.set()


@pytest.mark.parametrize(
    ("first", "piece"),
    [
        pytest.param(b"", b"HTTP/1.1 100 Continue\r\n\r\n", id="never more than that it goes on"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: ", b"x", id="a header that never ends"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0", id="the length of a chunk"),
        pytest.param(b"", b"H", id="the first line"),
    ],
)
def test_every_part_of_an_answer_is_awaited_no_longer_than_the_deadline(first: bytes, piece: bytes) -> None:
    listener, place = loopback()
    done = threading.Event()

    def trickle(connection: socket.socket) -> None:
        connection.sendall(first)
        for _ in range(100):
            connection.sendall(piece)
            if done.wait(0.05):
                return

    started = monotonic()
    with serving(trickle, listener):
        try:
            with pytest.raises(UnreachableError, match=r"did not answer /metrics within 0\.3 s"):
                fetch_page(place, "/metrics", within=0.3)
            assert monotonic() - started < 2
        finally:
            done.set()


def test_an_answer_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "MAX_BYTES", 1 << 20)
    listener, place = loopback()
    with (
        serving(lambda connection: connection.sendall(HEAD % (200, 3 << 20) + b"x" * (2 << 20)), listener),
        pytest.raises(UnreachableError, match="larger than 1 MiB"),
    ):
        fetch_page(place, "/metrics", within=20)


def test_somebody_who_speaks_something_else_is_unreachable() -> None:
    listener, place = loopback()
    with (
        serving(lambda connection: connection.sendall(b"220 mail.example ESMTP\r\n"), listener),
        pytest.raises(UnreachableError, match="BadStatusLine"),
    ):
        fetch_page(place, "/metrics", within=5)


def test_places_are_written_as_people_write_them() -> None:
    assert describe_place(Authority("::1", 80)) == "[::1]:80"
    assert describe_place(Authority("a.example", 80)) == "a.example:80"
    assert describe_place(UnixPath("/a")) == "/a"
