"""Warnings: one per kind and document, with a count, the first place, and a way to end them."""

from __future__ import annotations

import pytest

from tests.unit.policy.policy_texts import PROXY, codes, good, long_form, only, parse, to_rule
from xds.dialects.clients import decide
from xds.policy.model import Destination, DomainPattern

SHORT = "httpProxy: deny\nhttpsProxy: deny\n"
BELIEVING = f"{SHORT}noProxyVerify: none\n"


@pytest.mark.parametrize(
    ("dialect", "entry", "says"),
    [
        ("go", "a.example", "the name and all below it, but by .NET and Node.js as the name alone"),
        ("go", ".a.example", "all below the name, but by curl, Python, .NET and Node.js as the name and all below it"),
        ("go", "'*.a.example'", "all below the name, but by curl, Python and .NET as nothing"),
        ("go", "10.0.0.0/8", "networks, but by Python's urllib, .NET and Node.js not at all"),
    ],
)
def test_an_entry_that_clients_read_differently_is_a_warning_that_names_them(
    dialect: str, entry: str, says: str
) -> None:
    text = f"{BELIEVING if 'example' in entry else SHORT}noProxy: [{entry}]\n"
    found = only(parse(text))
    assert (found.code, found.where.key) == ("EX220", "noProxy[0]")
    assert says in found.message
    assert f"dialect: {dialect}" in found.hint
    assert codes(parse(f"{text}dialect: {dialect}\n")) == []


def test_a_port_in_no_proxy_is_a_warning_too() -> None:
    found = parse(f"{SHORT}noProxy: ['a.example:443', '192.0.2.7:443']\n").diagnostics
    (port,) = [item for item in found if "with the port, but by curl and .NET not at all" in item.message]
    assert "and 1 more" in port.message


def test_a_network_with_a_port_is_one_warning_and_known_to_no_client() -> None:
    text = f"{SHORT}noProxy: ['192.0.2.0/24:8443']\n"

    assert "by no client at all" in only(parse(text)).message
    assert not any(decide(client, "192.0.2.0/24:8443", "192.0.2.7", 8443).goes_direct for client in _CLIENTS)


_CLIENTS = ("go", "curl", "python-urllib", "python-requests", "dotnet", "node")


@pytest.mark.parametrize("entry", ["name.example:8443", "192.0.2.7:8443"])
def test_those_that_are_said_to_know_no_ports_know_none(entry: str) -> None:
    host = entry.removesuffix(":8443")
    told = {client for client in _CLIENTS if not decide(client, entry, host, 8443).goes_direct}
    assert {"curl", "dotnet"} <= told <= {"curl", "dotnet", "python-requests"}


def test_a_rule_is_warned_of_names_but_not_of_networks_and_ports() -> None:
    result = parse(to_rule("{domains: ['a.example:443'], cidrs: [10.0.0.0/8]}", "deny", dialect=None))
    assert codes(result) == ["EX220"]
    assert "Node.js" in only(result).message


def test_an_address_means_the_same_to_all() -> None:
    assert codes(parse(f"{SHORT}noProxy: [192.0.2.7, '2001:db8::1']\n")) == []


def test_ten_thousand_entries_are_one_warning_with_a_count() -> None:
    entries = "\n".join(f"- d{number}.example.com" for number in range(10_000))
    found = only(parse(f"{BELIEVING}noProxy:\n{entries}\n"))
    assert found.where.line == 5
    assert "`d0.example.com` and 9999 more" in found.message


@pytest.mark.parametrize(
    ("entries", "count"),
    [
        ("Foo.example, foo.example., FOO.EXAMPLE", 2),
        ("1.2.3.4/8, 1.0.0.0/8", 1),
        ("10.0.0.1, 10.0.0.1/32, '::ffff:10.0.0.1'", 2),
        ("a.example, .a.example, '*.a.example'", 2),
        ("'a.example:1', 'a.example:1', 'a.example:2'", 1),
        ("a.example, 'a.example:1'", 1),
        ("bücher.example, xn--bcher-kva.example", 1),
        (".a.example, a.example", 0),
        ("'a.example:1', a.example", 0),
    ],
)
def test_what_earlier_entries_cover_is_removed_with_one_warning(entries: str, count: int) -> None:
    result = parse(f"{BELIEVING if 'example' in entries else SHORT}dialect: go\nnoProxy: [{entries}]\n")
    assert codes(result) == (["EX222"] if count else [])
    if count > 1:
        assert f"and {count - 1} more" in only(result).message


