"""Addresses that stand for names: where they come from, who has one, and what is found wrong."""

from __future__ import annotations

import dataclasses
from ipaddress import ip_address, ip_network

import pytest

from tests.support.policies import (
    CORP,
    WHERE,
    compile_good,
    default,
    endpoint,
    pattern,
    policy,
    proxy,
    rule,
    to,
)
from xds import names
from xds.compile import compile_snapshot
from xds.compile.builtin import builtin_rules
from xds.compile.decisions import build_plan
from xds.compile.synthetic import Synthetic, build_synthetic
from xds.explain.connection import Connection, Fate, Outcome, Protocol
from xds.explain.explicit import ask
from xds.explain.walk import Envoy
from xds.facts import DirectEndpoint, Facts
from xds.policy.model import Default, Deny, Destination, Direct, DnsMode, Policy, Proxy, Rule, Tunnel
from xds.resources import ResourceType

DIRECT, DENY, OTHER = Direct(), Deny(), Tunnel("other")
RANGES = ("198.20.0.0/15", "fd00:18::/64")
PLAN = build_plan((), lambda item: item.action, CORP)
"""Of no rules."""


def tcp(name: str, *ports: int) -> Destination:
    return Destination(pattern(f"={name}"), ports, plain_tcp=True)


def captured(
    *rules: Rule,
    ranges: tuple[str, ...] = RANGES,
    otherwise: Default | None = None,
    proxies: tuple[Proxy, ...] = (proxy(),),
) -> Policy:
    written = policy(*rules, synthetic=ranges, otherwise=otherwise or default(DIRECT), proxies=proxies)
    return dataclasses.replace(written, dns_mode=DnsMode.CAPTURE)


def synthetic_of(written: Policy, facts: Facts | None = None) -> Synthetic:
    rules = builtin_rules(written, facts or Facts()) + written.rules
    shields = written.synthetic_ranges
    plan = build_plan(rules, lambda item: item.action, written.default.action, shields)
    http_plan = build_plan(rules, lambda item: item.http_action, written.default.http_action, shields)
    synthetic = build_synthetic(written, rules, plan, http_plan)
    assert synthetic is not None
    return synthetic


def found_in(written: Policy, facts: Facts | None = None) -> list[tuple[str, str]]:
    return [(item.code, item.message) for item in compile_snapshot(written, facts or Facts()).diagnostics]


def take(written: Policy, address: str, port: int, protocol: Protocol = Protocol.OTHER, name: str = "") -> Outcome:
    connection = Connection(ip_address(address), port, protocol, name)
    return Envoy(compile_good(written)).take(connection).outcome


def test_without_capture_nothing_is_answered() -> None:
    written = dataclasses.replace(captured(rule(CORP, "a.example")), dns_mode=DnsMode.OFF)

    assert build_synthetic(written, written.rules, PLAN, PLAN) is None
    assert names.DNS_LISTENER not in compile_good(written).of(ResourceType.LISTENER)


def test_addresses_are_these_on_every_machine_for_ever() -> None:
    """Whoever changes them strands every client that holds an old answer."""
    synthetic = synthetic_of(captured(rule(CORP, tcp("db.example", 5432), "a.example")))

    assert {node: tuple(map(str, found)) for node, found in synthetic.answers.items()} == {
        "*.a.example": ("198.20.2.61", "fd00:18::23d"),
        "a.example": ("198.20.1.128", "fd00:18::180"),
        "db.example": ("198.21.210.231", "fd00:18::4d08:152e:37a9:d685"),
    }


def test_a_name_keeps_its_address_whatever_other_names_come_and_go() -> None:
    alone = synthetic_of(captured(rule(CORP, tcp("db.example"))))
    others = [tcp(f"host{index}.example", 1 + index) for index in range(50)]
    among = synthetic_of(captured(rule(DENY, "b.example"), rule(CORP, *others[:25], tcp("db.example"), *others[25:])))

    assert among.plain["db.example"] == alone.plain["db.example"]


def test_names_of_tcp_share_no_address_with_any_other() -> None:
    """In a range so small that those which clients show fall on few addresses."""
    shown = [f"host{index}.example" for index in range(40)]
    synthetic = synthetic_of(captured(rule(CORP, *shown, tcp("db.example")), ranges=("198.20.0.0/28",)))
    taken = {address for found in synthetic.shown.values() for address in found}

    assert len(synthetic.shown) == 80
    assert len(taken) <= 7
    assert not taken & set(synthetic.plain["db.example"])


