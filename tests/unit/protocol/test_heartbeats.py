"""Heartbeats, which renew the time to live of what a client has (xDS protocol, "TTL")."""

from __future__ import annotations

import pytest

from tests.unit.protocol.script import Row, delta, expect, no_world, play, renew, reports, sotw, world
from tests.unit.protocol.values import CDS, EDS, LDS, RDS, SDS, resource
from xds.protocol.delta import Delta, DeltaRequest
from xds.protocol.memo import Memo
from xds.protocol.sotw import Sotw
from xds.protocol.stream import Stream
from xds.protocol.subscription import LASTING_SUFFIX, Acked, Lapsed, Nacked
from xds.snapshot import build_snapshot

A1, A2, B1 = resource(CDS, "a", "1"), resource(CDS, "a", "2"), resource(CDS, "b", "1")
E1, L1, L2 = resource(EDS, "e", "1"), resource(LDS, "l", "1"), resource(LDS, "l", "2")
R1, K1 = resource(RDS, "r", "1"), resource(SDS, "k", "1")
V1, V2 = build_snapshot([A1]).versions[CDS], build_snapshot([A2]).versions[CDS]
TTL = "TTL"
HAS_A = (world(A1), delta(CDS), expect(("cluster", "a=1")), delta(CDS, nonce="1"))

