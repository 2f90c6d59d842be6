"""Asking an admin interface: a real answer is read, and whatever else there is, is described with the next command."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from contextlib import contextmanager
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from xds.bootstrap import Authority, UnixPath
from xds.errors import SettingsError, UnreachableError
from xds.inspection import envoy_admin
from xds.inspection.envoy_admin import ask_envoy, parse_place, read_config_dump

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Answer = Callable[[socket.socket], None]

RECORDED = Path(__file__).parents[1] / "data" / "envoy-1.40" / "config_dump.json"
CANARY = "s3cr3t-canary"
GOOD = RECORDED.read_bytes()


def respond(body: bytes, status: str = "200 OK") -> Answer:
    def answer(client: socket.socket) -> None:
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        client.sendall(head.encode() + f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n")

    return answer


def hang_up(client: socket.socket) -> None:
    del client


def say_nothing(client: socket.socket) -> None:
    client.recv(1)


def never_end(client: socket.socket) -> None:
    """Send a byte at a time, each in time, and never the last one."""
    pause = threading.Event()
    client.sendall(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
    with contextlib.suppress(OSError):
        while not pause.wait(0.05):
            client.sendall(b" ")


def speak_otherwise(client: socket.socket) -> None:
    client.sendall(b"220 mail.example ESMTP\r\n")


def break_off(client: socket.socket) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n" + GOOD[:100])


@contextmanager
def listening(answer: Answer, path: Path | None = None) -> Iterator[Authority | UnixPath]:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            request = self.request.recv(65536)
            assert request.startswith(b"GET /config_dump?include_eds HTTP/1.1\r\n")
            answer(self.request)

    if path is None:
        server: socketserver.BaseServer = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        assert isinstance(server.server_address, tuple)
        place: Authority | UnixPath = Authority("127.0.0.1", server.server_address[1])
    else:
        server = socketserver.ThreadingUnixStreamServer(str(path), Handler)
        place = UnixPath(str(path))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield place
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("is_socket", [False, True], ids=["a port", "a unix socket"])
def test_an_envoy_is_asked_for_all_that_it_holds(tmp_path: Path, is_socket: bool) -> None:
    with listening(respond(GOOD), tmp_path / "s" if is_socket else None) as place:
        dump = ask_envoy(place, within=10)

    assert (dump.node_id, len(dump.resources)) == ("web-0.shop", 4)
    assert dump == read_config_dump(str(RECORDED))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        pytest.param(
            respond(b"", "404 Not Found"), r"status 404.*curl 127\.0\.0\.1:\d+/server_info", id="another page"
        ),
        pytest.param(respond(CANARY.encode()), "not JSON.*curl", id="no JSON"),
        pytest.param(respond(b"{}"), "no answer of Envoy's /config_dump; is this", id="another JSON"),
        pytest.param(hang_up, "can't be asked .*kubectl port-forward", id="one that hangs up"),
        pytest.param(say_nothing, "did not answer completely within 0.4 s.*--timeout", id="one that says nothing"),
        pytest.param(never_end, "did not answer completely within 0.4 s", id="one that never ends"),
        pytest.param(speak_otherwise, "can't be asked .BadStatusLine.", id="no HTTP"),
        pytest.param(break_off, "not JSON", id="one that breaks off"),
    ],
)
def test_what_is_no_envoy_is_described(answer: Answer, message: str) -> None:
    with listening(answer) as place, pytest.raises(UnreachableError, match=message) as raised:
        ask_envoy(place, within=0.4)

    assert CANARY not in str(raised.value)
    assert raised.value.exit_code == 3


def test_an_address_where_nobody_listens_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    with pytest.raises(UnreachableError, match=rf"127\.0\.0\.1:{port} can't be asked \(Connection refused\)"):
        ask_envoy(Authority("127.0.0.1", port), within=5)
    with pytest.raises(UnreachableError, match=r"nowhere can.t be asked .No such file"):
        ask_envoy(UnixPath(str(tmp_path / "nowhere")), within=5)


def test_a_name_that_does_not_resolve_is_named() -> None:
    with pytest.raises(UnreachableError, match=r"envoy\.invalid:15000 can't be asked"):
        ask_envoy(Authority("envoy.invalid", 15000), within=5)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("127.0.0.1:15000", Authority("127.0.0.1", 15000)),
        ("[::1]:15000", Authority("::1", 15000)),
        ("envoy.example:80", Authority("envoy.example", 80)),
        ("/run/admin.sock", UnixPath("/run/admin.sock")),
        ("./admin.sock", UnixPath("./admin.sock")),
    ],
)
def test_a_place_is_an_address_or_a_path(text: str, place: Authority | UnixPath) -> None:
    assert parse_place(text) == place


@pytest.mark.parametrize("text", ["", "15000", "http://127.0.0.1:15000", f"http://me:{CANARY}@h:1", f"me:{CANARY}@h:1"])
def test_what_is_no_place_is_refused_without_a_login(text: str) -> None:
    with pytest.raises(SettingsError) as raised:
        parse_place(text)

    assert CANARY not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(None, "can't be read: No such file", id="no file"),
        pytest.param(CANARY, "can't be used.*curl", id="something else"),
    ],
)
def test_a_file_that_can_not_be_used_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "dump.json").write_text(content)

    with pytest.raises(SettingsError, match=f"--config-dump .*dump.json {message}") as raised:
        read_config_dump(str(tmp_path / "dump.json"))

    assert CANARY not in str(raised.value)


def test_what_is_too_large_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envoy_admin, "MAX_DUMP", 1 << 20)
    large = GOOD + b" " * (1 << 20)
    (tmp_path / "dump.json").write_bytes(large)
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(large)))

    with listening(respond(large)) as place, pytest.raises(UnreachableError, match="larger than 1 MiB"):
        ask_envoy(place, within=10)
    for path in (str(tmp_path / "dump.json"), "-"):
        with pytest.raises(SettingsError, match="it is larger than 1 MiB"):
            read_config_dump(path)