@pytest.mark.parametrize("network", ["198.20.0.0/30", "198.20.0.0/24", "fd00::/126", "fd00::/64", "fd00::/16"])
def test_an_address_is_inside_its_range_and_neither_its_first_nor_its_last(network: str) -> None:
    hosts = [f"host{index}.example" for index in range(100)]
    synthetic = synthetic_of(captured(rule(CORP, *hosts, *map(tcp, ["x.example", "y.example"])), ranges=(network,)))
    inside = ip_network(network)

    found = {address for addresses in synthetic.answers.values() for address in addresses}
    assert found
    first, last = int(inside.network_address), int(inside.broadcast_address)
    assert all(first < int(address) < last for address in found)


def test_names_have_their_addresses_from_the_largest_range_of_each_family() -> None:
    wide = captured(rule(CORP, tcp("a.example")), ranges=("198.20.0.0/24", "100.64.0.0/10", "fd00::/64", "fc00::/32"))

    v4, v6 = synthetic_of(wide).plain["a.example"]
    assert v4 in ip_network("100.64.0.0/10")
    assert v6 in ip_network("fc00::/32")


@pytest.mark.parametrize(
    ("rules", "answered", "holes"),
    [
        pytest.param([rule(CORP, "=a.example")], ["a.example"], [], id="a tunnelled name"),
        pytest.param([rule(DENY, "=a.example")], ["a.example"], [], id="a denied name"),
        pytest.param([rule(DIRECT, "=a.example")], [], [], id="a direct name"),
        pytest.param([rule(CORP, "a.example")], ["*.a.example", "a.example"], [], id="a name and all below it"),
        pytest.param(
            [rule(DIRECT, "=b.a.example"), rule(CORP, ".a.example")],
            ["*.a.example"],
            ["b.a.example"],
            id="a direct name below a tunnelled wildcard",
        ),
        pytest.param(
            [rule(CORP, ".a.example"), rule(DIRECT, "=b.a.example")],
            ["*.a.example", "b.a.example"],
            [],
            id="a name that is direct too late",
        ),
        pytest.param(
            [rule(CORP, "=c.b.a.example"), rule(DIRECT, ".b.a.example"), rule(CORP, ".a.example")],
            ["*.a.example", "c.b.a.example"],
            ["*.b.a.example"],
            id="a tunnelled name in a hole",
        ),
        pytest.param([rule(CORP, to("=a.example", 443))], [], [], id="a name that the default sends direct elsewhere"),
        pytest.param([rule(CORP, "=a.example", http=DIRECT)], [], [], id="a name whose plain HTTP goes direct"),
        pytest.param(
            [rule(DIRECT, to("*", 22)), rule(CORP, "=a.example")], [], [], id="a name that is direct on a port"
        ),
        pytest.param([rule(CORP, tcp("a.example", 5432))], ["a.example"], [], id="a name of TCP on one of its ports"),
        pytest.param([rule(CORP, "10.0.0.0/8", to("*", 443))], [], [], id="networks and ports"),
    ],
)
def test_what_never_goes_direct_is_answered(rules: list[Rule], answered: list[str], holes: list[str]) -> None:
    synthetic = synthetic_of(captured(*rules))

    assert list(synthetic.answers) == answered
    assert list(synthetic.holes) == holes


def test_the_proxies_are_resolved_for_real_though_their_domain_is_tunnelled() -> None:
    written = captured(rule(CORP, ".corp.example"), proxies=(proxy("corp", endpoint("proxy.corp.example")),))

    assert synthetic_of(written).holes == ("proxy.corp.example",)


def test_names_inside_the_cluster_are_resolved_for_real() -> None:
    written = dataclasses.replace(captured(rule(CORP, ".a.cluster.local")), always_direct=policy().always_direct)
    inside = dataclasses.replace(written, always_direct=dataclasses.replace(written.always_direct, cluster_local=True))

    assert list(synthetic_of(written).answers) == ["*.a.cluster.local"]
    assert list(synthetic_of(inside).answers) == []


@pytest.mark.parametrize(
    ("rules", "code", "words"),
    [
        pytest.param([rule(CORP, ".com")], "EX505", "below 'com'", id="a wildcard below one label"),
        pytest.param(
            [rule(DIRECT, ".example"), rule(CORP, tcp("a.example", 1))], "EX506", "'a.example'", id="direct before"
        ),
        pytest.param(
            [rule(DIRECT, to("*", 22)), rule(CORP, tcp("a.example"))], "EX506", "'a.example'", id="a port direct before"
        ),
        pytest.param(
            [rule(CORP, "=a.example", http=DIRECT), rule(CORP, tcp("a.example"))], "EX506", "refused", id="plain HTTP"
        ),
    ],
)
def test_what_can_not_be_answered_is_worth_a_warning(rules: list[Rule], code: str, words: str) -> None:
    compilation = compile_snapshot(captured(*rules), Facts())
    (finding,) = compilation.diagnostics

    assert (finding.code, finding.is_error, finding.where) == (code, False, WHERE)
    assert words in finding.message
    assert compilation.snapshot is not None


