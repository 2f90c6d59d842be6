"""A real Envoy decides as the walk in `xds/explain` and the policy's own rules say it does (N5)."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.support import strategies
from tests.support.oracle import Oracle
from tests.support.policies import compile_good
from tests.support.real_envoy import can_be_announced, run_envoy, without_logins
from xds.explain.walk import Envoy

EXAMPLES = settings().max_examples // 10
"""Each starts an Envoy of its own."""


@pytest.mark.e2e
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_a_real_envoy_does_what_the_walk_says(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    policy, facts = without_logins(data.draw(strategies.policies())), data.draw(strategies.facts())
    snapshot = compile_good(policy, facts)
    walk, oracle = Envoy(snapshot), Oracle(policy, facts)
    connections = data.draw(st.lists(strategies.connections(policy).filter(can_be_announced), min_size=20, max_size=30))

    with run_envoy(snapshot, tmp_path_factory.mktemp("envoy")) as real:
        for connection in connections:
            outcome = real.take(connection)

            assert walk.take(connection).outcome == outcome, connection
            assert oracle.accepts(connection, outcome), connection
