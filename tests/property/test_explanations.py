"""What `explain` gives as the cause agrees with what the compiled resources do, for every connection."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.support import strategies
from tests.support.oracle import Oracle
from xds.compile import compile_snapshot
from xds.explain.connection import Connection, Protocol
from xds.explain.explanation import Question, Subject, explain

if TYPE_CHECKING:
    from xds.facts import Facts
    from xds.policy.model import Policy

slow = settings(
    max_examples=settings().max_examples // 4, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
PORT = 15002


def subject_of(policy: Policy, facts: Facts) -> Subject:
    compilation = compile_snapshot(policy, facts)
    assume(compilation.snapshot is not None)
    assert compilation.snapshot is not None
    return Subject(snapshot=compilation.snapshot, policy=policy, facts=facts)


def question_of(connection: Connection) -> Question:
    """Ask about a connection to an address that shows whatever it shows."""
    return Question(
        host=str(connection.address), port=connection.port, protocol=connection.protocol, shown=connection.name
    )


@slow
@given(data=st.data())
def test_the_cause_agrees_with_the_resources(data: st.DataObject) -> None:
    policy, facts = data.draw(strategies.policies()), data.draw(strategies.facts())
    subject = subject_of(policy, facts)

    for _ in range(12):
        connection = data.draw(strategies.connections(policy))
        explanation = explain(subject, question_of(connection))

        assert explanation.contradictions == (), connection
        assert Oracle(policy, facts).accepts(connection, explanation.decision.arrival.outcome), connection


@slow
@given(data=st.data(), policy=strategies.captured_policies(), facts=strategies.facts())
def test_the_cause_agrees_where_names_have_addresses(data: st.DataObject, policy: Policy, facts: Facts) -> None:
    subject = subject_of(policy, facts)
    for _ in range(6):
        near = data.draw(strategies.connections(policy))
        question = dataclasses.replace(question_of(near), host=data.draw(strategies.names()), shown=None)

        explanation = explain(subject, question)

        assert explanation.contradictions == (), question


@slow
@given(data=st.data())
def test_every_part_of_the_address_space_is_looked_at(data: st.DataObject) -> None:
    """Where the address is not known, what is said of it holds for each one."""
    policy, facts = data.draw(strategies.policies()), data.draw(strategies.facts())
    subject = subject_of(policy, facts)
    near = data.draw(strategies.connections(policy))
    named = Question(host=data.draw(strategies.names()), port=near.port, protocol=near.protocol)

    everywhere = explain(subject, named)
    here = explain(subject, dataclasses.replace(named, addresses=(near.address,)))

    assert everywhere.contradictions == ()
    possible = {(branch.decision.fate, branch.decision.cluster) for branch in everywhere.branches}
    assert (here.decision.fate, here.decision.cluster) in possible


@slow
@given(data=st.data())
def test_the_cause_agrees_in_explicit_mode(data: st.DataObject) -> None:
    policy = dataclasses.replace(data.draw(strategies.policies()), explicit_port=PORT)
    facts = data.draw(strategies.facts())
    subject = subject_of(policy, facts)
    for _ in range(8):
        near = data.draw(strategies.connections(policy))
        host = data.draw(st.sampled_from([str(near.address), near.name.partition(":")[0] or "a.example"]))
        protocol = Protocol.HTTP_11 if near.protocol.is_http else near.protocol
        question = Question(host=host, port=near.port, protocol=protocol, is_explicit=True)

        assert explain(subject, question).contradictions == (), question