def test_a_proxy_is_no_name_of_tcp() -> None:
    proxies = (proxy("corp", endpoint("proxy.corp.example")),)

    ((code, message),) = found_in(captured(rule(CORP, tcp("proxy.corp.example")), proxies=proxies))
    assert (code, "is a proxy" in message) == ("EX506", True)


def test_two_names_on_one_address_are_an_error_that_names_both() -> None:
    ((code, message),) = found_in(captured(rule(CORP, tcp("a.example"), tcp("b.example")), ranges=("198.20.0.0/30",)))

    assert code == "EX504"
    assert message == "a.example and b.example both come to 198.20.0.2"


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (Facts(addresses={"proxy.example": (ip_address("198.20.0.9"),)}), "198.20.0.9/32 (built-in: the proxy itself)"),
        (
            Facts(always_direct=(DirectEndpoint(reason="DNS servers", network=ip_network("198.20.0.53")),)),
            "198.20.0.53/32 (built-in: DNS servers)",
        ),
    ],
    ids=["a proxy", "a name server"],
)
def test_a_range_that_covers_what_is_real_is_an_error(facts: Facts, words: str) -> None:
    written = captured(proxies=(proxy("corp", endpoint("proxy.example")),))

    ((code, message),) = found_in(written, facts)
    assert code == "EX503"
    assert words in message


def test_a_range_inside_a_network_that_is_direct_is_fine() -> None:
    facts = Facts(always_direct=(DirectEndpoint(reason="pods", network=ip_network("198.0.0.0/8")),))

    assert found_in(captured(), facts) == []


DB = rule(CORP, tcp("db.example", 5432, 5433), tcp("queue.example", 5432), name="named")
BASE = captured(DB, rule(DENY, "=ads.example"), rule(CORP, ".partner.example"))


def address(written: Policy, node: str, version: int = 4) -> str:
    return next(str(item) for item in synthetic_of(written).answers[node] if item.version == version)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("port", [5432, 5433])
@pytest.mark.parametrize("protocol", [Protocol.OTHER, Protocol.TLS])
def test_a_client_that_shows_no_name_is_known_by_the_address(version: int, port: int, protocol: Protocol) -> None:
    outcome = take(BASE, address(BASE, "db.example", version), port, protocol)

    assert outcome == Outcome(Fate.TUNNELLED, "proxy/corp", f"db.example:{port}")


def test_two_names_on_one_port_are_told_apart() -> None:
    assert take(BASE, address(BASE, "queue.example"), 5432).target == "queue.example:5432"
    assert take(BASE, address(BASE, "db.example"), 5432).target == "db.example:5432"


def test_a_name_that_a_client_shows_decides_whatever_it_dialled() -> None:
    dialled = address(BASE, "db.example")

    assert take(BASE, dialled, 443, Protocol.TLS, "x.partner.example").target == "x.partner.example:443"
    assert take(BASE, dialled, 443, Protocol.TLS, "ads.example").fate is Fate.CLOSED
    assert take(BASE, dialled, 80, Protocol.HTTP_11, "x.partner.example").target == "http://x.partner.example/"


@pytest.mark.parametrize(
    ("node", "port", "protocol", "name", "fate"),
    [
        pytest.param("db.example", 22, Protocol.OTHER, "", Fate.CLOSED, id="a port that the default would dial"),
        pytest.param("db.example", 443, Protocol.TLS, "b.example", Fate.CLOSED, id="a server name that goes direct"),
        pytest.param("db.example", 80, Protocol.HTTP_11, "b.example", Fate.FORBIDDEN, id="a Host that goes direct"),
        pytest.param("db.example", 80, Protocol.HTTP_10, "", Fate.FORBIDDEN, id="HTTP/1.0 without Host"),
        pytest.param("db.example", 80, Protocol.HTTP_11, "198.20.0.1", Fate.FORBIDDEN, id="a Host that is an address"),
        pytest.param("*.partner.example", 443, Protocol.OTHER, "", Fate.CLOSED, id="no name, at a wildcard's address"),
        pytest.param("*.partner.example", 443, Protocol.TLS, "", Fate.CLOSED, id="TLS without a name, there"),
        pytest.param("*.partner.example", 443, Protocol.TLS, "192.0.2.1", Fate.CLOSED, id="an address for a name"),
    ],
)
@pytest.mark.parametrize("otherwise", [default(DIRECT), default(DENY)], ids=["default direct", "default deny"])
def test_nothing_is_dialled_at_an_address_that_stands_for_a_name(
    node: str, port: int, protocol: Protocol, name: str, fate: Fate, otherwise: Default
) -> None:
    written = dataclasses.replace(BASE, default=otherwise)

    assert take(written, address(written, node), port, protocol, name) == Outcome(fate)


