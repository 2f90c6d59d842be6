"""
The xDS specification, rule by rule, for both variants side by side. `cites` is the section of api-docs/xds_protocol.

The tables of `test_sotw` and `test_delta` go into the corners of each variant; here stands what both must keep.
"""

from __future__ import annotations

import pytest

from tests.unit.protocol.script import Row, delta, expect, no_world, play, reports, sotw, world
from tests.unit.protocol.values import CDS, EDS, LDS, RDS, SDS, resource
from xds.protocol.delta import Delta
from xds.protocol.sotw import Sotw
from xds.protocol.stream import Stream
from xds.protocol.subscription import Nacked
from xds.snapshot import build_snapshot

A1, A2, B1 = resource(CDS, "a", "1"), resource(CDS, "a", "2"), resource(CDS, "b", "1")
E1, F1 = resource(EDS, "e", "1"), resource(EDS, "f", "1")
L1, R1, K1 = resource(LDS, "l", "1"), resource(RDS, "r", "1"), resource(SDS, "k", "1")
AE1, AE2 = resource(CDS, "a", "1", endpoint="e"), resource(CDS, "a", "2", endpoint="e")
NAMES = "How the client specifies what resources to return"
V1 = build_snapshot([A1]).versions[CDS]

SOTW_ROWS = (
    Row("nothing is said before it is asked for", "Basic Protocol Overview", [world(A1, L1), expect()]),
    Row("a first empty list of clusters means all", NAMES, [world(A1), sotw(CDS), expect(("cluster", "a=1"))]),
    Row("a first empty list of endpoints means none", NAMES, [world(E1), sotw(EDS), expect()]),
    Row("a star means all", NAMES, [world(A1), sotw(CDS, "*"), expect(("cluster", "a=1"))]),
    Row(
        "an empty list after names means none",
        NAMES,
        [world(A1), sotw(CDS, "a"), expect(("cluster", "a=1")), sotw(CDS, nonce="1"), world(A2), expect()],
    ),
    Row(
        "a name that comes to a list is answered, one that leaves it is not",
        "Subscribing to Resources",
        [
            world(E1, F1),
            sotw(EDS, "e"),
            expect(("endpoint", "e=1")),
            sotw(EDS, "e", "f", nonce="1"),
            expect(("endpoint", "f=1")),
            sotw(EDS, "f", nonce="2"),
            expect(),
            sotw(EDS, "e", "f", nonce="2"),
            expect(("endpoint", "e=1")),
        ],
    ),
    Row(
        "a stale nonce is not read",
        "Resource updates",
        [
            world(A1),
            sotw(CDS),
            expect(("cluster", "a=1")),
            world(A2),
            expect(("cluster", "a=2")),
            sotw(CDS, "b", nonce="1"),
            world(A1, B1),
            expect(("cluster", "a=1", "b=1")),
        ],
    ),
    Row(
        "an ACK is met with silence",
        "ACK",
        [world(A1), sotw(CDS), expect(("cluster", "a=1")), sotw(CDS, nonce="1", version=V1), expect()],
    ),
    Row(
        "what was refused is not sent again until it changes",
        "NACK",
        [
            world(A1),
            sotw(CDS),
            expect(("cluster", "a=1")),
            sotw(CDS, nonce="1", error="no"),
            reports(Nacked(CDS, V1, "no")),
            expect(),
            world(A2),
            expect(("cluster", "a=2")),
        ],
    ),
    Row(
        "a refusal may carry a new subscription",
        "Resource updates",
        [
            world(E1, F1),
            sotw(EDS, "e"),
            expect(("endpoint", "e=1")),
            sotw(EDS, "e", "f", nonce="1", error="no"),
            expect(("endpoint", "f=1")),
        ],
    ),
    Row(
        "what is gone is missing from the next whole state",
        "Deleting Resources",
        [world(A1, B1), sotw(CDS), expect(("cluster", "a=1", "b=1")), world(A1), expect(("cluster", "a=1", "-b"))],
    ),
    Row(
        "what was gone and is back as it was is sent again, for its parent may have gone with it",
        "Resource warming",
        [
            world(E1),
            sotw(EDS, "e"),
            expect(("endpoint", "e=1")),
            world(),
            expect(),
            world(E1),
            expect(("endpoint", "e=1")),
        ],
    ),
    Row(
        "what was there before is not sent to who comes back with its version",
        "ACK/NACK and resource type instance version",
        [world(A1), sotw(CDS, version=V1), expect()],
    ),
)
DELTA_ROWS = (
    Row("nothing is said before it is asked for", "Basic Protocol Overview", [world(A1, L1), expect()]),
    Row("a first request without names means all clusters", NAMES, [world(A1), delta(CDS), expect(("cluster", "a=1"))]),
    Row("a first request without names means no endpoints", NAMES, [world(E1), delta(EDS), expect()]),
    Row(
        "a name that is asked for again is answered again, unchanged: whoever warms waits for it",
        "Resource warming",
        [
            world(E1, R1, K1),
            *(
                step
                for kind, name, said in ((EDS, "e", "endpoint"), (RDS, "r", "route"), (SDS, "k", "secret"))
                for step in (
                    delta(kind, name),
                    expect((said, f"{name}=1")),
                    delta(kind, name),
                    expect((said, f"{name}=1")),
                )
            ),
        ],
    ),
    Row(
        "a changed cluster is followed by its endpoints, unchanged",
        "Resource warming",
        [
            world(AE1, E1),
            delta(CDS),
            delta(EDS, "e"),
            expect(("cluster", "a=1"), ("endpoint", "e=1")),
            world(AE2, E1),
            expect(("cluster", "a=2"), ("endpoint", "e=1")),
        ],
    ),
    Row(
        "a name that does not exist is answered as removed",
        "Knowing When a Requested Resource Does Not Exist",
        [world(), delta(EDS, "e"), expect(("endpoint", "-e"))],
    ),
    Row(
        "after unsubscribing there is silence",
        "Unsubscribing From Resources",
        [world(E1), delta(EDS, "e"), expect(("endpoint", "e=1")), delta(EDS, drop=["e"]), world(), expect()],
    ),
    Row(
        "a stale nonce does not keep a subscription from changing",
        "Incremental xDS",
        [
            world(E1, F1),
            delta(EDS, "e"),
            expect(("endpoint", "e=1")),
            delta(EDS, "f", nonce="0"),
            expect(("endpoint", "f=1")),
        ],
    ),
    Row(
        "only differences from the initial versions are sent",
        "Incremental xDS",
        [world(A1, B1), delta(CDS, initial={"a": A1.version, "c": "1"}), expect(("cluster", "b=1"), ("cluster", "-c"))],
    ),
    Row(
        "additions go from clusters to secrets, whatever the order of the questions",
        "Eventual consistency considerations",
        [
            no_world(),
            delta(SDS, "k"),
            delta(RDS, "r"),
            delta(LDS),
            delta(EDS, "e"),
            delta(CDS),
            world(A1, E1, L1, R1, K1),
            expect(("cluster", "a=1"), ("endpoint", "e=1"), ("listener", "l=1"), ("route", "r=1"), ("secret", "k=1")),
        ],
    ),
    Row(
        "a cluster goes only after the listeners' change was acknowledged",
        "Eventual consistency considerations",
        [
            world(A1, L1),
            delta(CDS),
            delta(LDS),
            expect(("cluster", "a=1"), ("listener", "l=1")),
            delta(CDS, nonce="1"),
            delta(LDS, nonce="2"),
            world(),
            expect(("listener", "-l")),
            delta(LDS, nonce="3"),
            expect(("cluster", "-a")),
        ],
    ),
)


@pytest.mark.parametrize("row", SOTW_ROWS, ids=lambda row: row.sentence)
def test_state_of_the_world(row: Row) -> None:
    play(Stream(Sotw()), row)


@pytest.mark.parametrize("row", DELTA_ROWS, ids=lambda row: row.sentence)
def test_incremental(row: Row) -> None:
    play(Stream(Delta()), row)