@pytest.mark.parametrize("entry", ["localhost", "LOCALHOST.", ".localhost", "a.localhost", "'localhost:8080'"])
def test_localhost_by_name_bypasses_nothing(entry: str) -> None:
    result = parse(f"{SHORT}dialect: go\nnoProxy: [{entry}]\n")
    assert codes(result) == ["EX221"]
    assert result.policies[0].rules == ()


def test_a_single_label_bypasses_only_what_lies_below_it() -> None:
    result = parse(f"{BELIEVING}dialect: go\nnoProxy: [corp, kubernetes]\n")
    assert codes(result) == ["EX221"]
    assert "and 1 more" in only(result).message
    assert result.policies[0].rules[0].destinations == (
        Destination(DomainPattern("corp", apex=False)),
        Destination(DomainPattern("kubernetes", apex=False)),
    )


def test_a_single_label_that_stands_for_itself_alone_bypasses_nothing() -> None:
    result = parse(f"{SHORT}dialect: node\nnoProxy: [kubernetes]\n")
    assert (codes(result), result.policies[0].rules) == (["EX221"], ())


def test_what_lies_below_a_label_needs_no_warning() -> None:
    assert codes(parse(f"{BELIEVING}dialect: go\nnoProxy: [.svc, '*.local']\n")) == []


def test_a_refusal_keeps_names_that_show_nothing() -> None:
    result = parse(to_rule("{domains: [localhost, ads]}", "deny"))
    assert codes(result) == ["EX221", "EX221"]
    assert [item.host for item in result.policies[0].rules[0].destinations] == [
        DomainPattern("ads"),
        DomainPattern("localhost"),
    ]


@pytest.mark.parametrize(
    ("to", "warns"),
    [
        ("{domains: ['git.partner.example:22']}", True),
        ("{domains: [mail.example], ports: [25, 587]}", True),
        ("{domains: [mail.example], ports: [25, 443]}", False),
        ("{domains: [mail.example]}", False),
        ("{cidrs: ['10.0.0.0/8:22']}", False),
        ("{ports: [22]}", False),
    ],
)
def test_a_name_on_ports_where_the_server_speaks_first_is_a_warning(to: str, *, warns: bool) -> None:
    assert codes(parse(to_rule(to, "tunnel"))) == (["EX223"] if warns else [])


def test_the_ports_where_the_server_speaks_first_are_the_policys() -> None:
    to = "{domains: ['a.example:443', 'b.example:22']}"
    found = only(parse(to_rule(to, "tunnel", extra="serverFirstPorts: [443]")))
    assert "`a.example:443`" in found.message


def connect_ports(to: str, ports: str = "[443]", proxy: str = "", action: str = "tunnel") -> list[str]:
    shape = f"{PROXY[:-1]}, connectPorts: {ports}{proxy}}}"
    default = "default: {action: tunnel, proxy: p}"
    return codes(
        parse(long_form(f"{default}\ndialect: go\nproxies: {{p: {shape}}}\nrules: [{{to: {to}, action: {action}}}]"))
    )


def test_a_port_that_the_proxy_takes_no_connect_for_is_a_warning() -> None:
    assert connect_ports("{domains: ['a.example:8443']}") == ["EX224"]
    assert connect_ports("{domains: ['a.example:443'], ports: [8443]}") == []
    assert connect_ports("{tcp: [{host: 192.0.2.7, ports: [443, 5432]}]}") == ["EX224"]
    assert connect_ports("{domains: ['a.example:8443']}", "[443, 8443]") == []
    assert connect_ports("{domains: ['a.example:8443']}", action="deny") == []
    assert connect_ports("{domains: [a.example]}") == []


def test_plain_http_needs_no_connect_unless_the_proxy_denies_it() -> None:
    assert connect_ports("{domains: [a.example], ports: [80, 443]}") == []
    assert connect_ports("{domains: [a.example], ports: [80]}", proxy=", plainHTTP: deny") == ["EX224"]


