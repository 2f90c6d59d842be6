"""The listener: constant chains, and one tree that holds all that changes."""

from __future__ import annotations

import dataclasses
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest
from envoy_data_plane.envoy.config.core.v3 import TrafficDirection

from tests.support.policies import CORP, compile_good, default, endpoint, policy, proxy, rule, to
from xds import names
from xds.explain.connection import Connection, Fate, Outcome, Protocol
from xds.explain.walk import Envoy
from xds.facts import Facts
from xds.policy.model import Deny, Direct, PlainHttp, UnknownName
from xds.resources import ResourceType

if TYPE_CHECKING:
    from envoy_data_plane.envoy.config.listener.v3 import Listener

    from xds.policy.model import Policy, Rule

DIRECT, DENY = Direct(), Deny()
RULES = (
    rule(DIRECT, "a.example", "10.0.0.0/8", to("*", 22)),
    rule(DENY, to("ads.example", 80, 443), to("2001:db8::/32", 8443)),
)
BASE = policy(*RULES, synthetic=("198.18.0.0/15",))


def listener_of(written: Policy, facts: Facts | None = None) -> Listener:
    return Envoy(compile_good(written, facts)).listener


def chains_of(written: Policy) -> list[bytes]:
    return [bytes(chain) for chain in listener_of(written).filter_chains]


def body_of(written: Policy) -> bytes:
    return compile_good(written).of(ResourceType.LISTENER)[names.OUTBOUND_LISTENER].body


def with_rules(*rules: Rule) -> Policy:
    return dataclasses.replace(BASE, rules=rules)


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(with_rules(), id="all rules removed"),
        pytest.param(with_rules(*RULES, rule(DIRECT, "new.example")), id="a domain added"),
        pytest.param(with_rules(rule(DIRECT, "b.example", "10.0.0.0/8", to("*", 22)), RULES[1]), id="a domain changed"),
        pytest.param(with_rules(rule(DIRECT, "10.0.0.0/8", to("*", 22)), RULES[1]), id="a domain removed"),
        pytest.param(with_rules(*RULES, rule(DENY, "192.0.2.0/24")), id="a network added"),
        pytest.param(
            with_rules(rule(DIRECT, "a.example", "10.0.0.0/9", to("*", 22)), RULES[1]), id="a network changed"
        ),
        pytest.param(with_rules(rule(DIRECT, "a.example", to("*", 22)), RULES[1]), id="a network removed"),
        pytest.param(with_rules(*RULES, rule(CORP, to("*", 25))), id="a port added"),
        pytest.param(with_rules(rule(DIRECT, "a.example", "10.0.0.0/8", to("*", 23)), RULES[1]), id="a port changed"),
        pytest.param(with_rules(rule(DIRECT, "a.example", "10.0.0.0/8"), RULES[1]), id="a port removed"),
        pytest.param(with_rules(*RULES[::-1]), id="rules in another order"),
        pytest.param(with_rules(rule(CORP, "a.example"), RULES[1]), id="another action"),
        pytest.param(dataclasses.replace(BASE, default=default(DENY)), id="another default"),
        pytest.param(
            dataclasses.replace(BASE, default=default(unknown=UnknownName.DENY)), id="another answer to unknown names"
        ),
        pytest.param(dataclasses.replace(BASE, proxies=(proxy(connect_ports=(443,)),)), id="connectPorts"),
        pytest.param(dataclasses.replace(BASE, synthetic_ranges=()), id="no synthetic range"),
    ],
)
def test_a_change_of_rules_leaves_every_chain_byte_equal(changed: Policy) -> None:
    """N23: Envoy then applies it in place, and no connection is cut."""
    assert body_of(changed) != body_of(BASE)
    assert chains_of(changed) == chains_of(BASE)
    before, after = listener_of(BASE), listener_of(changed)
    before.filter_chain_matcher = after.filter_chain_matcher = None
    assert bytes(after) == bytes(before), "nor does anything else of the listener change"


