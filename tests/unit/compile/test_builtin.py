"""What is direct whatever the policy says (N12, N15), and how a policy switches it off."""

from __future__ import annotations

import dataclasses
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import pytest

from tests.support.policies import compile_good, default, endpoint, policy, proxy, rule
from xds.compile.builtin import builtin_rules
from xds.compile.refuse import REFUSE_ALL
from xds.explain.connection import Connection, Fate, Protocol
from xds.explain.walk import Envoy
from xds.facts import DirectEndpoint, Facts
from xds.policy.model import AlwaysDirect, Deny, Direct

if TYPE_CHECKING:
    from xds.policy.model import Policy

REFUSED = default(Deny())


def fate_of(written: Policy, address: str, port: int = 443, name: str = "", facts: Facts | None = None) -> Fate:
    protocol = Protocol.TLS if name else Protocol.OTHER
    connection = Connection(ip_address(address), port, protocol, name)
    return Envoy(compile_good(written, facts)).take(connection).outcome.fate


@pytest.mark.parametrize(
    ("address", "name", "switch"),
    [
        pytest.param("127.0.0.1", "", "loopback", id="loopback"),
        pytest.param("127.255.255.254", "", "loopback", id="all of 127.0.0.0/8"),
        pytest.param("::1", "", "loopback", id="IPv6 loopback"),
        pytest.param("169.254.169.254", "", "link_local", id="the metadata service"),
        pytest.param("fd00:ec2::254", "", "link_local", id="the metadata service on IPv6"),
        pytest.param("fe80::1", "", "link_local", id="IPv6 link-local"),
        pytest.param("10.0.0.1", "db.shop.svc", "cluster_local", id="a Service"),
        pytest.param("10.0.0.1", "db.shop.svc.cluster.local", "cluster_local", id="a Service in full"),
    ],
)
def test_a_built_in_bypass_is_there_until_it_is_switched_off(address: str, name: str, switch: str) -> None:
    chosen = AlwaysDirect()
    off = dataclasses.replace(chosen, **{switch: False})

    assert fate_of(policy(otherwise=REFUSED, always_direct=chosen), address, name=name) is Fate.DIRECT
    assert fate_of(policy(otherwise=REFUSED, always_direct=off), address, name=name) is Fate.CLOSED


@pytest.mark.parametrize(
    ("address", "name"),
    [
        pytest.param("10.0.0.1", "svc", id="svc itself is no Service"),
        pytest.param("10.0.0.1", "cluster.local", id="nor is cluster.local"),
        pytest.param("10.0.0.1", "localhost", id="localhost that resolves elsewhere (N13)"),
        pytest.param("10.0.0.1", "mysvc", id="a name that only ends alike"),
        pytest.param("128.0.0.1", "", id="the address after loopback"),
        pytest.param("169.253.255.255", "", id="the address before link-local"),
        pytest.param("fd00:ec2::253", "", id="a neighbour of the metadata service"),
    ],
)
def test_the_built_in_bypasses_are_no_wider_than_they_say(address: str, name: str) -> None:
    assert fate_of(policy(otherwise=REFUSED, always_direct=AlwaysDirect()), address, name=name) is Fate.CLOSED


def test_what_the_edges_found_out_is_direct_on_its_ports() -> None:
    found = DirectEndpoint(reason="the API server", network=ip_network("10.96.0.1/32"), ports=(6443,))
    facts = Facts(always_direct=(found,))
    written = policy(otherwise=REFUSED)

    assert fate_of(written, "10.96.0.1", 6443, facts=facts) is Fate.DIRECT
    assert fate_of(written, "10.96.0.1", 443, facts=facts) is Fate.CLOSED


@pytest.mark.parametrize(
    ("is_on", "fate"),
    [pytest.param(True, Fate.DIRECT, id="by default"), pytest.param(False, Fate.CLOSED, id="unless switched off")],
)
def test_what_the_cluster_tells_of_its_networks_is_direct(*, is_on: bool, fate: Fate) -> None:
    services = DirectEndpoint(reason="services", network=ip_network("10.96.0.0/12"))
    written = policy(otherwise=REFUSED, always_direct=AlwaysDirect(cluster_networks=is_on))

    assert fate_of(written, "10.96.0.7", facts=Facts(cluster_direct=(services,))) is fate


