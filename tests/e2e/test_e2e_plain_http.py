"""Plain HTTP as it is really spoken, and Hosts that say one thing to the policy and another to the proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import API, FILES, ProxyKind, World
from xds.demo.lab import API_ADDRESS, FILES_ADDRESS

if TYPE_CHECKING:
    import socket

pytestmark = pytest.mark.e2e

DENY = "{action: deny}"
ALLOW_API = f"[{{name: api, to: {{domains: [{API}]}}, action: tunnel, proxy: corp}}]"
DIRECT_FILES = f"[{{name: files, to: {{domains: [{FILES}]}}, action: direct}}]"
GREETING = b"api.example.com greets you over plain HTTP.\n"

LENIENT = pytest.mark.parametrize(
    "shared_world", [ProxyKind.SQUID, ProxyKind.TINYPROXY], indirect=True, ids=["squid", "tinyproxy"]
)
SQUID = pytest.mark.parametrize("shared_world", [ProxyKind.SQUID], indirect=True, ids=["squid"])
"""What concerns Envoy alone is seen well enough once."""


@LENIENT
@pytest.mark.parametrize(
    "host",
    [
        f"{API}:x@{FILES}",
        f"{API}:80@{FILES}",
        f"{FILES}:80@{API}",
        f"{FILES}/.{API}",
        f"{FILES}#{API}",
        f"{API}, {FILES}",
        f"{API}..",
        "174976513",
    ],
)
def test_an_allow_list_is_not_left_through_an_odd_host(world: World, host: str) -> None:
    world.set_policy(ALLOW_API, DENY)
    mark = world.proxy.mark()

    answer = world.exchange(API, 80, f"GET /odd HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())

    assert answer.startswith((b"HTTP/1.1 403 ", b"HTTP/1.1 400 ")), answer
    assert world.exchange(API, 80, f"GET /even HTTP/1.1\r\nHost: {API}\r\n\r\n".encode()).endswith(GREETING)
    world.proxy.wait_for(f"http://{API}/even", mark)
    assert "/odd" not in world.proxy.text(mark)


@SQUID
def test_a_host_that_is_an_address_leads_to_the_address_that_was_dialled(world: World) -> None:
    """Otherwise a rule for addresses would be left by dialling one and naming another."""
    world.set_policy()
    mark = world.proxy.mark()

    answer = world.exchange(API, 80, f"GET /here HTTP/1.1\r\nHost: {FILES_ADDRESS}\r\n\r\n".encode())

    assert answer.endswith(GREETING)
    world.proxy.wait_for(f"http://{API_ADDRESS}/here", mark)


@LENIENT
def test_a_host_with_another_port_leads_to_the_port_that_was_dialled(world: World) -> None:
    world.set_policy()
    mark = world.proxy.mark()

    answer = world.exchange(API, 8080, f"GET /port HTTP/1.1\r\nHost: {API}:80\r\n\r\n".encode())

    assert answer.endswith(GREETING)
    assert world.proxy.wait_for(f"GET http://{API}:8080/port", mark)


@LENIENT
def test_what_an_address_allows_is_asked_for_by_address(world: World) -> None:
    world.set_policy(f"[{{name: net, to: {{cidrs: [{API_ADDRESS}/32]}}, action: tunnel, proxy: corp}}]", DENY)
    mark = world.proxy.mark()

    assert world.curl(f"https://{API}/").expect() == b"api.example.com greets you over TLS.\n"
    answer = world.exchange(API, 80, f"GET /net HTTP/1.1\r\nHost: {FILES}\r\n\r\n".encode())

    assert answer.endswith(GREETING)
    assert world.proxy.wait_for(f"CONNECT {API_ADDRESS}:443", mark)
    assert FILES not in world.proxy.text(mark)


@LENIENT
def test_a_client_of_http_1_0_needs_no_host(world: World) -> None:
    """N18."""
    world.set_policy()
    mark = world.proxy.mark()

    answer = world.exchange(API, 80, b"GET /old HTTP/1.0\r\n\r\n")

    assert answer.startswith(b"HTTP/1.0 200 ")
    assert answer.endswith(GREETING)
    assert world.proxy.wait_for(f"GET http://{API_ADDRESS}", mark)


@SQUID
def test_a_client_of_http_1_0_reaches_a_direct_address_by_the_default_for_unnamed_hosts(world: World) -> None:
    world.set_policy(DIRECT_FILES, "{action: tunnel, proxy: corp, onUnknownName: direct}")

    answer = world.exchange(FILES, 80, b"GET /headers HTTP/1.0\r\n\r\n")

    assert f"host: {FILES_ADDRESS}:80" in answer.decode().lower()


@SQUID
def test_a_web_socket_works_where_it_is_direct(world: World) -> None:
    world.set_policy(DIRECT_FILES)
    upgrade = f"GET /chat HTTP/1.1\r\nHost: {FILES}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"

    with world.connect(FILES, 80) as connection:
        connection.sendall(upgrade.encode())
        assert read_head(connection).startswith(b"HTTP/1.1 101 ")
        connection.sendall(b"\x81\x85")
        assert connection.recv(100) == b"\x81\x85"


@SQUID
def test_the_origin_itself_answers_what_expects_100_continue(world: World) -> None:
    """The origin of these tests never does: it answers at once, and nobody may have said 100 in its name."""
    world.set_policy(DIRECT_FILES)
    request = f"POST /headers HTTP/1.1\r\nHost: {FILES}\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"

    answer = world.exchange(FILES, 80, request.encode())

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"Expect: 100-continue" in answer


@SQUID
def test_a_foreign_proxy_that_no_rule_knows_is_refused_with_a_reason(world: World) -> None:
    world.set_policy(DIRECT_FILES)

    answer = world.exchange(FILES, 80, f"CONNECT {API}:443 HTTP/1.1\r\nHost: {API}:443\r\n\r\n".encode())

    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"egress-xds" in answer


def read_head(connection: socket.socket) -> bytes:
    """Read up to the end of a response's head."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        data += connection.recv(1)
    return data
