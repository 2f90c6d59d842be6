"""Which clients go directly, entry by entry: the cases that people are surprised by, and what is said about them."""

from __future__ import annotations

import pytest

from tests.support.no_proxy_cases import draw
from xds.dialects.addresses import inet_aton
from xds.dialects.clients import CLIENTS, decide

ALL = frozenset(CLIENTS)
_SUFFIX = ("curl", "go", "python-urllib", "python-requests", "undici")
"""Those for which a name covers what is below it."""


@pytest.mark.parametrize(
    ("no_proxy", "host", "clients"),
    [
        pytest.param("x.example", "x.example", ALL, id="a name is itself for everybody"),
        pytest.param("x.example", "a.x.example", _SUFFIX, id="a name covers what is below for some"),
        pytest.param("x.example", "ax.example", (), id="a name is no suffix of text"),
        pytest.param("x.example", "X.Example", ALL, id="the host's letters may be of either case"),
        pytest.param("X.Example", "x.example", ALL, id="the entry's letters may be of either case"),
        pytest.param(".x.example", "a.x.example", ALL - {"java"}, id="a dot in front covers what is below"),
        pytest.param(
            ".x.example", "x.example", ALL - {"go", "axios", "java"}, id="a dot in front covers the name for most"
        ),
        pytest.param(
            "*.x.example", "a.x.example", ("go", "node", "undici", "axios", "java"), id="a star is known to some"
        ),
        pytest.param("*.x.example", "x.example", ("undici",), id="a star covers the name for one"),
        pytest.param("*x.example", "ax.example", ("axios", "java"), id="a star within a label"),
        pytest.param("x.example.", "x.example", ("curl",), id="an entry's trailing dot"),
        pytest.param("x.example", "x.example.", ("curl",), id="a host's trailing dot"),
        pytest.param(
            ".",
            "x.example.",
            ("go", "python-urllib", "python-requests", "dotnet", "node", "undici", "axios"),
            id="a dot alone covers names that end in one",
        ),
        pytest.param("x.*", "x.example", ("java",), id="a star at the end"),
        pytest.param("bücher.example", "xn--bcher-kva.example", ("go",), id="punycode of an entry"),
        pytest.param(
            "xn--bcher-kva.example",
            "bücher.example",
            ("curl", "go", "python-requests", "node", "undici", "axios"),
            id="punycode of a host",
        ),
    ],
)
def test_names(no_proxy: str, host: str, clients: frozenset[str] | tuple[str, ...]) -> None:
    assert _direct(no_proxy, host) == set(clients)


