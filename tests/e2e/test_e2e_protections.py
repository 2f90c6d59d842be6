"""What protects an Envoy and its applications: limits, a calm end, QUIC that gives way, large first messages."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import (
    API,
    ECHO_PORT,
    FILES,
    SERVER,
    CorporateProxy,
    ProxyKind,
    World,
    open_lab,
    render_policy,
    start_broker,
    start_origins,
)
from xds.demo.cast import apply_capture, save_policy, start_control_plane, start_envoy, start_proxy
from xds.demo.lab import API_ADDRESS, API_ADDRESS_6, Namespace
from xds.demo.polling import wait_until
from xds.demo.site import NAMESPACES
from xds.names import OUTBOUND_PORT

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

ANYWHERE = pytest.mark.parametrize("shared_world", [ProxyKind.EMBEDDED], indirect=True, ids=["embedded"])
LIMIT = 4
RECORD = 16384
"""The most that a TLS record holds (RFC 8446, section 5.1)."""


@contextlib.contextmanager
def open_limited(*bootstrap_options: str) -> Iterator[World]:
    """Build a world whose Envoy is started with limits."""
    with open_lab() as lab:
        program = start_proxy(lab, NAMESPACES)
        start_origins(lab)
        save_policy(lab, "policy.yaml", render_policy("[{name: near, to: {cidrs: [10.78.0.0/24]}, action: direct}]"))
        control_plane = start_control_plane(lab, SERVER)
        sidecar = start_envoy(lab, SERVER, bootstrap_options=bootstrap_options)
        sidecar.wait_until_live()
        apply_capture(lab)
        start_broker(lab)
        proxy = CorporateProxy(ProxyKind.EMBEDDED, program, program.log)
        yield World(lab, proxy, control_plane, sidecar, lab.leaked_packets())


@pytest.fixture(scope="module")
def limited() -> Iterator[World]:
    """A world whose Envoy takes few connections."""
    with open_limited("--max-connections", str(LIMIT)) as world:
        yield world


def is_echoing(connection: socket.socket) -> bool:
    """Whether what is sent comes back."""
    try:
        connection.sendall(b"there and back")
        return connection.recv(100) == b"there and back"
    except OSError:
        return False


def test_connections_above_the_limit_are_closed_and_the_admin_interface_still_answers(limited: World) -> None:
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(limited.connect(API, ECHO_PORT)) for _ in range(LIMIT)]
        assert all(map(is_echoing, taken))

        assert not is_echoing(stack.enter_context(limited.connect(API, ECHO_PORT)))
        assert limited.envoy.admin.is_live()
        assert limited.envoy.admin.counter("listener.127.0.0.1_15001.downstream_global_cx_overflow") > 0
        taken[0].close()
        wait_until(lambda: _is_served(limited), "room for another connection", timeout=10)
    assert "no configured limit" not in limited.envoy.program.log.read_text(encoding="utf-8")


def _is_served(world: World) -> bool:
    with world.connect(FILES, ECHO_PORT) as connection:
        return is_echoing(connection)


def test_an_envoy_short_of_memory_takes_no_new_connections_and_cuts_none() -> None:
    with open_limited("--max-heap", "64Mi") as world, contextlib.ExitStack() as stack:
        for namespace in (Namespace.POD, Namespace.CORP):
            for limits in ("tcp_rmem", "tcp_wmem"):
                # The kernel would hold 30 MB of each connection before Envoy has to hold any.
                command = ["sh", "-c", f"echo 4096 16384 65536 >/proc/sys/net/ipv4/{limits}"]
                assert world.lab.run(namespace, command).returncode == 0
        threads = stack.enter_context(ThreadPoolExecutor(16))
        held: list[tuple[socket.socket, int]] = []

        def hold_more() -> bool:
            connections = [stack.enter_context(world.connect(FILES, ECHO_PORT)) for _ in range(16)]
            held.extend(zip(connections, threads.map(_fill, connections), strict=True))
            return world.envoy.admin.counter("overload.envoy.overload_actions.reject_incoming_connections.active") == 1

        wait_until(hold_more, "an Envoy whose memory is full", timeout=60)

        assert not is_echoing(stack.enter_context(world.connect(FILES, ECHO_PORT)))
        assert [_drain(connection, length) for connection, length in held] == [length for _, length in held]
        for connection, _ in held:
            connection.close()
        wait_until(lambda: _is_served(world), "room for another connection", timeout=30)
        assert world.leaked == 0


def _fill(connection: socket.socket) -> int:
    """Send until nobody takes any more, which is when everybody's buffers are full; return how many bytes that was."""
    sent = 0
    connection.settimeout(0.2)
    with contextlib.suppress(TimeoutError):
        while True:
            sent += connection.send(bytes(65536))
    connection.settimeout(15)
    return sent


