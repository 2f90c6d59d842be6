"""The compiled matcher trees and routes decide every connection as the ordered rules of the policy do (N5)."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import strategies
from tests.support.oracle import Oracle
from tests.support.policies import compile_good
from xds.explain.walk import Envoy

EXAMPLES = 3 * settings().max_examples
"""This is the property that everything else leans on."""


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_an_envoy_decides_what_the_first_matching_rule_says(data: st.DataObject) -> None:
    policy, facts = data.draw(strategies.policies()), data.draw(strategies.facts())
    envoy, oracle = Envoy(compile_good(policy, facts)), Oracle(policy, facts)

    for _ in range(12):
        connection = data.draw(strategies.connections(policy))

        assert oracle.accepts(connection, envoy.take(connection).outcome), connection