@pytest.mark.parametrize(
    ("no_proxy", "host", "clients"),
    [
        pytest.param("10.1.2.3", "10.1.2.3", ALL, id="an address is itself for everybody"),
        pytest.param("10.0.0.0/8", "10.1.2.3", ("curl", "go", "python-requests"), id="an IPv4 network"),
        pytest.param("10.9.9.9/8", "10.1.2.3", ("curl", "go", "python-requests"), id="a network with host bits"),
        pytest.param("0.0.0.0/0", "10.1.2.3", ("go",), id="a network of everything"),
        pytest.param("10.1.2.3/0", "10.1.2.3", ("curl", "go"), id="a length of 0 at the address itself"),
        pytest.param("10.0.0.0/33", "10.0.0.0", (), id="a length that is too long"),
        pytest.param("10.0.0.0/-1", "10.0.0.0", (), id="a negative length"),
        pytest.param("10.0.0.0/+8", "10.1.2.3", ("python-requests",), id="a length with a sign"),
        pytest.param("10/8", "0.0.0.1", ("python-requests",), id="a short network is another one"),
        pytest.param("10.", "10.1.2.3", (), id="a prefix of text is nothing"),
        pytest.param("10.*", "10.1.2.3", ("java",), id="a prefix with a star"),
        pytest.param("10.1.2.0-10.1.2.9", "10.1.2.3", ("node",), id="a range"),
        pytest.param("10.1.2.9-10.1.2.0", "10.1.2.3", (), id="a range that is upside down"),
        pytest.param("*.2.3", "10.1.2.3", ("node", "undici", "axios", "java"), id="the end of an address"),
        pytest.param("0.0.10.in-addr.arpa", "10.0.0.1", (), id="a reverse name"),
        pytest.param("10.1.2.3", "x.example", (), id="an address is no name"),
        pytest.param(
            "2001:db8::1", "2001:db8::1", ("curl", "go", "python-requests", "node"), id="IPv6 without brackets"
        ),
        pytest.param(
            "[2001:db8::1]",
            "[2001:db8::1]",
            ("python-urllib", "dotnet", "undici", "axios", "java"),
            id="IPv6 in brackets",
        ),
        pytest.param("2001:DB8:0::1", "2001:db8::1", ("curl", "go"), id="IPv6 in another notation"),
        pytest.param("2001:db8::/32", "2001:db8::1", ("curl", "go"), id="an IPv6 network"),
        pytest.param("::ffff:10.1.2.3", "10.1.2.3", ("go",), id="IPv4 within IPv6"),
        pytest.param("::ffff:10.0.0.0/104", "10.1.2.3", ("go",), id="an IPv4 network within IPv6"),
        pytest.param("2001:db8::/32", "10.1.2.3", (), id="the other family"),
        pytest.param("::/8", "10.1.2.3", (), id="the other family, which starts with zeros"),
        pytest.param(
            "127.0.0.1",
            "127.1",
            ALL - {"python-urllib", "python-requests", "go"},
            id="a short notation of the host",
        ),
    ],
)
def test_addresses(no_proxy: str, host: str, clients: frozenset[str] | tuple[str, ...]) -> None:
    assert _direct(no_proxy, host) == set(clients)


@pytest.mark.parametrize(
    ("no_proxy", "url_port", "clients"),
    [
        pytest.param("x.example:443", 443, ("go", "node", "undici", "axios"), id="the scheme's own port"),
        pytest.param("x.example:8443", 8443, ALL - {"curl", "dotnet", "java"}, id="a port that the URL shows"),
        pytest.param("x.example:8443", 443, (), id="another port"),
        pytest.param("x.example:", 443, ("go",), id="a colon without a port"),
        pytest.param("x.example:0", 443, ("undici", "axios"), id="port 0 is every port"),
        pytest.param("x.example:0443", 443, ("undici", "axios"), id="a port with a zero in front"),
        pytest.param("*:443", 443, ("axios",), id="a star with a port"),
    ],
)
def test_ports(no_proxy: str, url_port: int, clients: frozenset[str] | tuple[str, ...]) -> None:
    assert _direct(no_proxy, "x.example", url_port) == set(clients)


@pytest.mark.parametrize(
    ("no_proxy", "clients"),
    [
        pytest.param("", (), id="nothing"),
        pytest.param(",, ,", (), id="nothing but commas"),
        pytest.param("*", ALL - {"dotnet"}, id="a star alone"),
        pytest.param("other.example,*", ("go", "node", "axios", "java"), id="a star among others"),
        pytest.param(" *", ("go", "node", "axios", "java"), id="a star after a blank"),
        pytest.param("other.example, x.example ,", ALL, id="blanks around a comma"),
        pytest.param("other.example x.example", ("undici", "axios"), id="a blank instead of a comma"),
        pytest.param("x.example other.example", ("curl", "undici", "axios"), id="a blank after the first"),
        pytest.param("other.example;x.example", (), id="a semicolon"),
        pytest.param("other.example|x.example", ("java",), id="a bar"),
        pytest.param("http://x.example", (), id="a URL"),
    ],
)
def test_lists(no_proxy: str, clients: frozenset[str] | tuple[str, ...]) -> None:
    assert _direct(no_proxy, "x.example") == set(clients)


@pytest.mark.parametrize(
    ("host", "clients"),
    [("localhost", {"go", "java"}), ("127.0.0.2", {"go", "java"}), ("::1", {"go", "java"}), ("0.0.0.0", {"java"})],
)
def test_loopback_without_a_list(host: str, clients: set[str]) -> None:
    assert _direct("", host) == clients
    assert all(decide(client, "", host, 443).entry is None for client in clients)


