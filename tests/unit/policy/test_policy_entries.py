"""The grammar of entries (N1, N2, N4, N7, N8): each form, each dialect, each refusal."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from xds.policy.hosts import Problem
from xds.policy.model import Dialect, DomainPattern, Network
from xds.policy.patterns import Entry, parse_entry, split_entries


def read(text: str, dialect: Dialect = Dialect.GO) -> Entry:
    entry = parse_entry(text, dialect)
    assert isinstance(entry, Entry), entry
    return entry


def refuse(text: str, dialect: Dialect = Dialect.GO) -> Problem:
    problem = parse_entry(text, dialect)
    assert isinstance(problem, Problem), problem
    return problem


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("a.example,b.example", ("a.example", "b.example")),
        ("a.example b.example", ("a.example", "b.example")),
        (" a.example ,\n\t b.example,, ", ("a.example", "b.example")),
        ("a.example;b.example", ("a.example;b.example",)),
        ("", ()),
    ],
)
def test_a_list_in_one_text_splits_at_commas_and_white_space(text: str, entries: tuple[str, ...]) -> None:
    assert split_entries(text) == entries


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Foo.COM", "foo.com"),
        ("foo.com.", "foo.com"),
        (" foo.com ", "foo.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.Example.", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("faß.example".replace("ß", "ss"), "fass.example"),
        ("中国。example", "xn--fiqs8s.example"),
        ("a_b.example", "a_b.example"),
        ("3com.example", "3com.example"),
        ("1.2.3.example", "1.2.3.example"),
        ("x" * 63 + ".example", "x" * 63 + ".example"),
    ],
)
def test_a_name_is_lower_case_punycode_without_the_trailing_dot(text: str, name: str) -> None:
    assert read(text).host == DomainPattern(name)


READINGS = {
    # dialect: what name.example, .name.example and *.name.example stand for (apex, subdomains)
    Dialect.GO: ((True, True), (False, True), (False, True)),
    Dialect.CURL: ((True, True), (True, True), None),
    Dialect.PYTHON: ((True, True), (True, True), None),
    Dialect.DOTNET: ((True, False), (True, True), None),
    Dialect.NODE: ((True, False), (True, True), (False, True)),
}


@pytest.mark.parametrize("dialect", Dialect)
def test_each_dialect_reads_each_form_its_own_way(dialect: Dialect) -> None:
    for text, reading in zip(("name.example", ".name.example", "*.name.example"), READINGS[dialect], strict=True):
        if reading is None:
            assert refuse(text, dialect).code == "EX208"
        else:
            assert read(text, dialect).host == DomainPattern("name.example", *reading)


@pytest.mark.parametrize(
    ("text", "network"),
    [
        pytest.param("1.2.3.4/8", "1.0.0.0/8", id="host bits are masked"),
        pytest.param("2001:db8::1/32", "2001:db8::/32", id="host bits of IPv6 are masked"),
        pytest.param("192.0.2.7", "192.0.2.7/32", id="an address is a network of one"),
        pytest.param("2001:DB8::1", "2001:db8::1/128", id="an IPv6 address is a network of one"),
        pytest.param("[2001:db8::1]", "2001:db8::1/128", id="brackets without a port"),
        pytest.param("::ffff:192.0.2.7", "192.0.2.7/32", id="IPv4 in IPv6 is IPv4"),
        pytest.param("::ffff:c000:207", "192.0.2.7/32", id="IPv4 in IPv6 is IPv4 in hexadecimal too"),
        pytest.param("::ffff:192.0.2.7/120", "192.0.2.0/24", id="a network of IPv4 in IPv6 is IPv4"),
        pytest.param("::ffff:0:0/96", "0.0.0.0/0", id="all of IPv4 in IPv6 is all of IPv4"),
        pytest.param("::ffff:0:0/95", "::fffe:0:0/95", id="a wider one is IPv6"),
        pytest.param("0.0.0.0/0", "0.0.0.0/0", id="everything"),
        pytest.param("::", "::/128", id="the unspecified address"),
    ],
)
def test_addresses_and_networks_have_one_normal_form(text: str, network: str) -> None:
    assert read(text).host == ip_network(network)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("git.partner.example:22", DomainPattern("git.partner.example"), 22),
        (".x.example:8443", DomainPattern("x.example", apex=False), 8443),
        ("*.x.example:8443", DomainPattern("x.example", apex=False), 8443),
        ("x.example.:443", DomainPattern("x.example"), 443),
        ("192.0.2.7:22", ip_network("192.0.2.7"), 22),
        ("10.0.0.0/8:22", ip_network("10.0.0.0/8"), 22),
        ("[2001:db8::1]:443", ip_network("2001:db8::1"), 443),
        ("[2001:db8::]/32:443", ip_network("2001:db8::/32"), 443),
        ("2001:db8::/32:443", ip_network("2001:db8::/32"), 443),
        ("2001:db8::443", ip_network("2001:db8::443"), None),
        ("x.example:00443", DomainPattern("x.example"), 443),
        ("*", None, None),
        ("*:22", None, 22),
    ],
)
def test_a_port_follows_the_last_colon_but_never_a_bare_ipv6_address(
    text: str, host: DomainPattern | Network | None, port: int | None
) -> None:
    entry = read(text)
    assert (entry.host, entry.port) == (host, port)


@pytest.mark.parametrize(
    ("text", "code", "hint"),
    [
        ("", "EX201", "remove"),
        (".", "EX201", "empty part"),
        ("*.", "EX201", "empty part"),
        ("..x.example", "EX201", "empty part"),
        ("a..example", "EX201", "empty part"),
        ("x.example..", "EX201", "empty part"),
        ("-a.example", "EX201", "hyphens"),
        ("a-.example", "EX201", "hyphens"),
        ("a!b.example", "EX201", "letters"),
        ("x" * 64 + ".example", "EX201", "63"),
        ("a." * 130 + "example", "EX201", "253"),
        ("é." * 130 + "example", "EX201", "253"),
        ("straße.example", "EX201", "xn--"),
        ("\u00ad\ufb01\u2100.example", "EX201", "letters"),
        ("ü" * 63 + ".example", "EX201", "xn--"),
        ("http://x.example", "EX201", "host only"),
        ("user@x.example", "EX201", "host only"),
        ("a.example;b.example", "EX202", "commas"),
        ("a.example|b.example", "EX202", "commas"),
        ("a.example, b.example", "EX202", "one entry per list item"),
        ("a.example b.example", "EX202", "one entry per list item"),
        ("foo*.x.example", "EX204", "*.name.example"),
        ("a.*.x.example", "EX204", "*.name.example"),
        ("*x.example", "EX204", "*.name.example"),
        ("*.*.example", "EX204", "*.name.example"),
        ("**", "EX204", "*.name.example"),
        (".*.example", "EX204", "*.name.example"),
        ("10.0.0.*", "EX204", "CIDR"),
        ("10.0.0.0/33", "EX205", "at most 32"),
        ("2001:db8::/129", "EX205", "at most 128"),
        ("10.0.0.0/", "EX205", "10.0.0.0/8"),
        ("10.0.0.0/255.0.0.0", "EX205", "10.0.0.0/8"),
        ("10.0.0.0/-1", "EX205", "10.0.0.0/8"),
        ("10.0.0.0/8/8", "EX205", "10.0.0.0/8"),
        ("10/8", "EX205", "10.0.0.0/8"),
        ("10.0.0", "EX205", "192.0.2.7"),
        ("x.\uff11", "EX205", "all parts"),
        ("10.0.0.256", "EX205", "192.0.2.7"),
        ("010.0.0.1", "EX205", "192.0.2.7"),
        ("10.0.0.1-10.0.0.9", "EX205", "as CIDRs"),
        ("fe80::1%eth0", "EX205", "`%`"),
        ("[fe80::1%25eth0]:443", "EX205", "`%`"),
        ("2001:db8:::1", "EX205", "2001:db8::/32"),
        ("a:b:c", "EX205", "2001:db8::/32"),
        ("[2001:db8::1", "EX205", "[2001:db8::1]:443"),
        ("[10.0.0.1]:443", "EX205", "[2001:db8::1]:443"),
        ("[x.example]:443", "EX205", "[2001:db8::1]:443"),
        ("[2001:db8::1]443", "EX205", "[2001:db8::1]:443"),
        ("x.example/8", "EX205", "10.0.0.0/8"),
        ("x.example:", "EX206", "colon"),
        ("x.example:https", "EX206", "colon"),
        ("x.example:0", "EX206", "colon"),
        ("x.example:65536", "EX206", "colon"),
        ("x.example:-1", "EX206", "colon"),
        ("x.example:4 43", "EX202", "one entry"),
        ("x.example:\u0664\u0664", "EX206", "colon"),
        ("x.example:443443443443", "EX206", "colon"),
        ("192.0.2.7:", "EX206", "colon"),
        ("10.0.0.0/8:x", "EX206", "colon"),
        ("[2001:db8::1]:", "EX206", "colon"),
    ],
)
def test_what_does_not_fit_the_grammar_is_refused_with_a_remedy(text: str, code: str, hint: str) -> None:
    problem = refuse(text)
    assert problem.code == code
    assert hint in problem.hint
    assert problem.message