def test_what_the_operator_gave_stays_direct_where_the_clusters_networks_are_switched_off() -> None:
    found = DirectEndpoint(reason="services", network=ip_network("10.96.0.0/12"))
    written = policy(otherwise=REFUSED, always_direct=AlwaysDirect(cluster_networks=False))

    assert fate_of(written, "10.96.0.7", facts=Facts(always_direct=(found,), cluster_direct=(found,))) is Fate.DIRECT


def test_facts_with_one_reason_are_one_rule() -> None:
    dns = [DirectEndpoint(reason="DNS", network=ip_network(f"10.96.0.{last}/32"), ports=(53,)) for last in (10, 11)]
    api = DirectEndpoint(reason="the API server", network=ip_network("10.96.0.1/32"))

    rules = builtin_rules(policy(proxies=()), Facts(always_direct=(dns[0], api, dns[1])))

    assert [(item.name, len(item.destinations)) for item in rules] == [
        ("built-in: DNS", 2),
        ("built-in: the API server", 1),
    ]


def test_a_policy_with_nothing_built_in_has_no_empty_rule() -> None:
    assert builtin_rules(policy(proxies=()), Facts()) == ()


@pytest.mark.parametrize("protocol", Protocol)
@pytest.mark.parametrize(
    ("host", "address"),
    [
        pytest.param("10.0.0.9", "10.0.0.9", id="an address in the policy"),
        pytest.param("2001:db8::9", "2001:db8::9", id="an IPv6 address in the policy"),
        pytest.param("proxy.corp.example", "10.0.0.7", id="a name, by the first address it resolves to"),
        pytest.param("proxy.corp.example", "10.0.0.8", id="a name, by the second"),
    ],
)
def test_the_proxy_itself_is_passed_through_raw(host: str, address: str, protocol: Protocol) -> None:
    """N15: no rule of the policy comes before it, and plain HTTP to it is not parsed."""
    facts = Facts(addresses={"proxy.corp.example": (ip_address("10.0.0.7"), ip_address("10.0.0.8"))})
    written = policy(
        rule(Deny(), "*", "0.0.0.0/0", "::/0", "proxy.corp.example"),
        proxies=(proxy("corp", endpoint(host, 3128)),),
        always_direct=AlwaysDirect(loopback=False, link_local=False, cluster_local=False),
    )

    arrival = Envoy(compile_good(written, facts)).take(
        Connection(ip_address(address), 3128, protocol, "proxy.corp.example")
    )

    assert arrival.chain == "direct"


def test_another_port_of_the_proxys_machine_is_like_any_other() -> None:
    written = policy(proxies=(proxy("corp", endpoint("10.0.0.9", 3128)),), otherwise=REFUSED)

    assert fate_of(written, "10.0.0.9", 443) is Fate.CLOSED


def test_the_proxys_port_elsewhere_is_like_any_other() -> None:
    """istio#35526: a port number alone means nothing."""
    written = policy(proxies=(proxy("corp", endpoint("10.0.0.9", 3128)),), otherwise=REFUSED)

    assert fate_of(written, "10.0.0.10", 3128) is Fate.CLOSED


def test_a_proxy_whose_name_did_not_resolve_guards_nothing() -> None:
    written = policy(proxies=(proxy("corp", endpoint("proxy.corp.example")),))

    assert builtin_rules(written, Facts()) == ()


def test_built_in_rules_are_direct_for_every_protocol() -> None:
    rules = builtin_rules(policy(always_direct=AlwaysDirect()), Facts())

    assert {item.name for item in rules} == {
        "built-in: the proxy itself",
        "built-in: this host and its links",
        "built-in: names inside the cluster",
    }
    assert all(item.action == item.http_action == Direct() for item in rules)


@pytest.mark.parametrize("protocol", Protocol)
def test_pods_without_a_policy_reach_the_built_in_bypasses_only(protocol: Protocol) -> None:
    envoy = Envoy(compile_good(REFUSE_ALL))
    outside = Connection(ip_address("192.0.2.7"), 443, protocol, "a.example")
    local = Connection(ip_address("127.0.0.1"), 443, protocol, "a.example")

    assert envoy.take(outside).outcome.fate in (Fate.CLOSED, Fate.FORBIDDEN)
    assert envoy.take(local).outcome.fate is Fate.DIRECT
