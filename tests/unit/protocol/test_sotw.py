"""SotW, rule by rule. Sections are those of Envoy's api-docs/xds_protocol; `proto` is discovery.proto."""

from __future__ import annotations

import pytest

from tests.unit.protocol.script import Row, Stage, expect, no_world, play, sotw, world
from tests.unit.protocol.values import CDS, EDS, LDS, RDS, SDS, resource, snapshot, told
from xds.protocol.sotw import Sotw
from xds.protocol.stream import Stream

A1, A2 = resource(CDS, "a", "1"), resource(CDS, "a", "2")
B1, B2 = resource(CDS, "b", "1"), resource(CDS, "b", "2")
L1, L2, M1 = resource(LDS, "l", "1"), resource(LDS, "l", "2"), resource(LDS, "m", "1")
R1, R2, S1 = resource(RDS, "r", "1"), resource(RDS, "r", "2"), resource(RDS, "s", "1")
E1, E2 = resource(EDS, "e", "1"), resource(EDS, "e", "2")
K1 = resource(SDS, "k", "1")
AE1 = resource(CDS, "a", "1", endpoint="e")
AE2 = resource(CDS, "a", "2", endpoint="e")
FE1 = resource(CDS, "f", "1", endpoint="e")
VERSION_A1 = snapshot(A1).versions[CDS]
VERSION_A1_B1 = snapshot(A1, B1).versions[CDS]

