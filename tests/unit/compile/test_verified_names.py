"""Names that are believed in some networks only (N20), and what follows them elsewhere."""

from __future__ import annotations

import dataclasses
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest

from tests.support.policies import CORP, compile_good, policy, rule, to
from xds import names
from xds.compile.decisions import Clause, first_match, subtract
from xds.explain.connection import Connection, Fate, Outcome, Protocol
from xds.explain.explicit import ask
from xds.explain.walk import Envoy
from xds.facts import Facts
from xds.policy.model import AlwaysDirect, Deny, Direct, DnsMode, Rule

if TYPE_CHECKING:
    from xds.policy.model import Destination, Network

DIRECT, DENY = Direct(), Deny()
INSIDE, OUTSIDE = "10.1.2.3", "203.0.113.9"
WITHIN = (ip_network("10.0.0.0/8"),)


def verified(*destinations: Destination | str, within: tuple[str, ...] = ("10.0.0.0/8",)) -> Rule:
    networks = tuple(ip_network(text) for text in within)
    return dataclasses.replace(rule(DIRECT, *destinations), verify=networks)


def fates(*rules: Rule, name: str, address: str, port: int = 443) -> tuple[Fate, Fate]:
    envoy = Envoy(compile_good(policy(*rules, synthetic=("198.18.0.0/15",))))
    return (
        envoy.take(Connection(ip_address(address), port, Protocol.TLS, name)).outcome.fate,
        envoy.take(Connection(ip_address(address), port, Protocol.HTTP_11, name)).outcome.fate,
    )


BOTH_DIRECT, BOTH_PROXY = (Fate.DIRECT, Fate.DIRECT), (Fate.TUNNELLED, Fate.FORWARDED)
BOTH_REFUSED = (Fate.CLOSED, Fate.FORBIDDEN)


@pytest.mark.parametrize(
    ("rules", "name", "address", "expected"),
    [
        pytest.param((verified("a.example"),), "a.example", INSIDE, BOTH_DIRECT, id="an honest client"),
        pytest.param((verified("a.example"),), "A.Example.", INSIDE, BOTH_DIRECT, id="in any spelling"),
        pytest.param((verified("a.example"),), "a.example", OUTSIDE, BOTH_PROXY, id="a lie, by default"),
        pytest.param(
            (verified("a.example"), rule(DENY, "www.a.example")),
            "www.a.example",
            OUTSIDE,
            BOTH_REFUSED,
            id="a lie that a narrower name refuses",
        ),
        pytest.param(
            (verified("www.a.example"), rule(DENY, "a.example")),
            "www.a.example",
            OUTSIDE,
            BOTH_REFUSED,
            id="a lie that a wider name refuses",
        ),
        pytest.param(
            (verified("a.example"), rule(DENY, "203.0.113.0/24")),
            "a.example",
            OUTSIDE,
            BOTH_REFUSED,
            id="a lie whose address is refused",
        ),
        pytest.param(
            (verified("a.example"), verified("a.example", within=("203.0.113.0/24",))),
            "a.example",
            OUTSIDE,
            BOTH_DIRECT,
            id="networks of two rules for one name",
        ),
        pytest.param(
            (verified(to("a.example", 80)),), "a.example", INSIDE, BOTH_PROXY, id="another port than the verified one"
        ),
        pytest.param(
            (verified("a.example", within=("198.18.0.0/16",)),),
            "a.example",
            "198.18.0.1",
            BOTH_PROXY,
            id="networks that are all synthetic",
        ),
        pytest.param(
            (verified("a.example", within=("198.0.0.0/8",)),),
            "a.example",
            "198.19.0.1",
            BOTH_PROXY,
            id="the synthetic part of a network",
        ),
        pytest.param(
            (verified("a.example", within=("198.0.0.0/8",)),),
            "a.example",
            "198.20.0.1",
            BOTH_DIRECT,
            id="the real part of a network",
        ),
    ],
)
def test_a_name_is_believed_where_it_can_be_true(
    rules: tuple[Rule, ...], name: str, address: str, expected: tuple[Fate, Fate]
) -> None:
    assert fates(*rules, name=name, address=address) == expected


