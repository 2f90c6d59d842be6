"""Whatever a proxy does wrong: the application learns it soon, the log says why, and nothing leaves directly."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.bad_proxy import WAYS
from tests.e2e.harness import API, ECHO_PORT, ProxyKind, World, read_response
from xds.demo.lab import API_ADDRESS, PROXY_ADDRESS, Namespace, python_environment

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from xds.demo.processes import Program

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.parametrize("shared_world", [ProxyKind.SQUID], indirect=True, ids=["squid"]),
]

PORTS = {way: 4001 + number for number, way in enumerate(WAYS)}
REFUSALS = {
    "login-wanted": "tunnel_response:407",
    "forbidden": "tunnel_response:403",
    "bad-gateway": "tunnel_response:502",
    "unavailable": "tunnel_response:503",
}
SOON = 5.0
"""Seconds within which an application learns that there is no way out."""
_SCRIPT = Path(__file__).with_name("bad_proxy.py")


@pytest.fixture(scope="module")
def bad(shared_world: World) -> Iterator[Program]:
    """The proxy that misbehaves."""
    places = [f"{way}={port}" for way, port in PORTS.items()]
    command = [sys.executable, str(_SCRIPT), PROXY_ADDRESS, *places]
    program = shared_world.lab.start("bad-proxy", Namespace.CORP, command, environment=python_environment())
    program.wait_for("ready")
    yield program
    program.stop()


def use(world: World, way: str, options: str = "") -> None:
    world.set_policy(proxy=f"{{endpoints: [{{url: 'http://proxy.corp.example:{PORTS[way]}'}}]{options}}}")


def ends(connection: socket.socket) -> bool:
    """Whether the connection ends without a byte."""
    try:
        return connection.recv(100) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("way", [*REFUSALS, "half-a-line", "garbage", "close"])
def test_a_tunnel_that_is_not_opened_is_a_closed_connection_at_once(world: World, bad: Program, way: str) -> None:
    use(world, way)
    marks = len(bad.text()), len(world.envoy.program.text())
    started = time.monotonic()

    with world.connect(API_ADDRESS, ECHO_PORT) as connection:
        connection.sendall(b"\x00\x01 nothing that anybody knows")
        assert ends(connection)

    assert time.monotonic() - started < SOON
    assert bad.wait_for(f"{way}: CONNECT {API_ADDRESS}:{ECHO_PORT}", after=marks[0])
    assert world.envoy.program.wait_for(REFUSALS.get(way, f'"{API_ADDRESS}:{ECHO_PORT}"'), after=marks[1])


@pytest.mark.parametrize("way", ["old-version", "long-headers"])
def test_an_odd_but_valid_answer_opens_the_tunnel(world: World, bad: Program, way: str) -> None:
    use(world, way)

    with world.connect(API_ADDRESS, ECHO_PORT) as connection:
        connection.sendall(b"\x00\x01 ping")
        assert connection.recv(100) == b"\x00\x01 ping"
    assert bad.exit_code is None


def test_bytes_behind_an_answer_are_the_tunnels(world: World, bad: Program) -> None:
    """RFC 9110, section 9.3.6: a length means nothing in an answer to CONNECT."""
    use(world, "body")

    with world.connect(API_ADDRESS, ECHO_PORT) as connection:
        connection.sendall(b"\x00\x01 ping")
        assert connection.recv(100) == b"hello"
    assert bad.exit_code is None


def test_a_proxy_that_never_answers_is_given_up_after_the_idle_time_out(world: World, bad: Program) -> None:
    use(world, "hang", ", idleTimeout: 2s")
    started = time.monotonic()

    with world.connect(API_ADDRESS, ECHO_PORT) as connection:
        connection.sendall(b"\x00\x01 ping")
        assert ends(connection)

    assert 1.5 < time.monotonic() - started < 2 + SOON
    assert bad.exit_code is None


@pytest.mark.parametrize(
    ("way", "status"),
    [
        ("login-wanted", b"407"),
        ("forbidden", b"403"),
        ("bad-gateway", b"502"),
        ("unavailable", b"503"),
        ("half-a-line", b"502"),
        ("garbage", b"502"),
        ("close", b"503"),
    ],
)
def test_plain_http_gets_the_proxys_answer_or_one_of_envoys(
    world: World, bad: Program, way: str, status: bytes
) -> None:
    use(world, way)
    mark = len(bad.text())
    started = time.monotonic()

    with world.connect(API, 80) as connection:
        connection.sendall(f"GET /bad HTTP/1.1\r\nHost: {API}\r\n\r\n".encode())
        answer = read_response(connection)

    assert answer.split(b" ", 2)[1] == status
    assert time.monotonic() - started < SOON
    assert bad.wait_for(f"{way}: GET http://{API}/bad", after=mark)


def test_packets_that_leave_directly_would_be_noticed(shared_world: World) -> None:
    """The control of all others: Envoy's own user is not captured, and the firewall counts what it sends."""
    before = shared_world.leaked
    command = ["timeout", "1", "curl", "--silent", f"http://{API_ADDRESS}/"]

    shared_world.lab.run(Namespace.POD, ["setpriv", "--reuid", "1337", "--clear-groups", *command])

    assert shared_world.leaked > before
