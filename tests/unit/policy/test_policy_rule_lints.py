"""Rules and entries that never decide anything are told, with what comes first and what to do."""

from __future__ import annotations

from time import perf_counter

import pytest

from tests.unit.policy.policy_texts import codes, only, parse, rules
from xds.policy.parse import MAX_SHOWN

DENY = "{{name: {name}, to: {to}, action: deny}}"
DIRECT = "{{name: {name}, to: {to}, action: direct, verify: none}}"
BY_ADDRESS = "{{name: {name}, to: {to}, action: direct}}"


def document(*written: tuple[str, str], extra: str = "") -> str:
    """Return a document with rules, called a, b, c…, of forms and destinations."""
    lines = (form.format(name=chr(ord("a") + number), to=to) for number, (form, to) in enumerate(written))
    return rules(*lines, extra=extra)


NEVER_USED = {
    "the same names": ("{domains: [x.example]}", "{domains: [x.example]}"),
    "an exception after what it excepts from": ("{domains: [x.example]}", "{domains: [secret.x.example]}"),
    "what is below, and then a part of that": ("{domains: [.x.example]}", "{domains: [.y.x.example]}"),
    "a wider network": ("{cidrs: [10.0.0.0/8]}", "{cidrs: [10.1.0.0/16, 10.2.3.4]}"),
    "two halves of a network": ("{cidrs: [10.0.0.0/9, 10.128.0.0/9]}", "{cidrs: [10.0.0.0/8]}"),
    "four quarters, joined where they meet": (
        "{cidrs: ['2001:db8::/34', '2001:db8:4000::/34', '2001:db8:8000::/33']}", "{cidrs: ['2001:db8::/32']}",
    ),
    "two halves of a network, one of them on a port": (
        "{cidrs: ['10.0.0.0/9:80', 10.128.0.0/9]}", "{cidrs: ['10.0.0.0/8:80']}",
    ),
    "two halves of a network, the other one on a port": (
        "{cidrs: [10.0.0.0/9, '10.128.0.0/9:80']}", "{cidrs: ['10.0.0.0/8:80']}",
    ),
    "every port, then some": ("{domains: [x.example]}", "{domains: ['x.example:443']}"),
    "ports of any host": ("{ports: [80, 443]}", "{domains: ['x.example:443'], cidrs: ['192.0.2.1:80']}"),
    "ports one by one": ("{domains: ['x.example:80', 'x.example:81']}", "{domains: [x.example], ports: [80, 81]}"),
}  # fmt: skip


@pytest.mark.parametrize(("earlier", "later"), NEVER_USED.values(), ids=NEVER_USED)
def test_a_rule_that_earlier_ones_cover_is_never_used(earlier: str, later: str) -> None:
    form = BY_ADDRESS if "cidrs" in earlier or "{ports" in earlier else DIRECT

    found = only(parse(document((form, earlier), (DENY, later))))

    assert (found.code, found.where.key) == ("EX228", "spec.rules[1]")
    assert "`b` is never used: `a` (direct) comes first" in found.message
    assert found.hint == "put the rule before, or remove it"


USED = {
    "an exception before what it excepts from": ("{domains: [secret.x.example]}", "{domains: [x.example]}"),
    "the name beside what is below it": ("{domains: [.x.example]}", "{domains: [x.example]}"),
    "a part of a network before the whole": ("{cidrs: [10.1.0.0/16]}", "{cidrs: [10.0.0.0/8]}"),
    "two quarters that are not of one half": ("{cidrs: [10.64.0.0/10, 10.128.0.0/10]}", "{cidrs: [10.64.0.0/9]}"),
    "some ports, then every one": ("{domains: ['x.example:443']}", "{domains: [x.example]}"),
    "another port": ("{ports: [80]}", "{ports: [80, 443]}"),
    "a name that ends alike": ("{domains: [x.example]}", "{domains: [xx.example]}"),
    "networks do not cover names": ("{cidrs: [0.0.0.0/1, 128.0.0.0/1, '::/1', '8000::/1']}", "{domains: [x.example]}"),
}


@pytest.mark.parametrize(("earlier", "later"), USED.values(), ids=USED)
def test_a_rule_that_decides_something_is_no_finding(earlier: str, later: str) -> None:
    form = BY_ADDRESS if "cidrs" in earlier or "{ports" in earlier else DIRECT

    assert codes(parse(document((form, earlier), (DENY, later)))) == []


def test_an_entry_that_an_earlier_rule_sends_another_way_is_told_at_its_line() -> None:
    text = document(
        (DIRECT, "{domains: [x.example]}"),
        (DENY, "{domains: [new.example, secret.x.example, other.x.example], cidrs: [192.0.2.0/24]}"),
    )

    found = only(parse(text))

    assert (found.code, found.where.key) == ("EX229", "spec.rules[1].to.domains[2]")
    assert found.message.startswith("`other.x.example` and 1 more in the rule `b`")
    assert "`a` (direct)" in found.message


CAPTURED = "dns: {mode: capture, syntheticRange: [198.18.0.0/15, 'fd00:18::/64']}"


