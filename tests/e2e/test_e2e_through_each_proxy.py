"""What an application without any proxy setting gets, through Squid, Tinyproxy and the embedded proxy."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import (
    API,
    BANNER_PORT,
    ECHO_PORT,
    FILES,
    FILES_SIX,
    MAIL,
    PROXY_PORT,
    SIX,
    SMTP_PORT,
    ProxyKind,
    World,
    read_response,
)
from xds.demo.lab import API_ADDRESS, API_ADDRESS_6, FILES_ADDRESS_6
from xds.demo.origin import BANNER

if TYPE_CHECKING:
    import socket

pytestmark = pytest.mark.e2e

DIRECT_FILES = f"[{{name: files, to: {{domains: [{FILES}, {FILES_SIX}]}}, action: direct}}]"
DENY_API = f"[{{name: api, to: {{domains: [{API}]}}, action: deny}}]"
DENY_ADDRESS = f"[{{name: address, to: {{cidrs: [{API_ADDRESS}/32]}}, action: deny}}]"


SQUID = pytest.mark.parametrize("shared_world", [ProxyKind.SQUID], indirect=True, ids=["squid"])
"""Only Squid refuses CONNECT as it comes, to every port but 443; and some things are seen well enough once."""
ANYWHERE = pytest.mark.parametrize(
    "shared_world", [ProxyKind.TINYPROXY, ProxyKind.EMBEDDED], indirect=True, ids=["tinyproxy", "embedded"]
)
"""The proxies whose stock configuration takes CONNECT for every port."""
SIX_TUNNELS = pytest.mark.parametrize(
    "shared_world", [ProxyKind.SQUID, ProxyKind.TINYPROXY], indirect=True, ids=["squid", "tinyproxy"]
)
"""proxy.py 2.4.10 takes no CONNECT for an IPv6 address, whoever asks."""


def test_tls_goes_through_a_tunnel_to_the_name_that_the_client_asked_for(world: World) -> None:
    world.set_policy()
    mark = world.proxy.mark()
    assert world.curl(f"https://{API}/").expect() == b"api.example.com greets you over TLS.\n"
    assert world.proxy.wait_for(f"CONNECT {API}:443", mark)


def test_tls_to_a_bare_address_goes_through_a_tunnel_to_that_address(world: World) -> None:
    world.set_policy()
    mark = world.proxy.mark()
    assert world.curl(f"https://{API_ADDRESS}/").expect() == b"api.example.com greets you over TLS.\n"
    assert world.proxy.wait_for(f"CONNECT {API_ADDRESS}:443", mark)


@ANYWHERE
def test_tls_on_another_port_is_asked_for_with_that_port(world: World) -> None:
    world.set_policy()
    mark = world.proxy.mark()
    assert world.curl(f"https://{API}:8443/").expect() == b"api.example.com greets you over TLS.\n"
    assert world.proxy.wait_for(f"CONNECT {API}:8443", mark)


def test_plain_http_reaches_the_proxy_in_absolute_form(world: World) -> None:
    world.set_policy()
    mark = world.proxy.mark()
    assert world.curl(f"http://{API}/hello?a=%2F&b=").expect() == b"api.example.com greets you over plain HTTP.\n"
    line = world.proxy.wait_for(f"GET http://{API}/hello", mark)
    # Squid's log leaves the query out (strip_query_terms).
    assert world.proxy.kind is ProxyKind.SQUID or "/hello?a=%2F&b=" in line


def test_plain_http_on_another_port_keeps_the_port(world: World) -> None:
    world.set_policy()
    mark = world.proxy.mark()
    assert world.curl(f"http://{API}:8080/").expect() == b"api.example.com greets you over plain HTTP.\n"
    assert world.proxy.wait_for(f"GET http://{API}:8080/", mark)


MANY = 200

REQUEST_HEADERS = (
    f"Host: {API}\r\nX-CaSe-oF-nAmEs: Kept As It Is\r\nx-twice: 1\r\nx-twice: 2\r\nX-Empty:\r\n"
    "User-Agent: none\r\nAccept: */*\r\nCache-Control: no-store\r\n"
    "Cookie: a=b; c=d\r\nX-Forwarded-Proto: gopher\r\nX-Request-Id: mine\r\n\r\n"
)


def test_the_origin_sees_the_headers_that_it_would_see_from_an_application_with_a_proxy_setting(world: World) -> None:
    """The reference is the same request, sent to the proxy by hand: what differs then is what this path adds."""
    world.set_policy()
    transparent = world.exchange(API, 80, f"GET /headers?q=%20 HTTP/1.1\r\n{REQUEST_HEADERS}".encode())
    by_hand = world.exchange(
        *("proxy.corp.example", PROXY_PORT), f"GET http://{API}/headers?q=%20 HTTP/1.1\r\n{REQUEST_HEADERS}".encode()
    )
    seen, expected = (_lines_of_body(response) for response in (transparent, by_hand))
    assert seen[0] == "GET /headers?q=%20 HTTP/1.1"
    assert sorted(seen) == sorted(expected)


def _lines_of_body(response: bytes) -> list[str]:
    return response.partition(b"\r\n\r\n")[2].decode().rstrip().split("\r\n")


@ANYWHERE
def test_tcp_to_an_address_goes_through_a_tunnel_to_that_address(world: World) -> None:
    world.set_policy()
    mark = world.proxy.mark()
    with world.connect(API_ADDRESS, ECHO_PORT) as connection:
        connection.sendall(b"\x00\xff not a protocol that anybody knows")
        assert connection.recv(100) == b"\x00\xff not a protocol that anybody knows"
    assert world.proxy.wait_for(f"CONNECT {API_ADDRESS}:{ECHO_PORT}", mark)


@SQUID
def test_a_tunnel_that_the_proxy_refuses_is_a_closed_connection_and_never_a_direct_one(world: World) -> None:
    world.set_policy()
    mark = world.proxy.mark()
    with world.connect(API_ADDRESS, ECHO_PORT) as connection:
        connection.sendall(b"\x00\xff")
        assert _is_closed_without_a_byte(connection)
    assert "DENIED/403" in world.proxy.wait_for(f"CONNECT {API_ADDRESS}:{ECHO_PORT}", mark)


@ANYWHERE
def test_a_server_that_speaks_first_is_heard_at_once_on_a_port_that_is_known_for_it(world: World) -> None:
    world.set_policy()
    started = time.monotonic()
    with world.connect(MAIL, SMTP_PORT) as connection:
        assert connection.recv(100) == BANNER
        assert time.monotonic() - started < 1.5
        connection.sendall(b"EHLO pod\r\n")
        assert connection.recv(100) == b"250 EHLO pod\r\n"


@ANYWHERE
def test_a_server_that_speaks_first_is_heard_on_any_port_after_a_wait(world: World) -> None:
    world.set_policy()
    started = time.monotonic()
    with world.connect(MAIL, BANNER_PORT) as connection:
        assert connection.recv(100) == BANNER
        assert 1.5 < time.monotonic() - started < 10
        connection.sendall(b"EHLO pod\r\n")
        assert connection.recv(100) == b"250 EHLO pod\r\n"


@ANYWHERE
def test_a_port_that_the_policy_names_is_not_waited_for(world: World) -> None:
    world.set_policy(extra=f"serverFirstPorts: [{BANNER_PORT}]")
    started = time.monotonic()
    with world.connect(MAIL, BANNER_PORT) as connection:
        assert connection.recv(100) == BANNER
        assert time.monotonic() - started < 1.5


def test_a_direct_rule_bypasses_the_proxy_for_tls_http_and_ipv6(world: World) -> None:
    world.set_policy(DIRECT_FILES)
    mark = world.proxy.mark()
    assert world.curl(f"https://{FILES}/").expect() == b"files.corp.example greets you over TLS.\n"
    assert world.curl(f"http://{FILES}/").expect() == b"files.corp.example greets you over plain HTTP.\n"
    assert world.curl(f"https://{FILES_SIX}/").expect() == b"files.corp.example greets you over TLS.\n"
    assert "corp.example" not in _requests(world, mark)


def test_a_direct_rule_for_addresses_bypasses_the_proxy_for_any_protocol(world: World) -> None:
    world.set_policy(f"[{{name: corp, to: {{cidrs: [10.78.0.0/16, '{FILES_ADDRESS_6}/128']}}, action: direct}}]")
    mark = world.proxy.mark()
    with world.connect(FILES, ECHO_PORT) as connection:
        connection.sendall(b"ping")
        assert connection.recv(100) == b"ping"
    assert world.curl(f"https://{FILES_SIX}/").exit_code == 0
    assert _requests(world, mark) == ""


def test_a_denied_name_is_a_closed_connection_for_tls_and_a_readable_403_for_http(world: World) -> None:
    world.set_policy(DENY_API)
    mark = world.proxy.mark()
    refused = world.curl(f"https://{API}/")
    assert refused.exit_code == 35, refused  # curl: a problem in the TLS handshake
    answer = world.curl(f"http://{API}/", "--include").expect().decode()
    assert answer.startswith("HTTP/1.1 403 ")
    assert "egress policy refuses" in answer
    assert _requests(world, mark) == ""
    assert world.curl(f"https://{SIX}/").exit_code == 0


def test_a_denied_address_is_a_closed_connection_for_any_protocol(world: World) -> None:
    world.set_policy(DENY_ADDRESS)
    with world.connect(API_ADDRESS, ECHO_PORT) as connection:
        connection.sendall(b"\x00\xff")
        assert _is_closed_without_a_byte(connection)


def test_an_application_that_sets_a_proxy_itself_is_not_wrapped_twice(world: World) -> None:
    world.set_policy()
    mark = world.proxy.mark()
    proxy = f"http://proxy.corp.example:{PROXY_PORT}"
    by_tls = world.curl(f"https://{API}/", environment={"https_proxy": proxy})
    assert by_tls.expect() == b"api.example.com greets you over TLS.\n"
    by_http = world.curl(f"http://{API}/once", environment={"http_proxy": proxy})
    assert by_http.expect() == b"api.example.com greets you over plain HTTP.\n"
    world.proxy.wait_for(f"GET http://{API}/once", mark)
    world.proxy.wait_for(f"CONNECT {API}:443", mark)
    assert "CONNECT proxy.corp.example" not in world.proxy.text(mark)
    assert "CONNECT 10.78" not in world.proxy.text(mark)
    assert "GET http://proxy.corp.example" not in world.proxy.text(mark)


def test_ipv6_is_captured_and_tunnelled_by_name_by_address_and_as_plain_http(world: World) -> None:
    world.set_policy()
    mark = world.proxy.mark()
    assert world.curl(f"https://{SIX}/").expect() == b"api.example.com greets you over TLS.\n"
    assert world.curl(f"http://{SIX}/six").expect() == b"api.example.com greets you over plain HTTP.\n"
    assert world.proxy.wait_for(f"CONNECT {SIX}:443", mark)
    assert world.proxy.wait_for(f"GET http://{SIX}/six", mark)


@SIX_TUNNELS
def test_an_ipv6_address_is_asked_for_in_brackets(world: World) -> None:
    world.set_policy()
    mark = world.proxy.mark()
    assert world.curl(f"https://[{API_ADDRESS_6}]/").exit_code == 0
    assert world.proxy.wait_for(f"CONNECT [{API_ADDRESS_6}]:443", mark)


def test_one_http_connection_carries_many_requests_even_if_the_proxy_closes_after_each(world: World) -> None:
    """Tinyproxy does, without a word: a connection to it that is used again is lost now and then."""
    world.set_policy()
    request = f"GET /many HTTP/1.1\r\nHost: {API}\r\n\r\n".encode()
    with world.connect(API, 80) as connection:
        for _ in range(MANY):
            connection.sendall(request)
            assert read_response(connection).endswith(b"api.example.com greets you over plain HTTP.\n")


@SQUID
def test_a_slow_answer_is_waited_for_as_long_as_the_application_does(world: World) -> None:
    """Envoy's own limit would be 15 s."""
    world.set_policy()
    assert world.curl(f"http://{API}/wait?seconds=16").expect() == b"api.example.com greets you over plain HTTP.\n"


def _requests(world: World, mark: int) -> str:
    """What the proxy has logged since about requests."""
    lines = world.proxy.text(mark).splitlines()
    return "\n".join(line for line in lines if "CONNECT " in line or "GET " in line)


def _is_closed_without_a_byte(connection: socket.socket) -> bool:
    try:
        return connection.recv(100) == b""
    except ConnectionResetError:
        return True