def _drain(connection: socket.socket, length: int) -> int:
    """Read what comes back, up to `length` bytes; return how many there were."""
    received = 0
    while received < length and (more := len(connection.recv(65536))):
        received += more
    return received


def test_draining_takes_no_new_connections_and_cuts_none(limited: World) -> None:
    """The last test of this world: afterwards its Envoy serves nobody."""
    admin = str(limited.envoy.admin.path)
    with limited.connect(API, ECHO_PORT) as connection:
        assert is_echoing(connection)

        words = ["curl", "--silent", "--unix-socket", admin, "-X", "POST", "http://envoy/drain_listeners"]
        assert subprocess.run(words, capture_output=True, check=False).returncode == 0

        wait_until(lambda: not _can_connect(limited), "the end of the listener", timeout=10)
        assert is_echoing(connection)
    assert limited.leaked == 0


def _can_connect(world: World) -> bool:
    try:
        world.connect(API, ECHO_PORT).close()
    except OSError:
        return False
    return True


@ANYWHERE
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize(
    "words", [b"GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n", b"\x00\x01"], ids=["http", "tcp"]
)
def test_who_connects_to_the_listener_itself_is_refused_and_starts_no_loop(
    world: World, address: str, words: bytes
) -> None:
    """Dialled directly, the connection would come back and be dialled again, until Envoy has no file left to open."""
    before = world.envoy.admin.counter("listener.127.0.0.1_15001.downstream_cx_total")
    with world.connect(address, OUTBOUND_PORT) as connection:
        connection.sendall(words)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(100) == b""

    assert world.envoy.admin.counter("listener.127.0.0.1_15001.downstream_cx_total") == before + 1


@ANYWHERE
@pytest.mark.parametrize("address", [API_ADDRESS, API_ADDRESS_6], ids=["ipv4", "ipv6"])
def test_a_client_of_quic_learns_at_once_that_it_is_not_served(world: World, address: str) -> None:
    """Its packet does not leave either, or the world would complain."""
    script = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)\n"
        "s.settimeout(5)\n"
        "s.connect((sys.argv[1], 443))\n"
        "try:\n"
        "    s.send(bytes(1200)); s.recv(1)\n"
        "except TimeoutError: print('waited')\n"
        "except OSError: print('refused')\n"
    )
    started = time.monotonic()

    done = world.lab.run(Namespace.POD, ["python3", "-c", script, address])

    assert done.stdout == b"refused\n", done.stderr
    assert time.monotonic() - started < 3


@ANYWHERE
@pytest.mark.parametrize(
    ("padding", "record"),
    [(1_200, RECORD), (1_200, 600), (12_000, RECORD), (12_000, 600)],
    ids=["post-quantum size", "in several records", "close to the limit", "both"],
)
def test_a_large_first_message_in_small_pieces_is_read_and_its_name_found(
    world: World, padding: int, record: int
) -> None:
    """A ClientHello with a post-quantum key share takes several packets; up to 16 KiB are read."""
    world.set_policy()
    mark = world.proxy.mark()
    context = ssl.create_default_context(cafile=str(world.lab.directory / "ca.pem"))
    context.set_alpn_protocols([f"{index:x<200}" for index in range(padding // 200)])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=API)

    with world.connect(API, 443) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        hello = outgoing.read()
        assert len(hello) > padding
        send_in_pieces(connection, split_records(hello, record))
        finish_handshake(tls, connection, incoming, outgoing)

    assert tls.getpeercert()
    assert world.proxy.wait_for(f"{API}:443", mark)


def split_records(flight: bytes, size: int) -> bytes:
    """Cut the content of one TLS record into records of at most `size` bytes."""
    head, content = flight[:3], flight[5:]
    assert len(content) == struct.unpack(">H", flight[3:5])[0], "one record"
    pieces = [content[start : start + size] for start in range(0, len(content), size)]
    return b"".join(head + struct.pack(">H", len(piece)) + piece for piece in pieces)


def send_in_pieces(connection: socket.socket, data: bytes) -> None:
    for start in range(0, len(data), 400):
        connection.sendall(data[start : start + 400])


def finish_handshake(
    tls: ssl.SSLObject, connection: socket.socket, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO
) -> None:
    for _ in range(20):
        received = connection.recv(65536)
        assert received, "closed in the middle of the handshake"
        incoming.write(received)
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            continue
        connection.sendall(outgoing.read())
        return
    pytest.fail("no end of the handshake")