@pytest.mark.parametrize(
    ("later", "key", "shown"),
    [
        ("{domains: [y.example], cidrs: ['10.1.2.3/16:80']}", "cidrs[0]", "10.1.2.3/16:80"),
        ("{domains: [y.example], tcp: [{host: 10.1.2.3, ports: [80]}]}", "tcp[0].host", "10.1.2.3"),
        ("{domains: [y.example, 'B\u00fccher.Example.']}", "domains[1]", "B\u00fccher.Example."),
        ("{domains: ['*:8080', y.example]}", "domains[0]", "*:8080"),
        ("{domains: [y.example], tcp: [{host: DB.example.}]}", "tcp[0].host", "DB.example."),
    ],
)
def test_an_entry_is_found_however_it_is_written(later: str, key: str, shown: str) -> None:
    first = "{cidrs: [10.0.0.0/8], domains: [xn--bcher-kva.example], tcp: [{host: db.example}]}"
    ports = (DENY, "{ports: [8080]}")
    tunnel = DENY.replace("deny", "tunnel")

    found = only(parse(document((tunnel, first), ports, (tunnel, later), extra=CAPTURED)))

    code = "EX229" if "8080" in shown else "EX222"
    assert (found.code, found.where.key) == (code, f"spec.rules[2].to.{key}")
    assert found.message.startswith(f"`{shown}`")


def test_an_entry_that_an_earlier_rule_sends_the_same_way_is_a_repeat() -> None:
    found = only(parse(document((DENY, "{ports: [80]}"), (DENY, "{domains: ['x.example:80', y.example]}"))))

    assert (found.code, found.where.key) == ("EX222", "spec.rules[1].to.domains[0]")


def test_what_plain_http_gets_is_told_where_it_differs() -> None:
    first = "{name: a, to: {ports: [80]}, action: deny, http: {action: tunnel}}"

    found = only(parse(rules(first, DENY.format(name="b", to="{ports: [80]}"))))

    assert "`a` (deny, tunnel through corp for plain HTTP)" in found.message


def test_several_rules_that_cover_one_together_are_named_up_to_a_few() -> None:
    quarters = [(DENY, f"{{cidrs: [10.{64 * number}.0.0/10]}}") for number in range(4)]

    found = only(parse(document(*quarters, (DENY, "{cidrs: [10.0.0.0/8]}"))))

    assert "`a` (deny), `b` (deny), `c` (deny) and others come first" in found.message


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "'fd00:ec2::254'", "'fe80::/10'"])
def test_a_rule_that_a_built_in_bypass_disarms_is_told(address: str) -> None:
    found = only(parse(document((DENY, f"{{cidrs: [{address}]}}"))))

    assert found.code == "EX228"
    assert "alwaysDirect" in found.hint


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254"])
def test_what_is_direct_anyway_may_be_said_once_more(address: str) -> None:
    assert codes(parse(document((BY_ADDRESS, f"{{cidrs: [{address}]}}")))) == []
    assert codes(parse(document((BY_ADDRESS, f"{{cidrs: [{address}, 10.0.0.0/8]}}")))) == []
    assert codes(parse(f"httpProxy: deny\nhttpsProxy: deny\nnoProxy: {address},10.0.0.0/8\ndialect: go")) == []


def test_a_built_in_bypass_that_is_switched_off_covers_nothing() -> None:
    off = "alwaysDirect: {linkLocal: false}"

    assert codes(parse(document((DENY, "{cidrs: [169.254.169.254]}"), extra=off))) == []


def test_a_network_of_addresses_that_stand_for_names_never_matches() -> None:
    captured = "dns: {mode: capture, syntheticRange: [198.18.0.0/15, 'fd00:18::/64']}"

    found = only(parse(document((DENY, "{cidrs: [198.18.7.0/24]}"), extra=captured)))

    assert found.code == "EX228"
    assert "dns.syntheticRange" in found.message


def test_a_name_of_tcp_has_its_address_whatever_comes_first() -> None:
    captured = "dns: {mode: capture, syntheticRange: [198.18.0.0/15, 'fd00:18::/64']}"
    named = (DENY, "{tcp: [{host: db.example, ports: [5432]}]}")

    assert codes(parse(document((DENY, "{domains: [db.example]}"), named, extra=captured))) == []
    assert codes(parse(document(named, named, extra=captured))) == ["EX228"]


def test_a_bypass_in_its_networks_leaves_the_name_to_later_rules() -> None:
    confined = "{{name: {name}, to: {to}, action: direct, verify: 10.0.0.0/8}}"
    to = "{domains: [x.example]}"

    assert codes(parse(document((confined, to), (DENY, to)))) == []
    assert codes(parse(document((confined, to), (DENY, to), (DIRECT, to)))) == ["EX228"]
    assert codes(parse(document((confined, to), (confined, to)))) == ["EX228"]


def test_of_many_unused_rules_the_first_are_told_and_the_others_counted() -> None:
    many = [DENY.format(name=f"r{number}", to="{ports: [80]}") for number in range(51)]

    result = parse(rules(*many))

    assert codes(result) == ["EX228"] * 20
    assert [item for item in result.diagnostics if "(and so for 30 more)" in item.message] == [result.diagnostics[-1]]
    assert len(result.diagnostics) < MAX_SHOWN


def test_time_grows_with_the_rules_and_not_with_their_pairs() -> None:
    def seconds(count: int) -> float:
        lines = [DENY.format(name=f"r{number}", to=f"{{domains: [h{number}.x.example]}}") for number in range(count)]
        text = rules(*lines)
        began = perf_counter()
        assert codes(parse(text)) == []
        return perf_counter() - began

    seconds(100)
    assert seconds(4000) < 30 * seconds(400)