def test_a_proxy_that_moves_leaves_every_chain_byte_equal() -> None:
    """Its endpoints are in its cluster; only the loop guard follows it, in the tree."""
    moved = dataclasses.replace(BASE, proxies=(proxy("corp", endpoint("192.0.2.77")),))

    assert chains_of(moved) == chains_of(BASE)


def test_chains_have_constant_names() -> None:
    of_proxy = ["tunnel-tls/corp", "tunnel-tcp/corp", "http/corp", "http-address/corp"]
    expected = ["direct", "deny", "http-deny", "http", *of_proxy]

    assert [chain.name for chain in listener_of(BASE).filter_chains] == expected


def test_each_proxy_has_chains_of_its_own_in_the_order_of_names() -> None:
    written = dataclasses.replace(BASE, proxies=(proxy("z"), proxy(), proxy("a", plain_http=PlainHttp.DENY)))

    found = [chain.name for chain in listener_of(written).filter_chains][4:]

    assert found == [
        *("tunnel-tls/a", "tunnel-tcp/a"),
        *("tunnel-tls/corp", "tunnel-tcp/corp", "http/corp", "http-address/corp"),
        *("tunnel-tls/z", "tunnel-tcp/z", "http/z", "http-address/z"),
    ]


def connect(protocol: Protocol, port: int, name: str = "", address: str = "203.0.113.10") -> Connection:
    return Connection(ip_address(address), port, protocol, name)


@pytest.mark.parametrize(
    ("connection", "expected"),
    [
        pytest.param(
            connect(Protocol.TLS, 443, "api.example"),
            Outcome(Fate.TUNNELLED, "proxy/corp", "api.example:443"),
            id="TLS by its server name",
        ),
        pytest.param(
            connect(Protocol.TLS, 443),
            Outcome(Fate.TUNNELLED, "proxy/corp", "203.0.113.10:443"),
            id="TLS without a name by its address",
        ),
        pytest.param(
            connect(Protocol.OTHER, 2525),
            Outcome(Fate.TUNNELLED, "proxy/corp", "203.0.113.10:2525"),
            id="other TCP by its address",
        ),
        pytest.param(
            connect(Protocol.OTHER, 2525, address="2001:db8::7"),
            Outcome(Fate.TUNNELLED, "proxy/corp", "[2001:db8::7]:2525"),
            id="an IPv6 address in brackets",
        ),
        pytest.param(
            connect(Protocol.HTTP_11, 8080, "api.example"),
            Outcome(Fate.FORWARDED, "proxy/corp", "http://api.example:8080/"),
            id="plain HTTP in absolute form, with the dialled port",
        ),
        pytest.param(
            connect(Protocol.HTTP_10, 80, "api.example"),
            Outcome(Fate.FORWARDED, "proxy/corp", "http://api.example/"),
            id="HTTP/1.0 too",
        ),
        pytest.param(
            connect(Protocol.HTTP_10, 80),
            Outcome(Fate.FORWARDED, "proxy/corp", "http://203.0.113.10:80/"),
            id="HTTP/1.0 without a Host by its address",
        ),
        pytest.param(
            connect(Protocol.HTTP_11, 80, "10.0.0.1"),
            Outcome(Fate.FORWARDED, "proxy/corp", "http://203.0.113.10:80/"),
            id="a Host that is an address by the address that was dialled",
        ),
        pytest.param(
            connect(Protocol.HTTP_11, 80, "api.example:8443"),
            Outcome(Fate.FORWARDED, "proxy/corp", "http://api.example/"),
            id="a Host with another port by the port that was dialled",
        ),
        pytest.param(
            connect(Protocol.TLS, 443, "10.0.0.1"),
            Outcome(Fate.TUNNELLED, "proxy/corp", "203.0.113.10:443"),
            id="a server name that is an address by the address that was dialled",
        ),
    ],
)
def test_each_protocol_is_asked_of_the_proxy_in_its_own_way(connection: Connection, expected: Outcome) -> None:
    assert Envoy(compile_good(policy())).take(connection).outcome == expected


