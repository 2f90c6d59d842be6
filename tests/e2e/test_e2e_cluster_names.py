"""Names inside the cluster (`.svc`, `.cluster.local`), believed in its networks only (`--cluster-cidr`)."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import ProxyKind, World, open_world
from xds.demo.lab import API_ADDRESS, FILES_ADDRESS

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

NAMES = pytest.mark.parametrize("name", ["files.default.svc", "files.default.svc.cluster.local"])


@pytest.fixture(scope="module")
def cluster() -> Iterator[World]:
    """A world whose cluster is the corporate network."""
    with open_world(ProxyKind.TINYPROXY, server_options=("--cluster-cidr", "10.78.0.0/24")) as world:
        yield world
        assert world.leaked == 0, "the pod sent packets towards the Internet by itself"


def greet(world: World, address: str, name: str) -> bytes:
    """Say hello over TLS to `address`, claiming `name`; empty if the connection is closed instead."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with context.wrap_socket(world.connect(address, 443), server_hostname=name) as connection:
            connection.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
            return connection.recv(4096)
    except OSError:
        return b""


@NAMES
def test_an_honest_pod_reaches_a_service_directly(cluster: World, name: str) -> None:
    mark = cluster.proxy.mark()

    assert b"files.corp.example greets you over TLS." in greet(cluster, FILES_ADDRESS, name)
    assert name not in cluster.proxy.text(mark)


@NAMES
def test_a_pod_that_lies_is_asked_for_by_the_name_that_it_claims(cluster: World, name: str) -> None:
    """The proxy knows no such name; the address that was dialled is never reached by the lie."""
    mark = cluster.proxy.mark()

    assert b"greets you" not in greet(cluster, API_ADDRESS, name)
    assert cluster.proxy.wait_for(f"CONNECT {name}:443", mark)