def test_a_long_list_of_refused_ports_is_cut() -> None:
    text = long_form(
        f"default: {{action: tunnel}}\nproxies: {{p: {PROXY[:-1]}, connectPorts: [443]}}}}\n"
        "rules: [{name: many, to: {ports: [1, 2, 3, 4, 5, 6]}, action: tunnel}]"
    )
    found = only(parse(text))
    assert "1, 2, 3, 4, 5…" in found.message
    assert (found.where.key, found.where.line) == ("spec.rules[0]", 7)


def test_a_proxy_that_nothing_uses_is_a_warning() -> None:
    found = only(parse(long_form(f"default: {{action: deny}}\nproxies: {{p: {PROXY}}}")))
    assert (found.code, found.where.key) == ("EX308", "spec.proxies.p")


@pytest.mark.parametrize(
    "spec",
    [
        "default: {action: tunnel, proxy: p}",
        "default: {action: deny, http: {action: tunnel, proxy: p}}",
        "default: {action: deny}\nrules: [{to: {ports: [1]}, action: tunnel, proxy: p}]",
        "default: {action: deny}\nrules: [{to: {ports: [1]}, action: deny, http: {action: tunnel, proxy: p}}]",
    ],
)
def test_a_proxy_may_be_used_anywhere(spec: str) -> None:
    assert good(long_form(f"{spec}\nproxies: {{p: {PROXY}}}")).proxies[0].name == "p"
    assert codes(parse(long_form(f"{spec}\nproxies: {{p: {PROXY}}}"))) == []


def in_a_synthetic_range(*urls: str, ranges: str = "[198.18.0.0/15, 'fd00::/64']") -> list[tuple[str, str]]:
    endpoints = ", ".join(f"{{url: '{url}'}}" for url in urls)
    spec = (
        f"default: {{action: tunnel}}\nproxies: {{p: {{endpoints: [{endpoints}]}}}}\ndns: {{syntheticRange: {ranges}}}"
    )
    return [(item.code, item.where.key) for item in parse(long_form(spec)).diagnostics]


@pytest.mark.parametrize("host", ["198.18.0.9", "198.19.255.255", "[fd00::9]", "[::ffff:198.18.0.9]"])
def test_a_proxy_whose_address_stands_for_a_name_is_a_warning(host: str) -> None:
    """No CIDR matches such an address (N10), the one that guards against loops no more than others (N15)."""
    found = in_a_synthetic_range("http://proxy.example:3128", f"http://{host}:3128")
    assert found == [("EX312", "spec.proxies.p.endpoints[1].url")]


def test_a_proxy_beside_the_synthetic_ranges_needs_no_warning() -> None:
    urls = ("http://198.20.0.1:3128", "http://[fd00:0:0:1::]:3128", "http://proxy.example:3128")
    assert in_a_synthetic_range(*urls) == []
    assert in_a_synthetic_range("http://198.18.0.9:3128", ranges="[]") == []


def unknown_name(default: str, rules: str = "[]") -> list[tuple[str, str]]:
    text = long_form(f"default: {default}\nproxies: {{p: {PROXY}}}\nrules: {rules}")
    return [(item.code, item.where.key) for item in parse(text).diagnostics]


USES_P = "[{to: {ports: [1]}, action: tunnel}]"


@pytest.mark.parametrize("action", ["direct", "deny", "deny, http: {action: direct}"])
@pytest.mark.parametrize("word", ["connectIP", "deny", "direct"])
def test_a_word_for_connections_without_a_name_is_a_warning_where_no_default_tunnels(action: str, word: str) -> None:
    found = unknown_name(f"{{action: {action}, onUnknownName: {word}}}", USES_P)
    assert found == [("EX225", "spec.default.onUnknownName")]


@pytest.mark.parametrize(
    "default",
    [
        "{action: tunnel, onUnknownName: deny}",
        "{action: tunnel, http: {action: deny}, onUnknownName: deny}",
        "{action: deny, http: {action: tunnel}, onUnknownName: deny}",
        "{action: deny}",
    ],
)
def test_a_word_for_connections_without_a_name_counts_where_either_default_tunnels(default: str) -> None:
    assert unknown_name(default, USES_P) == []