@pytest.mark.parametrize(
    ("connection", "fate"),
    [
        pytest.param(connect(Protocol.TLS, 443, "api.example"), Fate.TUNNELLED, id="a port it takes"),
        pytest.param(connect(Protocol.OTHER, 2525), Fate.TUNNELLED, id="another"),
        pytest.param(connect(Protocol.TLS, 8443, "api.example"), Fate.CLOSED, id="TLS on a port it does not take"),
        pytest.param(connect(Protocol.OTHER, 22), Fate.CLOSED, id="TCP on a port it does not take"),
        pytest.param(connect(Protocol.HTTP_11, 80, "api.example"), Fate.FORWARDED, id="plain HTTP needs no CONNECT"),
    ],
)
def test_a_port_that_the_proxy_takes_no_connect_for_is_refused(connection: Connection, fate: Fate) -> None:
    """N19."""
    written = policy(proxies=(proxy(connect_ports=(443, 2525)),))

    assert Envoy(compile_good(written)).take(connection).outcome.fate is fate


def test_the_ports_of_one_proxy_are_not_those_of_another() -> None:
    written = policy(rule(CORP, "a.example"), proxies=(proxy(connect_ports=(443,)), proxy("other")))
    envoy = Envoy(compile_good(dataclasses.replace(written, default=default(type(CORP)("other")))))

    assert envoy.take(connect(Protocol.TLS, 8443, "a.example")).outcome.fate is Fate.CLOSED
    assert envoy.take(connect(Protocol.TLS, 8443, "b.example")).outcome.fate is Fate.TUNNELLED


@pytest.mark.parametrize(
    ("ports", "silent"),
    [
        pytest.param((), set(), id="none"),
        pytest.param((25,), {25}, id="one"),
        pytest.param((22, 25, 3306), {22, 25, 3306}, id="several"),
    ],
)
def test_no_inspector_waits_on_a_port_whose_server_speaks_first(ports: tuple[int, ...], silent: set[int]) -> None:
    envoy = Envoy(compile_good(policy(server_first_ports=ports)))

    for port in (21, 22, 23, 24, 25, 26, 3305, 3306, 3307):
        arrival = envoy.take(connect(Protocol.TLS, port, "mail.example"))
        assert arrival.chain == ("tunnel-tcp/corp" if port in silent else "tunnel-tls/corp")


def test_the_original_destination_is_known_on_every_port() -> None:
    first, *inspectors = listener_of(policy(server_first_ports=(25,))).listener_filters

    assert first.name == "envoy.filters.listener.original_dst"
    assert first.filter_disabled is None
    assert len(inspectors) == 2
    assert all(item.filter_disabled is not None for item in inspectors)


def test_a_client_that_stays_silent_is_let_through_after_a_while() -> None:
    listener = listener_of(policy())

    assert listener.continue_on_listener_filters_timeout
    assert listener.listener_filters_timeout is not None
    assert 0 < listener.listener_filters_timeout.total_seconds() <= 5


@pytest.mark.parametrize(
    ("has_ipv6", "expected"), [(True, ["127.0.0.1", "::1"]), (False, ["127.0.0.1"])], ids=["both", "IPv4 only"]
)
def test_it_listens_on_loopback_only(expected: list[str], *, has_ipv6: bool) -> None:
    listener = listener_of(policy(), Facts(has_ipv6=has_ipv6))
    found = [listener.address, *(item.address for item in listener.additional_addresses)]
    sockets = [item.socket_address for item in found if item]

    assert [socket.address for socket in sockets if socket] == expected
    assert {socket.port_value for socket in sockets if socket} == {names.OUTBOUND_PORT}
    assert listener.traffic_direction is TrafficDirection.OUTBOUND


