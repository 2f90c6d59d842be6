"""
Order on one stream, the same for both variants: make before break.

"To avoid traffic drop, sequencing of updates should follow a make before break model" (xDS protocol,
"Eventual consistency considerations"): CDS, EDS, LDS, RDS; what is not used any more goes after the rest is in use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.protocol.script import Row, await_listeners, delta, expect, play, sotw, world
from tests.unit.protocol.values import CDS, EDS, LDS, RDS, SDS, resource, snapshot
from xds.protocol.delta import Delta, DeltaRequest
from xds.protocol.sotw import Sotw, SotwRequest
from xds.protocol.stream import REFERRERS, Stream, UnknownType
from xds.resources import ResourceType

if TYPE_CHECKING:
    from collections.abc import Callable

A1, A2, B1 = resource(CDS, "a", "1"), resource(CDS, "a", "2"), resource(CDS, "b", "1")
E1, L1, L2, M1 = resource(EDS, "e"), resource(LDS, "l", "1"), resource(LDS, "l", "2"), resource(LDS, "m")
R1, S1, K1 = resource(RDS, "r"), resource(RDS, "s"), resource(SDS, "k")
AE1 = resource(CDS, "a", "1", endpoint="e")
EVERYTHING = world(A1, E1, L1, R1, K1)
MAKE_BEFORE_BREAK = "Eventual consistency considerations"

ROWS = (
    Row(
        "additions go CDS, EDS, LDS, RDS, SDS, whatever the order of the requests",
        MAKE_BEFORE_BREAK,
        [
            EVERYTHING,
            delta(SDS, "k"),
            delta(RDS, "r"),
            delta(LDS),
            delta(EDS, "e"),
            delta(CDS),
            expect(("cluster", "a=1"), ("endpoint", "e=1"), ("listener", "l=1"), ("route", "r=1"), ("secret", "k=1")),
        ],
    ),
    Row(
        "removals go the other way round, each after what could refer to it was acknowledged",
        MAKE_BEFORE_BREAK,
        [
            EVERYTHING,
            delta(CDS),
            delta(EDS, "e"),
            delta(LDS),
            delta(RDS, "r"),
            delta(SDS, "k"),
            expect(("cluster", "a=1"), ("endpoint", "e=1"), ("listener", "l=1"), ("route", "r=1"), ("secret", "k=1")),
            *(delta(kind, nonce=str(number)) for number, kind in enumerate(ResourceType, start=1)),
            world(),
            expect(("listener", "-l")),
            delta(LDS, nonce="6"),
            expect(("route", "-r")),
            delta(RDS, nonce="7"),
            expect(("cluster", "-a")),
            delta(CDS, nonce="8"),
            expect(("secret", "-k"), ("endpoint", "-e")),
        ],
    ),
    Row(
        "a client that comes back keeps its clusters until its listeners have been seen to",
        MAKE_BEFORE_BREAK,
        [
            world(B1, L2),
            await_listeners(),
            delta(CDS, initial={"a": A1.version}),
            expect(("cluster", "b=1")),
            delta(CDS, nonce="1"),
            expect(),
            delta(LDS, initial={"l": L1.version}),
            expect(("listener", "l=2")),
            delta(LDS, nonce="2"),
            expect(("cluster", "-a")),
        ],
    ),
    Row(
        "a client that comes back for clusters only loses them after a while",
        MAKE_BEFORE_BREAK,
        [
            world(B1),
            await_listeners(),
            delta(CDS, initial={"a": A1.version, "b": B1.version}),
            expect(),
            await_listeners(awaits=False),
            expect(("cluster", "-a")),
        ],
    ),
    Row(
        "a cluster outlives the listener that is to stop using it",
        MAKE_BEFORE_BREAK,
        [
            world(A1, L1),
            delta(CDS),
            delta(LDS),
            expect(("cluster", "a=1"), ("listener", "l=1")),
            delta(CDS, nonce="1"),
            delta(LDS, nonce="2"),
            world(B1, L2),
            expect(("cluster", "b=1"), ("listener", "l=2")),
            delta(CDS, nonce="3"),
            expect(),
            delta(LDS, nonce="4"),
            expect(("cluster", "-a")),
        ],
    ),
    Row(
        "a client that refused the new listener keeps the clusters of the old one",
        MAKE_BEFORE_BREAK,
        [
            world(A1, L1),
            delta(CDS),
            delta(LDS),
            expect(("cluster", "a=1"), ("listener", "l=1")),
            delta(LDS, nonce="2"),
            world(B1, L2),
            expect(("cluster", "b=1"), ("listener", "l=2")),
            delta(LDS, nonce="4", error="no"),
            expect(),
            world(B1, M1),
            expect(("listener", "m=1", "-l")),
            delta(LDS, nonce="5"),
            expect(("cluster", "-a")),
        ],
    ),
    Row(
        "a listener that was refused and then unsubscribed holds nothing back",
        MAKE_BEFORE_BREAK,
        [
            world(A1, L1),
            delta(CDS),
            delta(LDS, "l"),
            expect(("cluster", "a=1"), ("listener", "l=1")),
            delta(LDS, nonce="2", error="no"),
            world(L1),
            expect(),
            delta(LDS, drop=["l"]),
            expect(("cluster", "-a")),
        ],
    ),
    Row(
        "endpoints outlive a cluster whose own removal waits for a route",
        MAKE_BEFORE_BREAK,
        [
            world(A1, E1, R1),
            delta(CDS),
            delta(EDS, "e"),
            delta(RDS, "r"),
            expect(("cluster", "a=1"), ("endpoint", "e=1"), ("route", "r=1")),
            delta(CDS, nonce="1"),
            world(R1),
            expect(),
            delta(RDS, nonce="3"),
            expect(("cluster", "-a")),
            delta(CDS, nonce="4"),
            expect(("endpoint", "-e")),
        ],
    ),
    Row(
        "a type that a client never asks for holds nothing back",
        MAKE_BEFORE_BREAK,
        [world(A1, B1), delta(CDS), expect(("cluster", "a=1", "b=1")), world(A1), expect(("cluster", "-b"))],
    ),
    Row(
        "an answer that is missing holds removals back, but no addition",
        MAKE_BEFORE_BREAK,
        [
            world(A1, L1),
            delta(CDS),
            delta(LDS),
            expect(("cluster", "a=1"), ("listener", "l=1")),
            world(A2, L1, R1),
            expect(("cluster", "a=2")),
            world(B1, L1),
            expect(("cluster", "b=1")),
            delta(LDS, nonce="2"),
            expect(("cluster", "-a")),
        ],
    ),
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.sentence)
def test_order_rule(row: Row) -> None:
    play(Stream(Delta()), row)


@pytest.mark.parametrize("kind", ResourceType, ids=lambda kind: f"of {kind.name.lower()}")
def test_removals_come_after_those_of_every_referrer(kind: ResourceType) -> None:
    """And a referrer's referrers are the type's own, or a removal could overtake one that is held back."""
    order = list(REFERRERS)
    referrers = REFERRERS[kind]

    assert all(order.index(referrer) < order.index(kind) for referrer in referrers)
    assert all(set(REFERRERS[referrer]) <= set(referrers) for referrer in referrers)


def ask_sotw(stream: Stream[Any], type_url: str) -> object:
    return stream.receive(SotwRequest(type_url=type_url))


def ask_delta(stream: Stream[Any], type_url: str) -> object:
    return stream.receive(DeltaRequest(type_url=type_url))


both = pytest.mark.parametrize(
    ("stream", "ask"),
    [
        pytest.param(Stream(Sotw()), ask_sotw, id="state of the world"),
        pytest.param(Stream(Delta()), ask_delta, id="incremental"),
    ],
)


@both
def test_an_unknown_type_is_reported_once_and_never_answered(
    stream: Stream[Any], ask: Callable[[Stream[Any], str], object]
) -> None:
    assert ask(stream, "type.googleapis.com/x.Y") == UnknownType("type.googleapis.com/x.Y")
    assert ask(stream, "type.googleapis.com/x.Y") is None
    assert stream.next_response(snapshot(A1)) is None


def test_unknown_types_are_remembered_up_to_a_bound() -> None:
    """A client could invent them without end."""
    stream = Stream(Delta())
    reported = [ask_delta(stream, f"x/{number}") for number in range(100)]

    assert sum(event is not None for event in reported) == 16


def test_the_names_of_all_types_are_counted_together() -> None:
    stream = Stream(Sotw())
    stream.receive(SotwRequest(type_url=CDS.type_url, names=("*", "a", "b")))
    stream.receive(SotwRequest(type_url=RDS.type_url, names=("r",)))

    assert stream.names == 3


def test_nonces_of_one_stream_are_all_different() -> None:
    stream = Stream(Delta())
    for kind in ResourceType:
        stream.receive(DeltaRequest(type_url=kind.type_url, subscribe=("a", "e", "l", "r", "k")))
    nonces = []
    for world_now in (snapshot(A1, E1, L1, R1, K1), snapshot(A2, E1, L2, S1, K1)):
        while (response := stream.next_response(world_now)) is not None:
            nonces.append(response.nonce)

    assert len(nonces) == len(set(nonces)) > 5


def test_both_variants_go_in_the_same_order() -> None:
    """The rows above are told in delta, where a removal is visible; the order is decided once for both."""
    steps = [EVERYTHING, sotw(SDS, "k"), sotw(LDS), sotw(CDS)]

    play(
        Stream(Sotw()),
        Row("sotw", MAKE_BEFORE_BREAK, [*steps, expect(("cluster", "a=1"), ("listener", "l=1"), ("secret", "k=1"))]),
    )
