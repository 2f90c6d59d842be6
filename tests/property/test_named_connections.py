"""Applications that resolve names through Envoy: what is answered, and what becomes of what they dial then."""

from __future__ import annotations

import dataclasses
from ipaddress import ip_network
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import strategies
from tests.support.named import NamedOracle
from xds.compile import compile_snapshot
from xds.explain.connection import Connection, Protocol
from xds.explain.dns import resolve
from xds.explain.walk import Envoy
from xds.policy.model import DomainPattern, Policy

if TYPE_CHECKING:
    from xds.facts import Facts
    from xds.snapshot import Snapshot

slow = settings(
    max_examples=settings().max_examples // 2, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


def compile_captured(policy: Policy, facts: Facts) -> Snapshot:
    """Compile a policy of which it may be said that some names can't be answered."""
    compilation = compile_snapshot(policy, facts)
    assert not [item for item in compilation.diagnostics if item.is_error]
    assert compilation.snapshot is not None
    return compilation.snapshot


def hosts_of(policy: Policy) -> list[str]:
    patterns = [item.host for rule in policy.rules for item in rule.destinations]
    return sorted({item.name for item in patterns if isinstance(item, DomainPattern)})


@st.composite
def dialled(draw: st.DrawFn, policy: Policy) -> str:
    """Draw a name that `policy` speaks of, or one near it."""
    known = hosts_of(policy)
    name = draw(st.sampled_from(known) | strategies.names() if known else strategies.names())
    return draw(st.sampled_from(["", "", "www.", "a.b."])) + name


@slow
@given(data=st.data(), policy=strategies.captured_policies(), facts=strategies.facts())
def test_what_was_answered_is_decided_by_name(data: st.DataObject, policy: Policy, facts: Facts) -> None:
    snapshot = compile_captured(policy, facts)
    name = data.draw(dialled(policy))
    for address in resolve(snapshot, name):
        near = data.draw(strategies.connections(policy))
        connection = dataclasses.replace(near, address=address)

        expected = NamedOracle(policy, facts).decide(name, connection)
        assert Envoy(snapshot).take(connection).outcome == expected


@slow
@given(data=st.data(), policy=strategies.captured_policies(), facts=strategies.facts())
def test_what_may_go_direct_is_resolved_for_real(data: st.DataObject, policy: Policy, facts: Facts) -> None:
    snapshot = compile_captured(policy, facts)
    name = data.draw(dialled(policy))
    stated = {
        item.host.name
        for rule in policy.rules
        for item in rule.destinations
        if item.plain_tcp and isinstance(item.host, DomainPattern)
    }
    if resolve(snapshot, name) and name not in stated:
        port = data.draw(st.sampled_from(strategies.PORTS))
        for protocol in (Protocol.TLS, Protocol.HTTP_11):
            assert not NamedOracle(policy, facts).may_go_direct(name, port, protocol)


@slow
@given(data=st.data(), policy=strategies.captured_policies(), facts=strategies.facts())
def test_no_connection_goes_to_a_synthetic_address(data: st.DataObject, policy: Policy, facts: Facts) -> None:
    """Neither directly nor through a proxy, whatever the client shows."""
    snapshot = compile_captured(policy, facts)
    network = data.draw(st.sampled_from(policy.synthetic_ranges))
    known = [address for name in hosts_of(policy) for address in resolve(snapshot, name) if address in network]
    offset = st.integers(0, network.num_addresses - 1).map(lambda index: network.network_address + index)
    address = data.draw(st.sampled_from(known) | offset if known else offset)
    connection = dataclasses.replace(data.draw(strategies.connections(policy)), address=address)

    outcome = Envoy(snapshot).take(connection).outcome

    assert outcome.cluster != "direct"
    assert not any(str(address) in outcome.target for address in (address, connection.dialled)) or is_told(connection)


def is_told(connection: Connection) -> bool:
    return str(connection.address) in connection.name


@slow
@given(data=st.data(), policy=strategies.captured_policies(), facts=strategies.facts())
def test_other_names_move_no_address(data: st.DataObject, policy: Policy, facts: Facts) -> None:
    """A name that is answered before and after rules come, go and change places keeps its address."""
    kept = data.draw(st.permutations(policy.rules))[: data.draw(st.integers(0, len(policy.rules)))]
    before = compile_captured(policy, facts)
    after = compile_snapshot(dataclasses.replace(policy, rules=tuple(kept)), facts).snapshot
    assert after is not None
    stated, stated_after = (
        {item.host for rule in rules for item in rule.destinations if item.plain_tcp} for rules in (policy.rules, kept)
    )
    for name in hosts_of(policy):
        pattern = DomainPattern(name, subdomains=False)
        if pattern in stated and pattern in stated_after:
            assert (
                not resolve(after, name) or not resolve(before, name) or resolve(after, name) == resolve(before, name)
            )


def test_the_ranges_of_the_strategy_are_nobody_elses() -> None:
    """Or an example would now and then be one that is refused."""
    taken = [*strategies.BASES, *strategies.BASES_V6, *strategies.PROXY_ADDRESSES]
    ranges = [ip_network(text) for text in strategies.CAPTURED_RANGES]

    assert not any(ip_network(text)[0] in network for text in taken for network in ranges)