def test_addresses_that_are_direct_for_all_are_decided_before_the_protocol() -> None:
    written = policy(rule(DIRECT, "10.0.0.0/8"), rule(DENY, "a.example"))

    arrival = Envoy(compile_good(written)).take(connect(Protocol.HTTP_11, 80, "a.example", "10.1.2.3"))

    assert arrival.chain == names.DIRECT_CHAIN


def test_plain_http_that_needs_no_host_never_waits_for_routes() -> None:
    envoy = Envoy(compile_good(policy(rule(DENY, "10.0.0.0/8"), rule(DIRECT, to("*", 8080)))))

    assert envoy.take(connect(Protocol.HTTP_11, 80, "a.example", "10.1.2.3")).chain == names.HTTP_DENY_CHAIN
    assert envoy.take(connect(Protocol.HTTP_11, 8080, "a.example")).chain == names.DIRECT_CHAIN
    assert envoy.take(connect(Protocol.HTTP_11, 80, "a.example")).chain == "http/corp"


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(policy(rule(DENY, "a.example")), id="a rule names a host"),
        pytest.param(policy(otherwise=default(unknown=UnknownName.DENY)), id="unknown names are treated differently"),
    ],
)
def test_plain_http_that_may_depend_on_its_host_is_left_to_the_routes(written: Policy) -> None:
    assert Envoy(compile_good(written)).take(connect(Protocol.HTTP_11, 80, "b.example")).chain == names.HTTP_CHAIN


@pytest.mark.parametrize(
    ("unknown", "fate"),
    [(UnknownName.CONNECT_IP, Fate.TUNNELLED), (UnknownName.DENY, Fate.CLOSED), (UnknownName.DIRECT, Fate.DIRECT)],
)
@pytest.mark.parametrize("protocol", [Protocol.TLS, Protocol.OTHER])
def test_a_connection_that_names_no_host_is_treated_as_the_policy_says(
    protocol: Protocol, unknown: UnknownName, fate: Fate
) -> None:
    """N18."""
    envoy = Envoy(compile_good(policy(otherwise=default(unknown=unknown))))

    assert envoy.take(connect(protocol, 443)).outcome.fate is fate


def test_a_rule_decides_a_connection_that_names_no_host_all_the_same() -> None:
    written = policy(rule(CORP, "203.0.113.0/24"), otherwise=default(unknown=UnknownName.DENY))

    assert Envoy(compile_good(written)).take(connect(Protocol.OTHER, 443)).outcome.fate is Fate.TUNNELLED


def test_tls_and_plain_http_may_part_ways() -> None:
    """N16."""
    envoy = Envoy(compile_good(policy(rule(CORP, "10.0.0.0/8", http=DENY))))

    assert envoy.take(connect(Protocol.TLS, 443, "a.example", "10.0.0.1")).outcome.fate is Fate.TUNNELLED
    assert envoy.take(connect(Protocol.HTTP_11, 443, "a.example", "10.0.0.1")).outcome.fate is Fate.FORBIDDEN


def test_a_look_up_that_knows_no_address_is_left_out() -> None:
    """Envoy refuses an empty matcher."""
    written = policy(rule(DENY, "198.18.1.0/24", "a.example"), synthetic=("198.18.0.0/15",))

    assert b"IPMatcher" not in bytes(listener_of(dataclasses.replace(written, proxies=(), default=default(DIRECT))))


def test_a_synthetic_address_is_no_address_to_any_rule() -> None:
    """N10."""
    envoy = Envoy(compile_good(policy(rule(DENY, "0.0.0.0/0"), synthetic=("198.18.0.0/15",))))

    assert envoy.take(connect(Protocol.TLS, 443, "a.example", "198.18.0.7")).outcome.fate is Fate.TUNNELLED
    assert envoy.take(connect(Protocol.TLS, 443, "a.example", "198.20.0.0")).outcome.fate is Fate.CLOSED


