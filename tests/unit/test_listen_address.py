"""Why the server can't take its address: each reason has a remedy of its own."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from xds.app import check_address, write_address
from xds.errors import ListenError
from xds.flags import HostPort


@pytest.mark.parametrize(
    ("number", "words"),
    [
        pytest.param(errno.EADDRINUSE, r"in use.*ss -ltnp 'sport = :80'", id="somebody else has the port"),
        pytest.param(errno.EACCES, r"low ports.*1024.*CAP_NET_BIND_SERVICE", id="a port for root"),
        pytest.param(
            errno.EADDRNOTAVAIL, r"no address of this machine.*0\.0\.0\.0", id="an address of another machine"
        ),
        pytest.param(errno.EAFNOSUPPORT, r"no IPv6", id="a kernel without IPv6"),
        pytest.param(errno.ENOBUFS, r"choose another address", id="anything else"),
    ],
)
def test_each_refusal_of_the_kernel_has_a_remedy_of_its_own(
    monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def refuse(_self: socket.socket, _address: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(socket.socket, "bind", refuse)

    with pytest.raises(ListenError, match=words):
        check_address(HostPort(host="127.0.0.1", port=80))


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_that_is_taken_is_said_to_be(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ListenError, match="in use"):
        check_address(HostPort(host=host, port=taken.getsockname()[1]))


def test_a_free_address_is_left_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = HostPort(host="127.0.0.1", port=server.getsockname()[1])

    check_address(address)
    check_address(address)


def test_a_name_that_can_not_be_looked_up_at_all_is_like_one_that_does_not_resolve() -> None:
    with pytest.raises(ListenError, match="does not resolve"):
        check_address(HostPort(host="a..b", port=1))


@pytest.mark.parametrize("name", ["/", "/dev", "/nowhere/address"])
def test_an_address_file_that_can_be_none_is_named(name: str) -> None:
    with pytest.raises(ListenError, match=f"--address-file {name} can't be written"):
        write_address(Path(name), HostPort(host="127.0.0.1", port=1))


def test_one_address_of_a_name_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (host, 0)) for host in ("198.51.100.7", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)

    check_address(HostPort(host="both.example", port=0))

    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found[:1])
    with pytest.raises(ListenError, match="no address of this machine"):
        check_address(HostPort(host="both.example", port=0))
