"""What counts as a name, what as an address, and that nothing else passes."""

from __future__ import annotations

import re
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xds.compile.hosts import ADDRESS_HOST, HOST, NAME, SERVER_NAME_ADDRESS, UNNAMED_HOST

NAMES = [
    "api.example.com",
    "API.Example.com",
    "api.example.com.",
    "localhost",
    "web1",
    "3scale.example",
    "a.3com",
    "10x",
    "my_service.example",
    "_dmarc.example",
    "xn--bcher-kva.example",
    "-odd.example",
    "1.2.3.4.example",
]
ADDRESSES = ["0.0.0.0", "10.0.0.1", "255.255.255.255", "[::1]", "[2001:db8::1]", "[::ffff:10.0.0.1]"]
NEITHER = [
    pytest.param("", id="nothing"),
    pytest.param(".", id="the root"),
    pytest.param("a..", id="two dots at the end"),
    pytest.param(".a", id="an empty label"),
    pytest.param("a@b", id="a user"),
    pytest.param("a:x@b", id="a user with a password"),
    pytest.param("a,b", id="two Hosts"),
    pytest.param("a b", id="a space"),
    pytest.param("a/b", id="a path"),
    pytest.param("a\\b", id="a backslash"),
    pytest.param("a%2eb", id="an escape"),
    pytest.param("b\u00fccher.example", id="not ASCII"),
    pytest.param("\u212a.example", id="a letter outside ASCII whose small form is k"),
    pytest.param("a\n", id="a line break at the end"),
    pytest.param("127.1", id="a short address"),
    pytest.param("2130706433", id="an address as one number"),
    pytest.param("0x7f000001", id="an address in hexadecimal"),
    pytest.param("0x7f.0.0.0x1", id="an address whose last number is hexadecimal"),
    pytest.param("0x", id="a prefix without a number"),
    pytest.param("127.0.0.01", id="an address with an octal number"),
    pytest.param("1.2.3.256", id="a number too large for an address"),
    pytest.param("1.2.3.4.", id="an address with a dot at the end"),
    pytest.param("a.example.5", id="a last label that is a number"),
    pytest.param("[::1", id="half a bracket"),
    pytest.param("[fe80::1%eth0]", id="a zone"),
]


def fits(pattern: str, text: str) -> bool:
    return re.fullmatch(pattern, text) is not None


@pytest.mark.parametrize("port", ["", ":80", ":65535"])
@pytest.mark.parametrize("name", [*NAMES, *ADDRESSES])
def test_a_host_is_a_name_or_an_address_with_or_without_a_port(name: str, port: str) -> None:
    assert fits(HOST, name + port)


@pytest.mark.parametrize("name", NEITHER)
def test_nothing_else_is_a_host_or_a_server_name(name: str) -> None:
    assert not fits(HOST, name)
    assert not fits(NAME, name)
    assert not fits(SERVER_NAME_ADDRESS, name)
    assert not fits(ADDRESS_HOST, name)


@pytest.mark.parametrize("port", [":", ":x", ":80:80", ":123456", ":-1"])
def test_a_port_is_a_number_of_at_most_five_digits(port: str) -> None:
    assert not fits(HOST, f"a.example{port}")


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_no_address(name: str) -> None:
    assert fits(NAME, name)
    assert not fits(SERVER_NAME_ADDRESS, name)


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_is_no_name(address: str) -> None:
    assert not fits(NAME, address)
    assert fits(SERVER_NAME_ADDRESS, address)


@given(st.ip_addresses())
def test_every_address_is_told_from_every_name(address: object) -> None:
    host = f"[{address}]" if ip_address(str(address)).version == 6 else str(address)

    assert fits(HOST, host)
    assert fits(SERVER_NAME_ADDRESS, str(address))
    assert fits(ADDRESS_HOST, host)


@given(st.from_regex(NAME, fullmatch=True, alphabet=st.characters(max_codepoint=127)))
def test_no_name_is_taken_for_an_address(name: str) -> None:
    assert not fits(ADDRESS_HOST, name)
    assert name != UNNAMED_HOST