ALLOW_LIST = policy(
    rule(CORP, "api.example", ".ok.example", to("port.example", 80, 443), "203.0.113.0/24"), otherwise=default(DENY)
)
"""Everything is refused but a few names and one network."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("api.example:x@ads.example", id="a user before an at sign"),
        pytest.param("api.example:80@ads.example", id="a port before an at sign"),
        pytest.param("ads.example/.ok.example", id="a path before an allowed end"),
        pytest.param("ads.example?.ok.example", id="a query before an allowed end"),
        pytest.param("ads.example#.ok.example", id="a fragment before an allowed end"),
        pytest.param("ads.example\r\nx: y.ok.example", id="a line break before an allowed end"),
        pytest.param("ads.example %20.ok.example", id="a space before an allowed end"),
        pytest.param("..ok.example", id="an empty label"),
    ],
)
@pytest.mark.parametrize("protocol", [Protocol.TLS, Protocol.HTTP_11])
def test_an_allow_list_is_not_left_through_what_the_client_claims(protocol: Protocol, name: str) -> None:
    refused = Outcome(Fate.FORBIDDEN if protocol.is_http else Fate.CLOSED)

    assert Envoy(compile_good(ALLOW_LIST)).take(connect(protocol, 80, name, "198.51.100.7")).outcome == refused


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        (Protocol.TLS, Outcome(Fate.TUNNELLED, "proxy/corp", "203.0.113.10:80")),
        (Protocol.HTTP_11, Outcome(Fate.FORWARDED, "proxy/corp", "http://203.0.113.10:80/")),
    ],
    ids=["TLS", "HTTP"],
)
def test_the_permission_for_a_network_is_none_for_a_name(protocol: Protocol, expected: Outcome) -> None:
    """The proxy is asked for what the policy decided on: the address."""
    assert Envoy(compile_good(ALLOW_LIST)).take(connect(protocol, 80, "ads.example")).outcome == expected


@pytest.mark.parametrize("protocol", [Protocol.TLS, Protocol.HTTP_11])
def test_a_name_goes_before_an_address_where_one_action_takes_both(protocol: Protocol) -> None:
    outcome = Envoy(compile_good(ALLOW_LIST)).take(connect(protocol, 80, "www.ok.example")).outcome

    assert "www.ok.example" in outcome.target


def test_the_permission_for_a_port_is_none_for_another() -> None:
    envoy = Envoy(compile_good(ALLOW_LIST))

    asked = envoy.take(connect(Protocol.HTTP_11, 80, "port.example:8080", "198.51.100.7")).outcome
    refused = envoy.take(connect(Protocol.HTTP_11, 8080, "port.example:80", "198.51.100.7")).outcome

    assert asked == Outcome(Fate.FORWARDED, "proxy/corp", "http://port.example/")
    assert refused == Outcome(Fate.FORBIDDEN)


VERIFIED = policy(
    dataclasses.replace(rule(DIRECT, ".corp.example", name="corp"), verify=(ip_network("10.0.0.0/8"),)),
    rule(DENY, "ads.corp.example"),
)


@pytest.mark.parametrize(
    ("connection", "fate"),
    [
        pytest.param(
            connect(Protocol.TLS, 443, "www.corp.example", "10.1.2.3"),
            Fate.DIRECT,
            id="a name at an address of its own",
        ),
        pytest.param(
            connect(Protocol.TLS, 443, "www.corp.example"),
            Fate.TUNNELLED,
            id="a lie in the server name is asked by name",
        ),
        pytest.param(
            connect(Protocol.HTTP_11, 80, "www.corp.example", "10.1.2.3"),
            Fate.DIRECT,
            id="a Host at an address of its own",
        ),
        pytest.param(connect(Protocol.HTTP_11, 80, "www.corp.example"), Fate.FORWARDED, id="a lie in the Host"),
        pytest.param(connect(Protocol.TLS, 443, "ads.corp.example"), Fate.CLOSED, id="what follows decides the rest"),
    ],
)
def test_a_bypass_by_name_is_bound_to_its_networks(connection: Connection, fate: Fate) -> None:
    """N20."""
    assert Envoy(compile_good(VERIFIED)).take(connection).outcome.fate is fate
