"""
What `explain` says of a connection is what a real Envoy does with it: its access log names the same chain and cluster.

A run with the profile `thorough` compares ten thousand connections over two hundred policies::

    CI=1 pytest --hypothesis-profile=thorough tests/property/test_explain_by_envoy.py
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from tests.support import strategies
from tests.support.access_log import await_lines
from tests.support.real_envoy import can_be_announced, has_room, run_envoy, without_logins, without_names
from xds import names
from xds.compile import compile_snapshot
from xds.explain.cause import Verdict
from xds.explain.connection import Connection, Fate, Protocol
from xds.explain.explanation import Question, Subject, explain
from xds.policy.model import DomainPattern, Tunnel

if TYPE_CHECKING:
    from xds.explain.explanation import Explanation
    from xds.facts import Facts
    from xds.policy.model import Destination, Policy, Proxy

POLICIES = max(12, settings().max_examples // 10)
"""Each has an Envoy of its own."""
CONNECTIONS = 50
"""To each of them."""
FIRST_PORT = 20_000
"""What tells connections apart, in the log."""


@st.composite
def asked(draw: st.DrawFn, policy: Policy, subject: Subject) -> tuple[Question, Connection]:
    """Draw a question, and the connection that it is about."""
    near = draw(strategies.connections(policy).filter(can_be_announced).filter(has_room))
    question = Question(host=str(near.address), port=near.port, protocol=near.protocol, shown=near.name)
    if near.protocol is not Protocol.HTTP_10 and draw(st.booleans()):
        # As it comes from an application that dials a name.
        host = draw(strategies.names())
        question = dataclasses.replace(question, host=host, shown=None, addresses=(near.address,))
        synthetic = explain(subject, dataclasses.replace(question, addresses=())).synthetic
        if synthetic:
            question = dataclasses.replace(question, addresses=synthetic[:1])
    (address,) = question.addresses or (near.address,)
    return question, dataclasses.replace(near, address=address, name=question.claimed)


@pytest.mark.e2e
@settings(
    max_examples=POLICIES,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
@given(data=st.data())
def test_a_real_envoy_logs_the_chain_and_cluster_that_are_explained(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    policy = without_logins(data.draw(strategies.policies() | strategies.captured_policies()))
    facts = data.draw(strategies.facts())
    if policy.proxies and data.draw(st.sampled_from(["", "more tunnels", "more tunnels"])):
        policy, facts = towards_proxies(policy, facts, data.draw(st.sampled_from(policy.proxies)))
    snapshot = compile_snapshot(policy, facts).snapshot
    assume(snapshot is not None)
    assert snapshot is not None
    subject = Subject(snapshot=snapshot, policy=policy, facts=facts)
    pairs = data.draw(st.lists(asked(policy, subject), min_size=CONNECTIONS, max_size=CONNECTIONS))
    explained = {FIRST_PORT + index: explain(subject, question) for index, (question, _) in enumerate(pairs)}

    directory = tmp_path_factory.mktemp("envoy")
    with run_envoy(without_names(snapshot), directory) as real:
        outcomes = {
            FIRST_PORT + index: real.take(connection, FIRST_PORT + index) for index, (_, connection) in enumerate(pairs)
        }
        inside = Counter(hop for item in explained.values() for hop in item.decision.arrival.hops[1:])
        lines = await_lines(real.log, explained, inside.total())

    for source, explanation in explained.items():
        decision, outcome = explanation.decision, outcomes[source]
        assert explanation.contradictions == (), explanation.question
        assert decision.arrival.outcome == outcome, explanation.question
        assert decision.arrival.chain == lines.chains[source], explanation.question
        assert [decision.arrival.hops[0].cluster or ""] == lines.clusters.get(source, [""]), explanation.question
        assert decision.cause is not None
        assert decision.cause.verdict is verdict_of(outcome.fate), explanation.question
        assert proxy_of(explanation) == outcome.cluster, explanation.question
    assert inside == Counter(lines.inside)


def towards_proxies(policy: Policy, facts: Facts, proxy: Proxy) -> tuple[Policy, Facts]:
    """Return a policy that lets more through to names and proxies: one wide network decides all behind it."""
    rules = [dataclasses.replace(rule, destinations=narrow(rule.destinations)) for rule in policy.rules]
    tunnel = Tunnel(proxy.name)
    narrowed = dataclasses.replace(
        policy,
        rules=tuple(rule for rule in rules if rule.destinations),
        default=dataclasses.replace(policy.default, action=tunnel, http_action=tunnel),
    )
    return narrowed, dataclasses.replace(facts, always_direct=(), cluster_direct=())


def narrow(destinations: tuple[Destination, ...]) -> tuple[Destination, ...]:
    """Leave out what matches most of the world."""
    return tuple(
        item
        for item in destinations
        if isinstance(item.host, DomainPattern) or (item.host is not None and item.host.prefixlen > 8) or item.ports
    )


def verdict_of(fate: Fate) -> Verdict:
    """Return what a rule must have said for this to happen."""
    match fate:
        case Fate.DIRECT:
            return Verdict.DIRECT
        case Fate.TUNNELLED | Fate.FORWARDED:
            return Verdict.PROXY
        case Fate.CLOSED | Fate.FORBIDDEN:
            return Verdict.REFUSED


def proxy_of(explanation: Explanation) -> str:
    """Return the cluster that the cause speaks of."""
    cause = explanation.decision.cause
    assert cause is not None
    if cause.verdict is Verdict.DIRECT:
        return names.DIRECT_CLUSTER
    return names.proxy_cluster(cause.proxy) if cause.verdict is Verdict.PROXY else ""
