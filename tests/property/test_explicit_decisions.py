"""Explicit mode decides what the rules of the policy say of the name or address that an application asks for (N5)."""

from __future__ import annotations

import dataclasses
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.support import strategies
from tests.support.oracle import Oracle, is_odd
from tests.support.policies import compile_good
from xds import names
from xds.explain.connection import Connection, Fate, Outcome, Protocol
from xds.explain.explicit import ask
from xds.facts import Facts
from xds.policy.model import Direct, DomainPattern

if TYPE_CHECKING:
    from xds.explain.connection import Address
    from xds.policy.model import Network, Policy

PORT = 15002
EXAMPLES = max(1, settings().max_examples // 3)
"""Each compiles a policy of both modes."""
NOWHERE = ip_address("203.0.113.99")
"""An address that no rule and no proxy of these policies has, in place of the one that nobody knows."""


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_names_are_decided_by_names_and_addresses_by_networks(data: st.DataObject) -> None:
    policy = dataclasses.replace(data.draw(strategies.policies()), explicit_port=PORT, server_first_ports=())
    facts = data.draw(strategies.facts())
    snapshot = compile_good(policy, facts)

    for _ in range(8):
        method = data.draw(st.sampled_from(["CONNECT", "GET"]))
        drawn = data.draw(strategies.connections(policy))
        is_named = data.draw(st.booleans())
        assume(not (is_named and drawn.protocol is Protocol.OTHER))
        host = drawn.name.rpartition(":")[0] or drawn.name if is_named else drawn.dialled.rpartition(":")[0]
        authority = f"{host}:{drawn.port}"

        assert ask(snapshot, method, authority).outcome == expect(policy, facts, method, authority), (method, authority)


def expect(policy: Policy, facts: Facts, method: str, authority: str) -> Outcome:
    """Say what must become of a request, in the words of the oracle for captured connections."""
    host, _, port = authority.rpartition(":")
    by_name = Connection(NOWHERE, int(port), Protocol.HTTP_11, authority)
    if is_odd(by_name) or not host:
        return Outcome(Fate.FORBIDDEN)
    address = _address_of(host)
    if address is not None:
        protocol = Protocol.OTHER if method == "CONNECT" else Protocol.HTTP_11
        asked = Connection(address, int(port), protocol, "" if method == "CONNECT" else authority)
        outcome = Oracle(policy, facts).decide(asked)
    elif (host.lower().removesuffix("."), int(port)) in _proxies(policy):
        return Outcome(Fate.DIRECT, names.DIRECT_BY_NAME_CLUSTER)
    elif method == "CONNECT":
        outcome = Oracle(_for_names(policy, facts, method), Facts()).decide(
            Connection(NOWHERE, int(port), Protocol.TLS, host)
        )
    else:
        outcome = Oracle(_for_names(policy, facts, method), Facts()).decide(by_name)
    match outcome.fate:
        case Fate.CLOSED:
            return Outcome(Fate.FORBIDDEN)
        case Fate.DIRECT:
            return Outcome(Fate.DIRECT, names.DIRECT_BY_NAME_CLUSTER)
        case Fate.TUNNELLED if method == "CONNECT":
            return dataclasses.replace(outcome, target=authority)
        case _:
            return outcome


def _address_of(host: str) -> Address | None:
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        return None


def _proxies(policy: Policy) -> set[tuple[str, int]]:
    return {(endpoint.host, endpoint.port) for proxy in policy.proxies for endpoint in proxy.endpoints}


def _for_names(policy: Policy, facts: Facts, method: str) -> Policy:
    """
    Return what counts for a name that Envoy resolves itself: its rules without networks, the name believed (N20).

    But a name that must be at a synthetic address, where nothing is (N10), is nowhere.
    """

    def is_nowhere(networks: tuple[Network, ...]) -> bool:
        return bool(networks) and not _without_synthetic(networks, policy.synthetic_ranges)

    rules = []
    for rule in policy.rules:
        action = rule.action if method == "CONNECT" else rule.http_action
        dropped: tuple[type, ...] = (IPv4Network, IPv6Network)
        if action == Direct() and is_nowhere(rule.verify):
            dropped = (*dropped, DomainPattern)
        left = tuple(item for item in rule.destinations if not isinstance(item.host, dropped))
        rules.append(dataclasses.replace(rule, verify=(), destinations=left))
    chosen = policy.always_direct
    inside = chosen.cluster_local and not is_nowhere(facts.cluster_ranges)
    believed = dataclasses.replace(chosen, cluster_local=inside)
    return dataclasses.replace(policy, rules=tuple(rules), always_direct=believed, synthetic_ranges=())


def _without_synthetic(networks: tuple[Network, ...], synthetic: tuple[Network, ...]) -> list[Network]:
    """Return those of `networks` that have an address outside of all ranges: looked at from edge to edge."""
    left = []
    for network in networks:
        at = int(network.network_address)
        while at <= int(network.broadcast_address):
            inside = [item for item in synthetic if type(network.network_address)(at) in item]
            if not inside:
                left.append(network)
                break
            at = max(int(item.broadcast_address) for item in inside) + 1
    return left