DELTA_ROWS = (
    Row("nobody is sent one unasked", TTL, [*HAS_A, expect()]),
    Row("it names what the client has, once", TTL, [*HAS_A, renew(), expect(("cluster", "+a")), expect()]),
    Row("nothing is renewed that was never sent", TTL, [world(), delta(CDS), expect(("cluster",)), renew(), expect()]),
    Row(
        "a response without an answer delays it",
        TTL,
        [
            *HAS_A,
            world(A2),
            expect(("cluster", "a=2")),
            renew(),
            expect(),
            delta(CDS, nonce="2"),
            expect(("cluster", "+a")),
        ],
    ),
    Row(
        "a heartbeat without an answer delays the next, and two become one",
        TTL,
        [
            *HAS_A,
            renew(),
            expect(("cluster", "+a")),
            renew(),
            renew(),
            expect(),
            delta(CDS, nonce="2"),
            expect(("cluster", "+a")),
        ],
    ),
    Row(
        "another type's answer delays nothing",
        TTL,
        [
            *HAS_A,
            world(A2, L1),
            delta(LDS),
            expect(("cluster", "a=2"), ("listener", "l=1")),
            delta(LDS, nonce="3"),
            renew(),
            expect(("listener", "+l")),
            delta(CDS, nonce="2"),
            expect(("cluster", "+a")),
        ],
    ),
    Row(
        "an answer to one is no news",
        TTL,
        [*HAS_A, renew(), expect(("cluster", "+a")), delta(CDS, nonce="2"), reports(None), expect()],
    ),
    Row("a change comes first", TTL, [*HAS_A, world(A2), renew(), expect(("cluster", "a=2"))]),
    Row(
        "a removal comes first, and what is gone is not renewed",
        TTL,
        [
            world(A1, B1),
            delta(CDS),
            expect(("cluster", "a=1", "b=1")),
            delta(CDS, nonce="1"),
            world(A1),
            renew(),
            expect(("cluster", "-b")),
            delta(CDS, nonce="2"),
            expect(("cluster", "+a")),
        ],
    ),
    Row(
        "what waits for its removal is renewed until then",
        TTL,
        [
            world(A1, B1, L1),
            delta(CDS),
            delta(LDS),
            expect(("cluster", "a=1", "b=1"), ("listener", "l=1")),
            delta(CDS, nonce="1"),
            delta(LDS, nonce="2"),
            world(A1, L2),
            renew(),
            expect(("listener", "l=2"), ("cluster", "+a", "+b")),
            delta(LDS, nonce="3"),
            expect(("cluster", "-b"), ("listener", "+l")),
        ],
    ),
    Row(
        "what runs in place of what was refused is renewed",
        "NACK",
        [
            *HAS_A,
            world(A2),
            expect(("cluster", "a=2")),
            delta(CDS, nonce="2", error="no"),
            reports(Nacked(CDS, V2, "no")),
            renew(),
            expect(("cluster", "+a")),
        ],
    ),
    Row(
        "what was refused from the first is not renewed",
        "NACK",
        [world(A1), delta(CDS), expect(("cluster", "a=1")), delta(CDS, nonce="1", error="no"), renew(), expect()],
    ),
    Row(
        "of what was refused, only the rest of it is renewed at its new version",
        "NACK",
        [
            *HAS_A,
            world(A2),
            expect(("cluster", "a=2")),
            delta(CDS, nonce="2", error="no"),
            world(A2, B1),
            expect(("cluster", "b=1")),
            delta(CDS, nonce="3"),
            renew(),
            expect(("cluster", "+a", "+b")),
        ],
    ),
    Row(
        "what is wanted no more is not renewed",
        "Unsubscribing from Resources",
        [
            world(E1, R1),
            delta(EDS, "e"),
            expect(("endpoint", "e=1")),
            delta(EDS, nonce="1"),
            delta(EDS, drop=["e"]),
            renew(),
            expect(),
        ],
    ),
    Row(
        "whoever comes back has something to renew",
        "Incremental xDS",
        [world(A1), delta(CDS, initial={"a": A1.version}), renew(), expect(("cluster", "+a"))],
    ),
    Row(
        "what is not renewed by a heartbeat is sent, before it",
        "Incremental xDS",
        [
            world(A1, B1),
            delta(CDS, initial={"a": A1.version}),
            renew(),
            expect(("cluster", "b=1")),
            delta(CDS, nonce="1"),
            expect(("cluster", "+a", "+b")),
        ],
    ),
    Row(
        "what has no time to live is sent anew, and never renewed as it was",
        "Incremental xDS",
        [
            world(A1, L1),
            delta(CDS, initial={"a": A1.version + LASTING_SUFFIX, "x": "1" + LASTING_SUFFIX}),
            delta(LDS),
            renew(),
            expect(("cluster", "a=1"), ("listener", "l=1")),
            delta(CDS, nonce="1"),
            expect(("cluster", "+a")),
        ],
    ),
    Row("it needs no world", TTL, [*HAS_A, no_world(), renew(), expect(("cluster", "+a"))]),
    Row(
        "it needs no world on a new stream either",
        TTL,
        [no_world(), delta(CDS, initial={"a": "1"}), renew(), expect(("cluster", "+a"))],
    ),
    Row(
        "one that is refused shows a loss, and what it named is sent again",
        TTL,
        [
            *HAS_A,
            renew(),
            expect(("cluster", "+a")),
            delta(CDS, nonce="2", error="what?"),
            reports(Lapsed(CDS, ("a",), "what?")),
            expect(("cluster", "a=1")),
            delta(CDS, nonce="3"),
            reports(Acked(CDS, V1)),
            renew(),
            expect(("cluster", "+a")),
        ],
    ),
    Row(
        "what may be lost and is gone meanwhile is taken away",
        TTL,
        [
            world(A1, B1),
            delta(CDS),
            expect(("cluster", "a=1", "b=1")),
            delta(CDS, nonce="1"),
            renew(),
            expect(("cluster", "+a", "+b")),
            delta(CDS, nonce="2", error="what?"),
            world(A1),
            expect(("cluster", "a=1"), ("cluster", "-b")),
            delta(CDS, nonce="4"),
            renew(),
            expect(("cluster", "+a")),
        ],
    ),
    Row(
        "a loss brings nothing back that was refused",
        TTL,
        [
            *HAS_A,
            world(A2),
            expect(("cluster", "a=2")),
            delta(CDS, nonce="2", error="no"),
            renew(),
            expect(("cluster", "+a")),
            delta(CDS, nonce="3", error="what?"),
            expect(),
            renew(),
            expect(),
            world(A1),
            expect(("cluster", "a=1")),
        ],
    ),
    Row(
        "a removal that was refused is not forgotten over it",
        "NACK",
        [
            world(A1, B1),
            delta(CDS),
            expect(("cluster", "a=1", "b=1")),
            delta(CDS, nonce="1"),
            world(A1),
            expect(("cluster", "-b")),
            delta(CDS, nonce="2", error="no"),
            renew(),
            expect(("cluster", "+a", "+b")),
            delta(CDS, nonce="3"),
            world(A2),
            expect(("cluster", "a=2", "-b")),
        ],
    ),
    Row(
        "all types are renewed, in their order",
        TTL,
        [world(A1, E1, L1, R1, K1)]
        + [delta(CDS), delta(EDS, "e"), delta(LDS), delta(RDS, "r"), delta(SDS, "k")]
        + [expect(("cluster", "a=1"), ("endpoint", "e=1"), ("listener", "l=1"), ("route", "r=1"), ("secret", "k=1"))]
        + [delta(kind, nonce=str(nonce)) for nonce, kind in enumerate((CDS, EDS, LDS, RDS, SDS), 1)]
        + [
            renew(),
            expect(("cluster", "+a"), ("endpoint", "+e"), ("listener", "+l"), ("route", "+r"), ("secret", "+k")),
        ],
    ),
)