@pytest.mark.parametrize(
    ("address", "fate"), [("10.96.0.10", Fate.DIRECT), (OUTSIDE, Fate.TUNNELLED)], ids=["a service", "a lie"]
)
def test_names_of_the_cluster_are_believed_in_its_ranges(address: str, fate: Fate) -> None:
    written = dataclasses.replace(policy(), always_direct=AlwaysDirect())
    known = Envoy(compile_good(written, Facts(cluster_ranges=(ip_network("10.96.0.0/12"),))))
    unknown = Envoy(compile_good(written, Facts()))
    connection = Connection(ip_address(address), 443, Protocol.TLS, "db.shop.svc.cluster.local")

    assert known.take(connection).outcome.fate is fate
    assert unknown.take(connection).outcome.fate is Fate.DIRECT


@pytest.mark.parametrize("method", ["CONNECT", "GET"])
def test_explicit_mode_resolves_the_name_itself_and_so_believes_it(method: str) -> None:
    snapshot = compile_good(dataclasses.replace(policy(verified("a.example")), explicit_port=15002))

    assert ask(snapshot, method, "a.example:443").outcome == Outcome(Fate.DIRECT, names.DIRECT_BY_NAME_CLUSTER)


@pytest.mark.parametrize("protocol", [Protocol.TLS, Protocol.HTTP_11])
def test_a_name_that_may_go_direct_gets_no_synthetic_address(protocol: Protocol) -> None:
    """N14: it is resolved for real, and the address decides."""
    written = dataclasses.replace(
        policy(verified("a.example"), rule(CORP, "b.example"), synthetic=("198.18.0.0/15", "fd00:18::/64")),
        dns_mode=DnsMode.CAPTURE,
    )
    envoy = Envoy(compile_good(written))

    fate = envoy.take(Connection(ip_address(INSIDE), 443, protocol, "a.example")).outcome.fate

    assert fate is Fate.DIRECT


def clause(*ports: int, within: tuple[Network, ...] = (), action: Direct | Deny = DIRECT) -> Clause:
    return Clause(ports, action, within)


@pytest.mark.parametrize(
    ("clauses", "expected"),
    [
        pytest.param(
            (clause(within=WITHIN), clause(action=DENY), clause()),
            (clause(within=WITHIN), clause(action=DENY)),
            id="something follows what may be a lie",
        ),
        pytest.param(
            (clause(443, within=WITHIN), clause(443, action=DENY)),
            (clause(443, within=WITHIN), clause(443, action=DENY)),
            id="a port that is not decided for every address",
        ),
        pytest.param(
            (clause(443, action=DENY), clause(80, 443, within=WITHIN)),
            (clause(443, action=DENY), clause(80, within=WITHIN)),
            id="a port that was decided before",
        ),
        pytest.param(
            (clause(443, within=WITHIN), clause(80, within=WITHIN)),
            (clause(80, 443, within=WITHIN),),
            id="neighbours that are verified alike",
        ),
        pytest.param(
            (clause(443, within=WITHIN), clause(80)),
            (clause(443, within=WITHIN), clause(80)),
            id="neighbours that are not",
        ),
    ],
)
def test_a_clause_that_may_be_a_lie_decides_nothing_for_those_after_it(
    clauses: tuple[Clause, ...], expected: tuple[Clause, ...]
) -> None:
    assert first_match(clauses) == expected


@pytest.mark.parametrize(
    ("networks", "holes", "left"),
    [
        (("10.0.0.0/8",), (), ("10.0.0.0/8",)),
        (("10.0.0.0/8",), ("10.0.0.0/9",), ("10.128.0.0/9",)),
        (("10.0.0.0/8",), ("10.0.0.0/8",), ()),
        (("10.0.0.0/8",), ("0.0.0.0/0",), ()),
        (("10.0.0.0/8", "2001:db8::/32"), ("2001:db8::/33", "192.0.2.0/24"), ("10.0.0.0/8", "2001:db8:8000::/33")),
        (("10.0.0.0/8",), ("10.0.0.0/10", "10.128.0.0/9"), ("10.64.0.0/10",)),
    ],
)
def test_what_is_left_of_networks(networks: tuple[str, ...], holes: tuple[str, ...], left: tuple[str, ...]) -> None:
    found = subtract(map(ip_network, networks), [ip_network(text) for text in holes])

    assert found == tuple(map(ip_network, left))
