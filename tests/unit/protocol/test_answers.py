"""Answers: what a request tells of a response, and how long a response is remembered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.protocol.script import Row, Step, delta, expect, play, reports, sotw, world
from tests.unit.protocol.values import CDS, LDS, resource, snapshot
from xds.protocol.delta import Delta, DeltaRequest
from xds.protocol.sotw import Sotw, SotwRequest
from xds.protocol.stream import Stream
from xds.protocol.subscription import Acked, Nacked

if TYPE_CHECKING:
    from xds.snapshot import Snapshot

A1, A2 = resource(CDS, "a", "1"), resource(CDS, "a", "2")
V1, V2 = snapshot(A1).versions[CDS], snapshot(A2).versions[CDS]
BEGIN: tuple[Step, ...] = (world(A1), sotw(CDS), reports(None), expect(("cluster", "a=1")))
UPDATED: tuple[Step, ...] = (*BEGIN, world(A2), expect(("cluster", "a=2")))

ANSWERS = (
    Row("an ACK is told with the version", "ACK", [*BEGIN, sotw(CDS, nonce="1", version=V1), reports(Acked(CDS, V1))]),
    Row(
        "a NACK is told with the version and the client's words",
        "NACK",
        [*BEGIN, sotw(CDS, nonce="1", error="bad"), reports(Nacked(CDS, V1, "bad"))],
    ),
    Row(
        "a NACK may have no words",
        "ACK and NACK semantics summary",
        [*BEGIN, sotw(CDS, nonce="1", error=""), reports(Nacked(CDS, V1, ""))],
    ),
    Row(
        "an error without a nonce is about no response",
        "ACK and NACK semantics summary",
        [*BEGIN, sotw(CDS, error="bad"), reports(None)],
    ),
    Row(
        "a nonce that was never given answers nothing", "NACK", [*BEGIN, sotw(CDS, nonce="9", error="x"), reports(None)]
    ),
    Row(
        "the nonce of another type answers nothing",
        "Aggregated Discovery Service",
        [*BEGIN, sotw(LDS, nonce="1"), reports(None)],
    ),
    Row(
        "an ACK that is repeated, to change names, tells nothing new",
        "Resource updates",
        [*BEGIN, sotw(CDS, nonce="1"), sotw(CDS, "a", nonce="1"), reports(None)],
    ),
    Row(
        "the nonce of a NACK, repeated without error to change names, is no ACK",
        "Resource updates",
        [*BEGIN, sotw(CDS, nonce="1", error="bad"), sotw(CDS, "a", nonce="1"), reports(None)],
    ),
    Row(
        "a NACK that is repeated tells nothing new",
        "Resource updates",
        [*BEGIN, sotw(CDS, nonce="1", error="bad"), sotw(CDS, nonce="1", error="bad"), reports(None)],
    ),
    Row(
        "a refusal that follows a request with the same nonce counts",
        "Resource updates",
        [*BEGIN, sotw(CDS, nonce="1"), sotw(CDS, nonce="1", error="bad"), reports(Nacked(CDS, V1, "bad"))],
    ),
    Row(
        "an answer to an older response is told, although SotW does not read the rest of it",
        "Resource updates",
        [*UPDATED, sotw(CDS, nonce="1", error="bad"), reports(Nacked(CDS, V1, "bad"))],
    ),
    Row(
        "an answer to an older response that comes after a newer one tells nothing",
        "Resource updates",
        [*UPDATED, sotw(CDS, nonce="2"), reports(Acked(CDS, V2)), sotw(CDS, nonce="1", error="x"), reports(None)],
    ),
)


@pytest.mark.parametrize("row", ANSWERS, ids=lambda row: row.sentence)
def test_answer(row: Row) -> None:
    play(Stream(Sotw()), row)


def test_delta_answers_are_told_one_by_one() -> None:
    """Several responses may be on their way at once, and each gets its own answer."""
    steps = (
        *(world(A1), delta(CDS), expect(("cluster", "a=1")), world(A2), expect(("cluster", "a=2"))),
        *(delta(CDS, nonce="1", error="bad"), reports(Nacked(CDS, V1, "bad"))),
        *(delta(CDS, nonce="2"), reports(Acked(CDS, V2))),
    )
    play(Stream(Delta()), Row("each response has its answer", "Incremental xDS", steps))


def test_a_sotw_client_that_never_answers_costs_no_memory() -> None:
    """What it was sent long ago is forgotten: an answer to that tells nothing, one to the newest still does."""
    stream = Stream(Sotw())
    stream.receive(SotwRequest(type_url=CDS.type_url))
    newest = send_many(stream)

    early = stream.receive(SotwRequest(type_url=CDS.type_url, nonce="50", error="bad"))
    late = stream.receive(SotwRequest(type_url=CDS.type_url, nonce="100"))

    assert (early, late) == (None, Acked(CDS, newest.versions[CDS]))


def test_a_delta_client_that_never_answers_costs_no_memory() -> None:
    stream = Stream(Delta())
    stream.receive(DeltaRequest(type_url=CDS.type_url))
    newest = send_many(stream)

    early = stream.receive(DeltaRequest(type_url=CDS.type_url, nonce="50", error="bad"))
    late = stream.receive(DeltaRequest(type_url=CDS.type_url, nonce="100"))

    assert (early, late) == (None, Acked(CDS, newest.versions[CDS]))


def send_many(stream: Stream[SotwRequest] | Stream[DeltaRequest]) -> Snapshot:
    """Let the stream answer 100 worlds, the nonces counting up to 100, and return the last."""
    worlds = [snapshot(resource(CDS, "a", str(number))) for number in range(100)]
    for now in worlds:
        assert stream.next_response(now) is not None
    return worlds[-1]
