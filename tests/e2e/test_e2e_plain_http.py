"""Plain HTTP as it is really spoken, and Hosts that say one thing to the policy and another to the proxy."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import API, FILES, SIX, ProxyKind, World, read_response
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


ANYWHERE = pytest.mark.parametrize(
    "shared_world", [ProxyKind.TINYPROXY, ProxyKind.EMBEDDED], indirect=True, ids=["tinyproxy", "embedded"]
)
"""The proxies whose stock configuration takes CONNECT for every port."""
BY_CONNECT = "{endpoints: [{url: 'http://proxy.corp.example:3128'}], plainHTTP: connect}"


@ANYWHERE
def test_plain_http_in_a_tunnel_arrives_as_it_was_sent(world: World) -> None:
    world.set_policy(proxy=BY_CONNECT)
    mark = world.proxy.mark()
    request = f"GET /headers?a=%20 HTTP/1.1\r\nHost: {API}\r\nX-CaSe: kept\r\n\r\n".encode()

    answer = world.exchange(API, 80, request)

    assert answer.endswith(request)
    assert world.proxy.wait_for(f"CONNECT {API}:80", mark)
    assert "GET http" not in world.proxy.text(mark)


@ANYWHERE
def test_two_hosts_on_one_connection_get_a_tunnel_each(world: World) -> None:
    world.set_policy(proxy=BY_CONNECT)
    mark = world.proxy.mark()

    with world.connect(API, 8080) as connection:
        for host in (API, SIX, API):
            connection.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            read_response(connection)

    assert world.proxy.wait_for(f"CONNECT {API}:8080", mark)
    assert world.proxy.wait_for(f"CONNECT {SIX}:8080", mark)


@ANYWHERE
@pytest.mark.parametrize("proxy", [BY_CONNECT, BY_CONNECT.replace("connect", "absolute-form")])
def test_a_web_socket_takes_a_tunnel(world: World, proxy: str) -> None:
    world.set_policy(proxy=proxy)
    upgrade = f"GET /chat HTTP/1.1\r\nHost: {API}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"

    with world.connect(API, 80) as connection:
        connection.sendall(upgrade.encode())
        assert read_head(connection).startswith(b"HTTP/1.1 101 ")
        connection.sendall(b"\x81\x85")
        assert connection.recv(100) == b"\x81\x85"

    # The tunnel may be one that an earlier request left open.
    assert world.proxy.wait_for(f"CONNECT {API}:80")


@ANYWHERE
def test_plain_http_in_a_tunnel_honours_the_ports_that_the_proxy_takes(world: World) -> None:
    """N19."""
    world.set_policy(proxy=f"{BY_CONNECT[:-1]}, connectPorts: [443, 8080]}}")
    mark = world.proxy.mark()

    refused = world.exchange(API, 80, f"GET / HTTP/1.1\r\nHost: {API}\r\n\r\n".encode())
    taken = world.exchange(API, 8080, f"GET / HTTP/1.1\r\nHost: {API}\r\n\r\n".encode())

    assert refused.startswith(b"HTTP/1.1 403 ")
    assert taken.endswith(GREETING)
    assert f"CONNECT {API}:80\n" not in world.proxy.text(mark)


@SQUID
def test_a_tunnel_that_the_proxy_refuses_to_plain_http_is_an_error_and_never_direct(world: World) -> None:
    """Squid takes CONNECT for port 443 only."""
    world.set_policy(proxy=BY_CONNECT)
    mark = world.proxy.mark()

    answer = world.exchange(API, 80, f"GET / HTTP/1.1\r\nHost: {API}\r\n\r\n".encode())

    assert answer.startswith(b"HTTP/1.1 503 ")
    assert "DENIED/403" in world.proxy.wait_for(f"CONNECT {API}:80", mark)


@SQUID
def test_plain_http_may_leave_as_verified_https(world: World) -> None:
    authority = (world.lab.directory / "ca.pem").read_text(encoding="ascii")
    for ca, answer in ((authority, b"api.example.com greets you over TLS.\n"), (None, None)):
        tls = "{}" if ca is None else f"{{ca: {json.dumps(ca)}}}"
        http = f"{{action: tunnel, proxy: corp, originateTLS: {tls}}}"
        rule = f"{{name: https, to: {{domains: [{API}]}}, action: tunnel, proxy: corp, http: {http}}}"
        world.set_policy(f"[{rule}]")
        mark = world.proxy.mark()

        got = world.exchange(API, 80, f"GET / HTTP/1.1\r\nHost: {API}\r\n\r\n".encode())

        assert world.proxy.wait_for(f"CONNECT {API}:443", mark)
        if answer is None:
            assert got.startswith(b"HTTP/1.1 503 "), "the system's authorities do not know this origin's"
        else:
            assert got.endswith(answer)


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
