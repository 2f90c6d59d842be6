"""What the state of a stream says about its client."""

from __future__ import annotations

import pytest

from tests.unit.protocol.values import CDS, LDS, RDS, resource, snapshot
from xds.protocol.delta import Delta, DeltaRequest
from xds.protocol.report import is_in_step, is_returning, report_resources
from xds.protocol.sotw import SotwRequest
from xds.protocol.stream import Stream
from xds.protocol.subscription import Request
from xds.resources import ResourceStatus, ResourceType, Standing

A1, A2, B1, L1 = resource(CDS, "a", "1"), resource(CDS, "a", "2"), resource(CDS, "b", "1"), resource(LDS, "l", "1")


def ask(
    stream: Stream[DeltaRequest], kind: ResourceType, *names: str, nonce: str = "", error: str | None = None
) -> None:
    stream.receive(DeltaRequest(type_url=kind.type_url, subscribe=names, nonce=nonce, error=error))


def standings(stream: Stream[DeltaRequest]) -> dict[str, Standing]:
    return {status.name: status.standing for status in report_resources(stream)}


def test_a_resource_is_asked_for_then_sent_then_applied() -> None:
    stream = Stream(Delta())
    ask(stream, CDS, "a")
    asked = standings(stream)
    response = stream.next_response(snapshot(A1))
    sent = standings(stream)
    assert response is not None
    ask(stream, CDS, nonce=response.nonce)

    assert (asked, sent) == ({"a": Standing.ASKED}, {"a": Standing.SENT})
    assert report_resources(stream) == (ResourceStatus(CDS, "a", Standing.APPLIED, A1.version),)


def test_one_resource_on_its_way_says_nothing_about_the_others() -> None:
    stream = Stream(Delta())
    ask(stream, CDS)
    first = stream.next_response(snapshot(A1, B1))
    assert first is not None
    ask(stream, CDS, nonce=first.nonce)
    stream.next_response(snapshot(A2, B1))

    assert standings(stream) == {"a": Standing.SENT, "b": Standing.APPLIED}


def test_what_is_refused_and_what_does_not_exist_are_told_apart() -> None:
    stream = Stream(Delta())
    ask(stream, CDS, "a", "none")
    response = stream.next_response(snapshot(A1))
    assert response is not None
    ask(stream, CDS, nonce=response.nonce, error="no")

    assert standings(stream) == {"a": Standing.REFUSED, "none": Standing.ABSENT}


def test_a_client_is_in_step_once_it_has_applied_all_that_it_asked_for() -> None:
    stream, now = Stream(Delta()), snapshot(A1, L1)
    unasked = is_in_step(stream, CDS, now)
    ask(stream, CDS)
    asked = is_in_step(stream, CDS, now)
    response = stream.next_response(now)
    sent = is_in_step(stream, CDS, now)
    assert response is not None
    ask(stream, CDS, nonce=response.nonce)

    assert (unasked, asked, sent, is_in_step(stream, CDS, now)) == (False, False, False, True)
    assert not is_in_step(stream, LDS, now)
    assert not is_in_step(stream, CDS, snapshot(A2, L1))
    assert not is_in_step(stream, CDS, snapshot(L1)), "it still has what is gone"


def test_what_a_client_never_asks_for_need_not_be_sent_except_for_what_all_ask_for() -> None:
    stream, now = Stream(Delta()), snapshot(A1, L1, resource(RDS, "r", "1"))

    assert [is_in_step(stream, kind, now) for kind in (CDS, LDS, RDS)] == [False, False, True]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (DeltaRequest(type_url=CDS.type_url), False),
        (DeltaRequest(type_url=CDS.type_url, initial_versions={"a": "1"}), True),
        (SotwRequest(type_url=CDS.type_url), False),
        (SotwRequest(type_url=CDS.type_url, version="1"), True),
        (Request(type_url=CDS.type_url), False),
    ],
)
def test_a_client_that_comes_back_says_what_it_has(request_: Request, *, expected: bool) -> None:
    assert is_returning(request_) is expected


def test_a_client_that_refused_is_not_in_step() -> None:
    stream, now = Stream(Delta()), snapshot(resource(RDS, "r", "1"))
    ask(stream, RDS, "r")
    response = stream.next_response(now)
    assert response is not None
    ask(stream, RDS, nonce=response.nonce, error="no")

    assert not is_in_step(stream, RDS, now)
