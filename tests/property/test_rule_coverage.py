"""Rules and entries that are told to decide nothing: none of them ever does, and few that don't are missed."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address
from itertools import product
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.oracle import Oracle
from tests.support.policies import WHERE
from tests.support.strategies import captured_policies, connections, destinations, policies
from xds.explain.connection import Connection, Protocol
from xds.facts import Facts
from xds.policy.coverage import LINK_LOCAL, LOOPBACK, find_covered
from xds.policy.model import AlwaysDirect, Default, Deny, Destination, Direct, DomainPattern, Policy, Rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xds.explain.connection import Address
    from xds.policy.model import Network

MANY = settings(suppress_health_check=[HealthCheck.too_slow])


def deciding(policy: Policy, connection: Connection) -> tuple[int, list[Destination]] | None:
    """Return the first rule that `connection` matches, by number, and the destinations of it that do."""
    oracle = Oracle(policy, Facts())
    if oracle._is_always_direct(connection):
        return None
    for number, rule in enumerate(policy.rules):
        action = rule.http_action if connection.protocol.is_http else rule.action
        found = [
            item
            for item in rule.destinations
            if oracle._matches(item, connection) and (action != Direct() or oracle._is_verified(rule, item, connection))
        ]
        if found:
            return number, found
    return None


@MANY
@given(data=st.data(), policy=policies() | captured_policies())
def test_what_is_told_to_be_covered_never_decides_a_connection(data: st.DataObject, policy: Policy) -> None:
    covered = [{id(item.destination) for item in found} for _, found in find_covered(policy)]

    for _ in range(10):
        decided = deciding(policy, data.draw(connections(policy)))
        if decided is not None:
            number, found = decided
            assert not {id(item) for item in found} & covered[number]


FREE_ADDRESSES = ("203.0.113.77", "2a00::77")
PORTS = (22, 80, 443, 8080, 9999)
"""Those of destinations, and one that none has."""


@st.composite
def small_policies(draw: st.DrawFn) -> Policy:
    """Draw a policy that sends some destinations one way and some another, and leaves free addresses free."""
    wanted = destinations().filter(_leaves_free_addresses)
    found = draw(st.lists(st.lists(wanted, min_size=1, max_size=3), min_size=2, max_size=5))
    rules = [
        Rule(name=f"rule-{number}", destinations=tuple(items), action=Deny(), http_action=Deny(), where=WHERE)
        for number, items in enumerate(found, start=1)
    ]
    default = Default(action=Deny(), http_action=Deny())
    chosen = AlwaysDirect(loopback=draw(st.booleans()), link_local=draw(st.booleans()), cluster_local=False)
    return Policy(
        name="small", rules=tuple(rules), default=default, always_direct=chosen, server_first_ports=(), where=WHERE
    )


def _leaves_free_addresses(destination: Destination) -> bool:
    return not isinstance(destination.host, (IPv4Network, IPv6Network)) or destination.host.prefixlen > 0


def witnesses(policy: Policy, item: Destination) -> Iterator[Connection]:
    """Yield connections to `item`: if it decides any, it decides one of these."""
    ports = item.ports or PORTS
    if isinstance(item.host, DomainPattern):
        shown = [item.host.name] * item.host.apex + [f"zz.yy.{item.host.name}"] * item.host.subdomains
        for name, port in product(shown, ports):
            yield Connection(ip_address(FREE_ADDRESSES[0]), port, Protocol.TLS, name)
        return
    if item.host is None:
        known = [ip_address(text) for text in FREE_ADDRESSES]
    else:
        hosts = [destination.host for rule in policy.rules for destination in rule.destinations]
        networks = [host for host in hosts if isinstance(host, (IPv4Network, IPv6Network))]
        edges = [address for network in (*networks, *LOOPBACK, *LINK_LOCAL) for address in _around(network)]
        known = [address for address in edges if address in item.host]
    for address, port in product(known, ports):
        yield Connection(address, port, Protocol.OTHER)


def _around(network: Network) -> Iterator[Address]:
    """Yield the first and the last address of `network`, and those beside it."""
    first, last = int(network.network_address), int(network.broadcast_address)
    highest = 2**network.max_prefixlen - 1
    for number in {first, last, max(first - 1, 0), min(last + 1, highest)}:
        yield type(network.network_address)(number)


@MANY
@given(policy=small_policies())
def test_what_is_not_told_decides_some_connection(policy: Policy) -> None:
    for number, (rule, found) in enumerate(find_covered(policy)):
        covered = {id(item.destination) for item in found}
        for item in rule.destinations:
            if id(item) not in covered:
                assert any(_decides(policy, number, item, each) for each in witnesses(policy, item))


def _decides(policy: Policy, number: int, item: Destination, connection: Connection) -> bool:
    decided = deciding(policy, connection)
    return decided is not None and decided[0] == number and any(item is one for one in decided[1])
