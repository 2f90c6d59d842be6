"""A real Envoy decides connections to synthetic addresses as the walk and the policy's own rules say."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from tests.support import strategies
from tests.support.named import NamedOracle
from tests.support.real_envoy import has_room, run_envoy, without_logins, without_names
from xds.compile import compile_snapshot
from xds.explain.dns import resolve
from xds.explain.walk import Envoy
from xds.policy.model import DomainPattern

if TYPE_CHECKING:
    from xds.explain.connection import Address
    from xds.policy.model import Policy
    from xds.snapshot import Snapshot

EXAMPLES = settings().max_examples // 20
"""Each starts an Envoy of its own."""


@pytest.mark.e2e
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
@given(data=st.data())
def test_a_real_envoy_does_at_synthetic_addresses_what_the_walk_says(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    policy, facts = without_logins(data.draw(strategies.captured_policies())), data.draw(strategies.facts())
    snapshot = compile_snapshot(policy, facts).snapshot
    assert snapshot is not None
    known = answers(snapshot, policy)
    assume(known)
    dialled = st.sampled_from(known)
    connections = data.draw(
        st.lists(st.tuples(dialled, strategies.connections(policy).filter(has_room)), min_size=20, max_size=30)
    )

    with run_envoy(without_names(snapshot), tmp_path_factory.mktemp("envoy")) as real:
        for (name, address), near in connections:
            connection = dataclasses.replace(near, address=address)
            outcome = real.take(connection)

            assert Envoy(snapshot).take(connection).outcome == outcome, connection
            assert NamedOracle(policy, facts).decide(name, connection) == outcome, connection


def answers(snapshot: Snapshot, policy: Policy) -> list[tuple[str, Address]]:
    hosts = [item.host for rule in policy.rules for item in rule.destinations]
    known = sorted({host.name for host in hosts if isinstance(host, DomainPattern)})
    asked = [name for host in known for name in (host, f"www.{host}")]
    return [(name, address) for name in asked for address in resolve(snapshot, name)]
