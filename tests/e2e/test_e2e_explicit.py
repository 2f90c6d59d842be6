"""Explicit mode: applications that keep HTTP_PROXY and HTTPS_PROXY get the same policy, without being captured."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import API, ECHO_PORT, FILES, ProxyKind, World, read_response
from tests.e2e.test_e2e_access_log import mark_now, wait_for_line
from xds.demo.lab import API_ADDRESS, FILES_ADDRESS, PROXY_ADDRESS
from xds.demo.polling import wait_until

if TYPE_CHECKING:
    import socket

    from tests.e2e.harness import Curl

pytestmark = pytest.mark.e2e

PORT = 15002
PROXIES = {"http_proxy": f"http://127.0.0.1:{PORT}", "https_proxy": f"http://127.0.0.1:{PORT}"}
EXPLICIT = f"explicit: {{port: {PORT}}}"
DENY = "{action: deny}"
DIRECT_FILES = f"[{{name: files, to: {{domains: [{FILES}]}}, action: direct}}]"
DENY_API = f"[{{name: api, to: {{domains: [{API}]}}, action: deny}}]"
ALLOW_API = f"[{{name: api, to: {{domains: [{API}]}}, action: tunnel, proxy: corp}}]"
GREETING = b"api.example.com greets you over plain HTTP.\n"

SQUID = pytest.mark.parametrize("shared_world", [ProxyKind.SQUID], indirect=True, ids=["squid"])
"""What concerns Envoy alone is seen well enough once."""
ANYWHERE = pytest.mark.parametrize("shared_world", [ProxyKind.TINYPROXY], indirect=True, ids=["tinyproxy"])
"""A proxy whose stock configuration takes CONNECT for every port."""


def set_policy(world: World, rules: str = "[]", default: str = "{action: tunnel, proxy: corp}", **more: str) -> None:
    """Put a policy with explicit mode in force, and return once its listener is there."""
    world.set_policy(rules, default, extra=more.pop("extra", EXPLICIT), **more)
    wait_until(lambda: _answers(world), "the listener of explicit mode", timeout=15)


def _answers(world: World) -> bool:
    try:
        world.connect("127.0.0.1", PORT).close()
    except OSError:
        return False
    return True


def curl(world: World, url: str, *options: str) -> Curl:
    return world.curl(url, *options, environment=PROXIES)


def say(world: World, request: str) -> bytes:
    """Send one request to the listener and return its answer."""
    return world.exchange("127.0.0.1", PORT, request.encode())


def status_of_connect(world: World, authority: str, *headers: str) -> int:
    """Ask for a tunnel and return the status of the answer."""
    with world.connect("127.0.0.1", PORT) as connection:
        return ask_for_tunnel(connection, authority, *headers)


def ask_for_tunnel(connection: socket.socket, authority: str, *headers: str) -> int:
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}", *headers, "", ""]
    connection.sendall("\r\n".join(lines).encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        more = connection.recv(1)
        if not more:
            break
        head += more
    match = re.match(rb"HTTP/1\.[01] ([0-9]{3}) ", head)
    assert match, head
    return int(match[1])


def test_https_and_plain_http_reach_the_proxy_that_the_policy_names(world: World) -> None:
    set_policy(world)
    mark, log_mark = world.proxy.mark(), mark_now()

    assert curl(world, f"https://{API}/").expect() == b"api.example.com greets you over TLS.\n"
    assert curl(world, f"http://{API}/plain").expect() == GREETING

    assert world.proxy.wait_for(f"CONNECT {API}:443", mark)
    assert world.proxy.wait_for(f"http://{API}/plain", mark)
    line = wait_for_line(world, log_mark, chain="explicit", protocol="connect", name=API)
    assert (
        line.items()
        >= {
            "action": "tunnel",
            "asked_for": f"{API}:443",
            "endpoint": f"{PROXY_ADDRESS}:3128",
            "status": 200,
        }.items()
    )


@SQUID
def test_what_a_rule_refuses_is_answered_with_403_and_a_reason(world: World) -> None:
    set_policy(world, DENY_API)
    log_mark = mark_now()
    mark = world.proxy.mark()

    refused = curl(world, f"https://{API}/")
    plain = say(world, f"GET http://{API}/ HTTP/1.1\r\nHost: {API}\r\n\r\n")

    assert refused.exit_code == 56
    assert "403" in refused.complaint
    assert plain.startswith(b"HTTP/1.1 403 ")
    assert b"egress-xds" in plain
    for protocol in ("connect", "http"):
        line = wait_for_line(world, log_mark, chain="explicit", protocol=protocol, action="deny")
        assert "a rule or the default refuses it" in str(line["reason"])
    assert API not in world.proxy.text(mark)


@SQUID
def test_what_goes_directly_is_resolved_and_dialled_and_the_proxy_never_hears_of_it(world: World) -> None:
    set_policy(world, DIRECT_FILES)
    mark, log_mark = world.proxy.mark(), mark_now()

    assert curl(world, f"https://{FILES}/").expect() == b"files.corp.example greets you over TLS.\n"
    assert curl(world, f"http://{FILES}/").expect() == b"files.corp.example greets you over plain HTTP.\n"

    assert FILES not in world.proxy.text(mark)
    line = wait_for_line(world, log_mark, chain="explicit", protocol="connect", action="direct")
    assert line["endpoint"] == f"{FILES_ADDRESS}:443"


@SQUID
def test_an_address_is_decided_by_the_rules_for_networks(world: World) -> None:
    rules = f"[{{name: files, to: {{cidrs: [{FILES_ADDRESS}/32]}}, action: direct}}]"
    set_policy(world, rules, DENY)

    assert status_of_connect(world, f"{FILES_ADDRESS}:{ECHO_PORT}") == 200
    assert status_of_connect(world, f"{API_ADDRESS}:443") == 403
    assert status_of_connect(world, f"{FILES}:{ECHO_PORT}") == 403
    with world.connect("127.0.0.1", PORT) as connection:
        assert ask_for_tunnel(connection, f"{FILES_ADDRESS}:{ECHO_PORT}") == 200
        connection.sendall(b"there and back")
        assert connection.recv(100) == b"there and back"


MAPPED = [
    f"[::ffff:{API_ADDRESS}]",
    "[::ffff:cb00:710a]",
    f"[0:0:0:0:0:ffff:{API_ADDRESS}]",
    "[0:0:0:0:0:FFFF:CB00:710A]",
]


@ANYWHERE
@pytest.mark.parametrize("authority", MAPPED)
def test_an_ipv4_address_in_ipv6_clothes_does_not_get_past_a_rule(world: World, authority: str) -> None:
    set_policy(world, f"[{{name: api, to: {{cidrs: [{API_ADDRESS}/32]}}, action: deny}}]")
    mark = world.proxy.mark()

    assert status_of_connect(world, f"{API_ADDRESS}:443") == 403
    assert status_of_connect(world, f"{authority}:443") == 403
    assert b" 403 " in say(world, f"GET http://{authority}/ HTTP/1.1\r\nHost: {authority}\r\n\r\n")
    assert "ffff" not in world.proxy.text(mark).lower()


@SQUID
def test_ports_of_rules_and_ports_that_a_proxy_takes_are_honoured(world: World) -> None:
    """N8, N19; a URL without a port means port 80."""
    rules = f"[{{name: files, to: {{domains: ['{FILES}:80']}}, action: direct}}]"
    proxy = "{endpoints: [{url: 'http://proxy.corp.example:3128'}], connectPorts: [443], plainHTTP: connect}"
    set_policy(world, rules, proxy=proxy)
    mark = world.proxy.mark()

    assert curl(world, f"http://{FILES}/").expect().startswith(b"files.corp.example greets")
    assert status_of_connect(world, f"{FILES}:443") == 200
    assert status_of_connect(world, f"{FILES}:{ECHO_PORT}") == 403
    assert status_of_connect(world, f"{API}:8443") == 403
    assert say(world, f"GET http://{API}:8080/ HTTP/1.1\r\nHost: {API}:8080\r\n\r\n").startswith(b"HTTP/1.1 403 ")
    assert ":8443" not in world.proxy.text(mark)


@SQUID
@pytest.mark.parametrize(
    "authority",
    [
        f"{API}:x@{FILES}:443",
        f"{API}..:443",
        f"{API}:0443",
        f"{API}:65979",
        "2130706433:443",
        "0x7f.1:443",
        f"{FILES}/.{API}:443",
        f"{FILES},{API}:443",
    ],
)
def test_an_allow_list_is_not_left_through_an_odd_authority(world: World, authority: str) -> None:
    set_policy(world, ALLOW_API, DENY)
    mark = world.proxy.mark()

    assert status_of_connect(world, authority) in (400, 403)
    answer = say(world, f"GET http://{authority}/odd HTTP/1.1\r\nHost: {authority}\r\n\r\n")
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 403 "))

    assert status_of_connect(world, f"{API}:443") == 200
    assert "/odd" not in world.proxy.text(mark)
    assert FILES not in world.proxy.text(mark)


@SQUID
def test_a_user_in_a_url_is_dropped_and_the_host_behind_it_counts(world: World) -> None:
    """RFC 9110, section 4.2.4."""
    set_policy(world, ALLOW_API, DENY)
    mark = world.proxy.mark()

    assert say(world, f"GET http://{FILES}:80@{API}/user HTTP/1.1\r\nHost: {API}\r\n\r\n").endswith(GREETING)

    assert world.proxy.wait_for(f"http://{API}/user", mark)
    assert FILES not in world.proxy.text(mark)


@SQUID
@pytest.mark.parametrize(
    "request_line",
    [
        f"GET https://{API}/other HTTP/1.1\r\nHost: {API}",
        f"GET ftp://{API}/other HTTP/1.1\r\nHost: {API}",
        f"GET http://{API}/other HTTP/1.1\r\nHost: {FILES}",
        "GET /other HTTP/1.0",
        f"GET http://127.0.0.1:{PORT}/other HTTP/1.1\r\nHost: 127.0.0.1:{PORT}",
        f"GET http://localhost:{PORT}/other HTTP/1.1\r\nHost: localhost:{PORT}",
    ],
    ids=["https", "ftp", "a Host beside the URL", "no host", "this listener", "this listener by name"],
)
def test_a_url_of_another_kind_or_without_a_host_or_back_here_is_refused(world: World, request_line: str) -> None:
    """Of a URL and a Host that differ, the URL counts (RFC 9112, section 3.2.2): here its host is denied."""
    set_policy(world, DENY_API, "{action: direct}")

    answer = say(world, f"{request_line}\r\n\r\n")

    assert re.match(rb"HTTP/1\.[01] (400|403) ", answer), answer


@SQUID
def test_a_connection_to_the_proxy_itself_is_not_wrapped(world: World) -> None:
    """N15: an application that was told of both."""
    set_policy(world)
    mark = world.proxy.mark()

    with world.connect("127.0.0.1", PORT) as connection:
        assert ask_for_tunnel(connection, "proxy.corp.example:3128") == 200
        assert ask_for_tunnel(connection, f"{API}:443") == 200

    assert world.proxy.wait_for(f"CONNECT {API}:443", mark)
    assert "proxy.corp.example" not in world.proxy.text(mark)


@SQUID
def test_a_login_for_the_proxy_never_reaches_a_host_that_is_direct(world: World) -> None:
    set_policy(world, DIRECT_FILES)
    login = "Proxy-Authorization: Basic bmV2ZXI6c2Vlbg=="

    answer = say(world, f"GET http://{FILES}/headers HTTP/1.1\r\nHost: {FILES}\r\n{login}\r\nX-Kept: yes\r\n\r\n")

    assert b"X-Kept: yes" in answer
    assert b"authorization" not in answer.lower()
    assert b"egress-xds" not in answer.lower()
    assert b"x-forwarded" not in answer.lower()


@SQUID
def test_an_answer_of_the_proxy_that_opens_no_tunnel_reaches_the_application(world: World) -> None:
    """Squid takes CONNECT for port 443 only."""
    set_policy(world)
    log_mark = mark_now()

    assert status_of_connect(world, f"{API}:8443") == 403

    line = wait_for_line(
        world, log_mark, chain="explicit", protocol="connect", asked_for=f"{API}:8443", action="tunnel"
    )
    assert line["status"] == 403
    assert line["reason"] == "the proxy refuses this destination (403)"


@ANYWHERE
def test_what_an_application_sends_behind_connect_arrives_and_so_does_what_a_server_says_first(world: World) -> None:
    set_policy(world)

    with world.connect("127.0.0.1", PORT) as connection:
        connection.sendall(f"CONNECT {API}:{ECHO_PORT} HTTP/1.1\r\nHost: {API}:{ECHO_PORT}\r\n\r\nearly".encode())
        received = b""
        while not received.endswith(b"early"):
            more = connection.recv(4096)
            assert more, received
            received += more


@ANYWHERE
def test_plain_http_takes_a_tunnel_where_the_proxy_wants_it(world: World) -> None:
    proxy = "{endpoints: [{url: 'http://proxy.corp.example:3128'}], plainHTTP: connect}"
    set_policy(world, proxy=proxy)
    mark = world.proxy.mark()

    with world.connect("127.0.0.1", PORT) as connection:
        for url in (f"http://{API}:8080/", f"http://{API}/"):
            connection.sendall(f"GET {url} HTTP/1.1\r\nHost: {API}\r\n\r\n".encode())
            assert read_response(connection).endswith(GREETING)

    assert world.proxy.wait_for(f"CONNECT {API}:8080", mark)
    assert world.proxy.wait_for(f"CONNECT {API}:80", mark)


@SQUID
@pytest.mark.parametrize(
    ("authority", "reason"),
    [
        ("nowhere.corp.example:443", "the name of the destination does not resolve"),
        (f"{FILES}:4443", "the other side can't be reached"),
    ],
)
def test_a_direct_host_that_is_not_there_is_told_of_in_words(world: World, authority: str, reason: str) -> None:
    set_policy(world, "[{name: corp, to: {domains: [.corp.example]}, action: direct}]")
    log_mark = mark_now()

    assert status_of_connect(world, authority) == 503

    line = wait_for_line(world, log_mark, chain="explicit", asked_for=authority, action="direct")
    assert reason in str(line["reason"])


@SQUID
def test_without_the_key_nothing_listens(world: World) -> None:
    set_policy(world)
    world.set_policy()

    wait_until(lambda: not _answers(world), "the end of the listener of explicit mode", timeout=15)
    assert curl(world, f"https://{API}/").exit_code == 7