SOTW_ROWS = (
    Row(
        "a heartbeat would be read as an empty state, so there is none",
        "SotW TTL",
        [
            world(A1, L1),
            sotw(CDS),
            sotw(LDS),
            expect(("cluster", "a=1"), ("listener", "l=1")),
            sotw(CDS, nonce="1"),
            sotw(LDS, nonce="2"),
            renew(),
            expect(),
        ],
    ),
    Row(
        "neither for names",
        "SotW TTL",
        [world(E1), sotw(EDS, "e"), expect(("endpoint", "e=1")), sotw(EDS, "e", nonce="1"), renew(), expect()],
    ),
)


@pytest.mark.parametrize("row", DELTA_ROWS, ids=lambda row: row.sentence)
def test_incremental_heartbeats(row: Row) -> None:
    play(Stream(Delta()), row)


@pytest.mark.parametrize("row", SOTW_ROWS, ids=lambda row: row.sentence)
def test_state_of_the_world_heartbeats(row: Row) -> None:
    play(Stream(Sotw()), row)


def test_a_heartbeat_names_the_version_that_the_client_runs_and_the_type_version_that_it_accepted() -> None:
    stream = Stream(Delta())
    for step, snapshot in enumerate((build_snapshot([A1]), build_snapshot([A2]))):
        stream.receive(DeltaRequest(type_url=CDS.type_url, nonce=str(step)))
        assert stream.next_response(snapshot)
    stream.receive(DeltaRequest(type_url=CDS.type_url, nonce="2", error="no"))
    stream.renew()

    heartbeat = stream.next_response(build_snapshot([A2]))

    assert heartbeat is not None
    assert (heartbeat.version, heartbeat.renewed) == (V1, (("a", A1.version),))
    assert (heartbeat.resources, heartbeat.removed, heartbeat.nonce) == ((), (), "3")


def test_streams_in_the_same_state_share_one_heartbeat() -> None:
    """Also with one that came back with what the other was sent: all that it costs is worked out once."""
    snapshot, memo = build_snapshot([A1, B1]), Memo(Delta())
    fed, returned = Stream(Delta(), memo), Stream(Delta(), memo)
    fed.receive(DeltaRequest(type_url=CDS.type_url))
    assert fed.next_response(snapshot)
    fed.receive(DeltaRequest(type_url=CDS.type_url, nonce="1"))
    versions = {item.name: str(item.version) for item in (A1, B1)}
    returned.receive(DeltaRequest(type_url=CDS.type_url, initial_versions=versions))

    for stream in (fed, returned):
        stream.renew()
    one, other = fed.next_response(snapshot), returned.next_response(snapshot)

    assert one is not None
    assert other is not None
    assert one.shared is not None
    assert one.shared is other.shared