ROWS = (
    Row(
        "a first CDS request without names is a wildcard",
        "How the client specifies what resources to return",
        [world(A1, B1), sotw(CDS), expect(("cluster", "a=1", "b=1"))],
    ),
    Row(
        "a first LDS request without names is a wildcard",
        "How the client specifies what resources to return",
        [world(L1), sotw(LDS), expect(("listener", "l=1"))],
    ),
    *(
        Row(
            f"a first {kind.name.lower()} request without names asks for nothing",
            "How the client specifies what resources to return",
            [world(E1, R1, K1), sotw(kind), expect()],
        )
        for kind in (EDS, RDS, SDS)
    ),
    Row(
        "a star is a wildcard, beside a name and without one",
        "How the client specifies what resources to return",
        [world(A1, B1), sotw(CDS, "*", "a"), expect(("cluster", "a=1", "b=1"))],
    ),
    Row(
        "a star means nothing for a type without wildcards",
        "How the client specifies what resources to return",
        [world(E1), sotw(EDS, "*"), expect()],
    ),
    Row(
        "the spec's example: unnamed, star and A, A, unnamed; the last unsubscribes from all",
        "How the client specifies what resources to return",
        [
            world(A1, B1),
            sotw(CDS),
            expect(("cluster", "a=1", "b=1")),
            sotw(CDS, "*", "a", nonce="1"),
            expect(("cluster", "a=1", "b=1")),
            sotw(CDS, "a", nonce="2"),
            expect(),
            sotw(CDS, nonce="2"),
            world(A2, B2),
            expect(),
        ],
    ),
    Row(
        "a narrowed wildcard follows only the names that are left",
        "Unsubscribing From Resources",
        [
            world(A1, B1),
            sotw(CDS, "*", "a"),
            expect(("cluster", "a=1", "b=1")),
            sotw(CDS, "a", nonce="1"),
            world(A1, B2),
            expect(),
            world(A2, B2),
            expect(("cluster", "a=2")),
        ],
    ),
    Row(
        "a wildcard over nothing is answered, so that a client can finish its start",
        "Grouping Resources into Responses",
        [world(), sotw(CDS), expect(("cluster",)), sotw(CDS, nonce="1"), expect()],
    ),
    Row(
        "one changed cluster brings all of them",
        "Grouping Resources into Responses",
        [
            world(A1, B1),
            sotw(CDS),
            expect(("cluster", "a=1", "b=1")),
            world(A2, B1),
            expect(("cluster", "a=2", "b=1")),
        ],
    ),
    Row(
        "one changed route comes alone",
        "Grouping Resources into Responses",
        [
            world(R1, S1),
            sotw(RDS, "r", "s"),
            expect(("route", "r=1", "s=1")),
            world(R2, S1),
            expect(("route", "r=2")),
        ],
    ),
    Row(
        "a cluster that is gone is left out of the next state",
        "Deleting Resources",
        [world(A1, B1), sotw(CDS), expect(("cluster", "a=1", "b=1")), world(A1), expect(("cluster", "a=1", "-b"))],
    ),
    Row(
        "the last cluster's end is an empty state",
        "Deleting Resources",
        [world(A1), sotw(CDS), expect(("cluster", "a=1")), world(), expect(("cluster", "-a"))],
    ),
    Row(
        "a named cluster that is gone, and comes back as it was, is told both times",
        "Deleting Resources",
        [
            world(A1),
            sotw(CDS, "a"),
            expect(("cluster", "a=1")),
            world(),
            expect(("cluster", "-a")),
            world(A1),
            expect(("cluster", "a=1")),
        ],
    ),
    Row(
        "a route that is gone is met with silence",
        "Deleting Resources",
        [world(R1), sotw(RDS, "r"), expect(("route", "r=1")), world(), expect()],
    ),
    Row(
        "a name that does not exist is met with silence until it does",
        "Knowing When a Requested Resource Does Not Exist",
        [world(), sotw(EDS, "e"), expect(), world(E1), expect(("endpoint", "e=1"))],
    ),
    Row(
        "a named cluster that does not exist is met with silence until it does",
        "Knowing When a Requested Resource Does Not Exist",
        [world(B1), sotw(CDS, "a"), expect(), world(A1, B1), expect(("cluster", "a=1"))],
    ),
    Row(
        "a newly named resource is sent, the others are not sent again",
        "Resource updates",
        [
            world(R1, S1),
            sotw(RDS, "r"),
            expect(("route", "r=1")),
            sotw(RDS, "r", "s", nonce="1"),
            expect(("route", "s=1")),
        ],
    ),
    Row(
        "a name dropped and asked for again is answered although nothing changed",
        "How the client specifies what resources to return",
        [
            world(R1),
            sotw(RDS, "r"),
            expect(("route", "r=1")),
            sotw(RDS, nonce="1"),
            expect(),
            sotw(RDS, "r", nonce="1"),
            expect(("route", "r=1")),
        ],
    ),
    Row(
        "an update of what was unsubscribed is silence",
        "Unsubscribing From Resources",
        [
            world(R1, S1),
            sotw(RDS, "r", "s"),
            expect(("route", "r=1", "s=1")),
            sotw(RDS, "s", nonce="1"),
            world(R2, S1),
            expect(),
        ],
    ),
    Row(
        "an ACK is not answered",
        "When to send an update",
        [world(A1), sotw(CDS), expect(("cluster", "a=1")), sotw(CDS, nonce="1", version="x"), expect()],
    ),
    Row(
        "an equal world is silence",
        "When to send an update",
        [world(A1), sotw(CDS), expect(("cluster", "a=1")), world(resource(CDS, "a", "1")), expect()],
    ),
    Row(
        "a NACK is not answered until the content changes, then once",
        "When to send an update",
        [
            world(A1),
            sotw(CDS),
            expect(("cluster", "a=1")),
            sotw(CDS, nonce="1", error="no"),
            expect(),
            world(A1),
            expect(),
            world(A2),
            expect(("cluster", "a=2")),
            expect(),
        ],
    ),
    Row(
        "a NACK that also names more is honoured for the names",
        "Resource updates",
        [
            world(R1, S1),
            sotw(RDS, "r"),
            expect(("route", "r=1")),
            sotw(RDS, "r", "s", nonce="1", error="no"),
            expect(("route", "s=1")),
        ],
    ),
    Row(
        "content that goes back to what was applied before a NACK is sent",
        "When to send an update",
        [
            world(A1),
            sotw(CDS),
            expect(("cluster", "a=1")),
            sotw(CDS, nonce="1"),
            world(A2),
            expect(("cluster", "a=2")),
            sotw(CDS, nonce="2", error="no"),
            world(A1),
            expect(("cluster", "a=1")),
        ],
    ),
    Row(
        "a stale nonce is neither read nor answered",
        "Resource updates",
        [
            world(R1, S1),
            sotw(RDS, "r"),
            expect(("route", "r=1")),
            world(R2, S1),
            expect(("route", "r=2")),
            sotw(RDS, "r", "s", nonce="1"),
            expect(),
            sotw(RDS, "r", "s", nonce="2"),
            expect(("route", "s=1")),
        ],
    ),
    Row(
        "a nonce that was never given is neither read nor answered",
        "Resource updates",
        [world(R1, S1), sotw(RDS, "r"), expect(("route", "r=1")), sotw(RDS, "r", "s", nonce="99"), expect()],
    ),
    Row(
        "a request written before the first response arrived is neither read nor answered",
        "Resource updates",
        [world(R1, S1), sotw(RDS, "r"), expect(("route", "r=1")), sotw(RDS, "r", "s"), expect()],
    ),
    Row(
        "an empty nonce is right as long as the client has accepted nothing",
        "proto: response_nonce",
        [
            world(R1, S1),
            sotw(RDS, "r"),
            expect(("route", "r=1")),
            sotw(RDS, "r", nonce="1", error="no"),
            sotw(RDS, "r", "s"),
            expect(("route", "s=1")),
        ],
    ),
    Row(
        "an empty nonce is stale once the client has accepted something",
        "proto: response_nonce",
        [
            world(R1, S1),
            sotw(RDS, "r"),
            expect(("route", "r=1")),
            sotw(RDS, "r", nonce="1"),
            sotw(RDS, "r", "s"),
            expect(),
        ],
    ),
    Row(
        "a nonce of an earlier stream does not keep a new one from being served",
        "Basic Protocol Overview",
        [world(A1), sotw(CDS, nonce="7"), expect(("cluster", "a=1"))],
    ),
    Row(
        "requests before the first response replace one another",
        "When to send an update",
        [world(R1, S1), sotw(RDS, "r"), sotw(RDS, "s"), expect(("route", "s=1"))],
    ),
    Row(
        "a wildcard that comes back with the current version is met with silence, and then with changes",
        "ACK/NACK and resource type instance version",
        [world(A1), sotw(CDS, version=VERSION_A1), expect(), world(A2), expect(("cluster", "a=2"))],
    ),
    Row(
        "a wildcard that comes back silently still learns what goes",
        "ACK/NACK and resource type instance version",
        [world(A1, B1), sotw(CDS, version=VERSION_A1_B1), expect(), world(A1), expect(("cluster", "a=1", "-b"))],
    ),
    Row(
        "a wildcard that comes back with another version gets the full state",
        "ACK/NACK and resource type instance version",
        [world(A1), sotw(CDS, version="older"), expect(("cluster", "a=1"))],
    ),
    Row(
        "a claimed version counts when a world is there to compare it with",
        "ACK/NACK and resource type instance version",
        [no_world(), sotw(CDS, version=VERSION_A1), expect(), world(A1), expect()],
    ),
    Row(
        "names come back to a full answer whatever version is claimed",
        "ACK/NACK and resource type instance version",
        [world(A1), sotw(CDS, "a", version=VERSION_A1), expect(("cluster", "a=1"))],
    ),
    Row(
        "a wildcard beside a name comes back to a full answer whatever version is claimed",
        "ACK/NACK and resource type instance version",
        [world(A1), sotw(CDS, "*", "a", version=VERSION_A1), expect(("cluster", "a=1"))],
    ),
    Row(
        "a name that went while its client was away is told by an empty state",
        "Deleting Resources",
        [world(), sotw(CDS, "a", version=VERSION_A1), expect(("cluster",))],
    ),
    Row(
        "without a world there is silence, and what was asked for is remembered",
        "envoy#5168",
        [no_world(), sotw(CDS), sotw(RDS, "r"), expect(), world(A1, R1), expect(("cluster", "a=1"), ("route", "r=1"))],
    ),
    Row(
        "a world that is lost leaves the client what it has",
        "envoy#5168",
        [world(A1), sotw(CDS), expect(("cluster", "a=1")), no_world(), expect(), world(A1), expect()],
    ),
    Row(
        "additions go CDS, EDS, LDS, RDS, SDS, whatever the order of the requests",
        "Eventual consistency considerations",
        [
            world(A1, E1, L1, R1, K1),
            sotw(SDS, "k"),
            sotw(RDS, "r"),
            sotw(LDS),
            sotw(EDS, "e"),
            sotw(CDS),
            expect(("cluster", "a=1"), ("endpoint", "e=1"), ("listener", "l=1"), ("route", "r=1"), ("secret", "k=1")),
        ],
    ),
    Row(
        "a cluster outlives the listener that is to stop using it",
        "Eventual consistency considerations",
        [
            world(A1, L1),
            sotw(CDS),
            sotw(LDS),
            expect(("cluster", "a=1"), ("listener", "l=1")),
            sotw(CDS, nonce="1"),
            sotw(LDS, nonce="2"),
            world(B1, L2),
            expect(("cluster", "a=1", "b=1"), ("listener", "l=2")),
            sotw(CDS, nonce="3"),
            expect(),
            sotw(LDS, nonce="4"),
            expect(("cluster", "b=1", "-a")),
        ],
    ),
    Row(
        "a client that refused the new listener keeps the clusters of the old one",
        "Eventual consistency considerations",
        [
            world(A1, L1),
            sotw(CDS),
            sotw(LDS),
            expect(("cluster", "a=1"), ("listener", "l=1")),
            sotw(LDS, nonce="2"),
            world(B1, L2),
            expect(("cluster", "a=1", "b=1"), ("listener", "l=2")),
            sotw(LDS, nonce="4", error="no"),
            expect(),
            world(B2, L2),
            expect(("cluster", "a=1", "b=2")),
            world(B2, M1),
            expect(("listener", "m=1", "-l")),
            sotw(LDS, nonce="6"),
            expect(("cluster", "b=2", "-a")),
        ],
    ),
    Row(
        "a changed cluster brings its unchanged endpoints again, and only those",
        "Resource warming",
        [
            world(AE1, E1, B1),
            sotw(CDS),
            sotw(EDS, "e"),
            expect(("cluster", "a=1", "b=1"), ("endpoint", "e=1")),
            world(AE2, E1, B1),
            expect(("cluster", "a=2", "b=1"), ("endpoint", "e=1")),
            world(AE2, E1, B2),
            expect(("cluster", "a=2", "b=2")),
        ],
    ),
    Row(
        "a second cluster with the same endpoints brings them again",
        "Resource warming",
        [
            world(AE1, E1),
            sotw(CDS),
            sotw(EDS, "e"),
            expect(("cluster", "a=1"), ("endpoint", "e=1")),
            world(AE1, FE1, E1),
            expect(("cluster", "a=1", "f=1"), ("endpoint", "e=1")),
        ],
    ),
    Row(
        "endpoints that nobody asked for are not sent for a changed cluster",
        "Resource warming",
        [world(AE1, E1), sotw(CDS), expect(("cluster", "a=1")), world(AE2, E1), expect(("cluster", "a=2"))],
    ),
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.sentence)
def test_sotw_rule(row: Row) -> None:
    play(Stream(Sotw()), row)


@pytest.mark.parametrize(
    ("names", "is_exact"),
    [
        pytest.param((), True, id="a full state carries the snapshot's version"),
        pytest.param(("a", "b"), True, id="so does one that is asked for name by name"),
        pytest.param(("a",), False, id="a part of it does not, or a client could come back with it and be believed"),
    ],
)
def test_version_of_a_state(names: tuple[str, ...], *, is_exact: bool) -> None:
    stage = Stage(Stream(Sotw()))
    sotw(CDS, *names)(stage)

    response = stage.stream.next_response(snapshot(A1, B1))

    assert response is not None
    assert (response.version == VERSION_A1_B1) is is_exact


def test_a_state_with_held_removals_does_not_carry_the_version_of_the_snapshot() -> None:
    stage = Stage(Stream(Sotw()))
    for step in (world(A1, B1, L1), sotw(CDS), sotw(LDS), expect(("cluster", "a=1", "b=1"), ("listener", "l=1"))):
        step(stage)

    response = stage.stream.next_response(snapshot(A2))

    assert told(response) == ("cluster", "a=2", "b=1")
    assert response is not None
    assert response.version != snapshot(A2).versions[CDS]