@pytest.mark.parametrize("dialled", ["198.20.0.7", "198.21.255.254", "fd00:18::7"])
@pytest.mark.parametrize(
    ("protocol", "name"),
    [(Protocol.OTHER, ""), (Protocol.TLS, "x.partner.example"), (Protocol.TLS, ""), (Protocol.HTTP_11, "x.example")],
)
@pytest.mark.parametrize("otherwise", [default(), default(DIRECT)], ids=["default tunnel", "default direct"])
def test_an_address_that_stands_for_nothing_is_refused(
    dialled: str, protocol: Protocol, name: str, otherwise: Default
) -> None:
    assert take(dataclasses.replace(BASE, default=otherwise), dialled, 443, protocol, name).fate is Fate.CLOSED


def test_explicit_mode_asks_for_no_synthetic_address_and_for_names_as_ever() -> None:
    """A client that resolved the name itself should have asked for the name."""
    written = dataclasses.replace(BASE, explicit_port=15002, default=default())
    snapshot = compile_good(written)

    assert ask(snapshot, "CONNECT", f"{address(written, 'db.example')}:5432").outcome == Outcome(Fate.FORBIDDEN)
    assert ask(snapshot, "CONNECT", f"[{address(written, 'db.example', 6)}]:5432").outcome == Outcome(Fate.FORBIDDEN)
    assert ask(snapshot, "GET", "198.20.0.1").outcome == Outcome(Fate.FORBIDDEN)
    assert ask(snapshot, "CONNECT", "db.example:5432").outcome.target == "db.example:5432"


def test_by_default_other_ports_of_a_name_are_tunnelled_by_name() -> None:
    written = dataclasses.replace(BASE, default=default())

    assert take(written, address(written, "db.example"), 22).target == "db.example:22"


def test_rules_before_decide_on_names_of_tcp_too() -> None:
    written = captured(rule(DENY, to(".example", 5433)), rule(OTHER, to("*", 1)), DB, proxies=TWO)
    dialled = address(written, "db.example")

    assert take(written, dialled, 5433) == Outcome(Fate.CLOSED)
    assert take(written, dialled, 1) == Outcome(Fate.TUNNELLED, "proxy/other", "db.example:1")
    assert take(written, dialled, 5432) == Outcome(Fate.TUNNELLED, "proxy/corp", "db.example:5432")


TWO = (proxy(), proxy("other"))


def test_ports_that_a_proxy_takes_no_connect_for_are_refused() -> None:
    limited = dataclasses.replace(proxy(), connect_ports=(5433,))
    written = captured(DB, proxies=(limited,))

    assert take(written, address(written, "db.example"), 5432) == Outcome(Fate.CLOSED)
    assert take(written, address(written, "db.example"), 5433).target == "db.example:5433"


def test_a_new_name_leaves_every_other_chain_as_it_is() -> None:
    more = dataclasses.replace(BASE, rules=(*BASE.rules, rule(CORP, tcp("late.example", 5432), "y.example")))
    before, after = (Envoy(compile_good(item)).chains for item in (BASE, more))

    assert {name: bytes(after[name]) for name in before} == {name: bytes(chain) for name, chain in before.items()}
    assert set(after) - set(before) == {"tunnel-tcp-name/corp/late.example"}


def test_chains_depend_on_no_address() -> None:
    moved = dataclasses.replace(BASE, synthetic_ranges=(ip_network("100.64.0.0/10"),))

    one, other = (Envoy(compile_good(item)).chains for item in (BASE, moved))
    assert {name: bytes(chain) for name, chain in one.items()} == {name: bytes(other[name]) for name in other}


@pytest.mark.parametrize("has_ipv6", [True, False])
def test_a_listener_answers_on_each_loopback_address(*, has_ipv6: bool) -> None:
    listeners = compile_good(BASE, Facts(has_ipv6=has_ipv6)).of(ResourceType.LISTENER)

    assert names.DNS_LISTENER in listeners
    assert (names.DNS_LISTENER_6 in listeners) is has_ipv6