@pytest.mark.parametrize(
    ("client", "no_proxy", "host", "why"),
    [
        ("dotnet", "10.0.0.0/8", "10.1.2.3", "the network `10.0.0.0/8` is not understood"),
        ("curl", "x.example:443", "x.example", "the port in `x.example:443` is not understood"),
        ("go", "x.example:80", "x.example", "`x.example:80` is for another port"),
        ("go", ".x.example", "x.example", "`.x.example` does not cover the name itself"),
        ("go", "*.x.example", "x.example", "`*.x.example` does not cover the name itself"),
        ("curl", "*.x.example", "a.x.example", "`*.x.example` is no wildcard here"),
        ("java", ".x.example", "a.x.example", "`.x.example` is no suffix here"),
        ("dotnet", "x.example", "a.x.example", "`x.example` stands for that name alone"),
        ("java", "x.example", "x.example.", "`x.example` differs by a trailing dot"),
        (
            "dotnet",
            "bücher.example",
            "xn--bcher-kva.example",
            "`bücher.example` does not cover a name that is written in another way",
        ),
        ("curl", "y.example x.example", "a.x.example", "`x.example` is not parted from its neighbour by a comma"),
        ("go", "y.example;x.example", "a.x.example", "`x.example` is not parted from its neighbour by a comma"),
        ("dotnet", "2001:db8::1", "2001:db8::1", "`2001:db8::1` is not in the notation that matches"),
        ("dotnet", "*", "x.example", "`*` does not count here"),
        ("go", "y.example", "x.example", "no entry matches"),
        ("go", "10.0.0.0/8,,11.1.1.1", "12.1.1.1", "no entry matches"),
    ],
)
def test_why_not(client: str, no_proxy: str, host: str, why: str) -> None:
    answer = decide(client, no_proxy, host, 443)
    assert (answer.goes_direct, answer.entry, answer.why) == (False, None, why)


def test_the_entry_that_matched_is_named_as_it_is_written() -> None:
    for client in CLIENTS:
        answer = decide(client, "y.example , X.Example ,*.x.example", "x.example", 443)
        assert (answer.goes_direct, answer.entry) == (True, "X.Example"), client


def test_every_answer_says_why_and_names_an_entry_of_the_list() -> None:
    for case in draw(1, 300):
        for client in CLIENTS:
            answer = decide(client, case.no_proxy, case.host, case.port, scheme=case.scheme)
            assert answer.why
            if answer.entry is not None:
                assert answer.goes_direct, client
                assert answer.entry.replace(" ", "") in case.no_proxy.replace(" ", ""), client


def test_clients_are_named_and_only_java_needs_a_translation() -> None:
    assert list(CLIENTS) == [
        "curl",
        "go",
        "python-urllib",
        "python-requests",
        "dotnet",
        "node",
        "undici",
        "axios",
        "java",
    ]
    assert all(client.name == name and client.title and client.source for name, client in CLIENTS.items())
    assert [name for name, client in CLIENTS.items() if not client.reads_environment] == ["java"]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("10.1.515", "10.1.2.3"),
        ("10.66051", "10.1.2.3"),
        ("167838211", "10.1.2.3"),
        ("0xa010203", "10.1.2.3"),
        ("012.1.2.3", "10.1.2.3"),
        ("256.1.2.3", None),
        ("10.1.65536", None),
        ("08.1.2.3", None),
        ("1.2.3.4.5", None),
        ("1..3", None),
        ("x", None),
        ("", None),
    ],
)
def test_old_notations_of_addresses(text: str, address: str | None) -> None:
    found = inet_aton(text)
    assert (None if found is None else str(found)) == address


def test_a_zone_and_a_name_that_has_no_punycode_match_nothing() -> None:
    assert not _direct("fe80::/10,fe80::1", "fe80::1%eth0")
    assert not _direct("x.example", f"{'ü' * 70}.example")


def test_an_unknown_client_is_refused() -> None:
    with pytest.raises(KeyError):
        decide("lynx", "", "x.example", 443)


def _direct(no_proxy: str, host: str, port: int = 443) -> set[str]:
    return {client for client in CLIENTS if decide(client, no_proxy, host, port).goes_direct}
