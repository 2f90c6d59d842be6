"""A bypass by name that is bound to networks: who lies about a name does not get anywhere directly (N20)."""

from __future__ import annotations

import ssl

import pytest

from tests.e2e.harness import API, FILES, ProxyKind, World
from xds.demo.lab import API_ADDRESS, FILES_ADDRESS

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.parametrize("shared_world", [ProxyKind.SQUID], indirect=True, ids=["squid"]),
]

VERIFIED = f"[{{name: files, to: {{domains: [{FILES}]}}, action: direct, verify: {FILES_ADDRESS}/32}}]"


def test_an_honest_client_goes_direct(world: World) -> None:
    world.set_policy(VERIFIED)
    mark = world.proxy.mark()

    assert world.curl(f"https://{FILES}/").expect() == b"files.corp.example greets you over TLS.\n"
    assert world.curl(f"http://{FILES}/").expect() == b"files.corp.example greets you over plain HTTP.\n"
    assert FILES not in world.proxy.text(mark)


def test_a_lie_in_the_server_name_is_asked_of_the_proxy(world: World) -> None:
    """The proxy resolves the name itself, so that the lie leads to the host that was named, or nowhere."""
    world.set_policy(VERIFIED)
    mark = world.proxy.mark()
    context = ssl.create_default_context(cafile=str(world.lab.directory / "ca.pem"))

    with context.wrap_socket(world.connect(API_ADDRESS, 443), server_hostname=FILES) as connection:
        connection.sendall(f"GET / HTTP/1.1\r\nHost: {FILES}\r\n\r\n".encode())
        assert b"files.corp.example greets you" in connection.recv(4096)

    assert world.proxy.wait_for(f"CONNECT {FILES}:443", mark)


def test_a_lie_in_the_host_is_asked_of_the_proxy(world: World) -> None:
    world.set_policy(VERIFIED)
    mark = world.proxy.mark()

    answer = world.exchange(API, 80, f"GET /lie HTTP/1.1\r\nHost: {FILES}\r\n\r\n".encode())

    assert answer.endswith(b"files.corp.example greets you over plain HTTP.\n")
    assert world.proxy.wait_for(f"GET http://{FILES}/lie", mark)
