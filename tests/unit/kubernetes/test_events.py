"""Events: told once, then counted; never many about one object; lost rather than waited for."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.small_api import SmallApi
from xds.kubernetes.asking import Environs
from xds.kubernetes.connection import ApiError
from xds.kubernetes.events import EventBook, EventWriter, Limits, Note, Written, build_event

DATA = Path(__file__).parents[2] / "data" / "kubernetes-1.36"
PATH = "/api/v1/namespaces/egress-system/events"
NOTE = Note(
    key=("egress-system", "corp"), uid="u1", reason="PolicyRefused", message="line 2: bad CIDR", is_warning=True
)


class _Clock:
    now = 1000.0


def _writer(api: SmallApi, clock: _Clock, limits: Limits | None = None) -> EventWriter:
    environs = Environs(monotonic=lambda: clock.now, wall=lambda: 1_795_255_200.0 + clock.now)
    return EventWriter(api, identity="egress-xds-0", limits=limits, environs=environs)


def _event(api: SmallApi) -> dict[str, object]:
    (found,) = (item for path, item in api.objects.items() if path.startswith(PATH))
    return found


def test_an_event_has_what_a_real_server_took_and_what_kubectl_looks_for() -> None:
    recorded = json.loads((DATA / "event-created.json").read_text())["request"]
    written = Written(name="corp.1", count=1, first="2026-11-21T10:00:00Z", at=0.0)
    event = build_event(NOTE, written, "egress-xds-0")
    assert recorded["path"] == PATH
    # Its moments were left out, and it asked the server for a name.
    assert set(recorded["body"]) <= set(event)
    involved = event["involvedObject"]
    assert involved == {**recorded["body"]["involvedObject"], "uid": "u1"}
    same = ("type", "action", "reportingComponent", "reportingInstance")
    assert {key: event[key] for key in same} == {key: recorded["body"][key] for key in same}


async def test_the_same_event_is_written_once_and_then_counted() -> None:
    api, clock = SmallApi(), _Clock()
    writer = _writer(api, clock)
    for _ in range(10):
        await writer.tell(NOTE)
        clock.now += 10
    assert [method for method, _, _ in api.requests] == ["POST"]
    clock.now += 180
    await writer.tell(NOTE)
    assert [method for method, _, _ in api.requests] == ["POST", "PATCH"]
    assert _event(api)["count"] == 11
    assert _event(api)["lastTimestamp"] == "2026-11-21T10:21:20Z"
    assert _event(api)["firstTimestamp"] == "2026-11-21T10:16:40Z"


async def test_a_flapping_object_gets_a_burst_and_then_little() -> None:
    api, clock = SmallApi(), _Clock()
    writer = _writer(api, clock, Limits(burst=5, refill=300))
    for number in range(3600):
        await writer.tell(replace(NOTE, message=f"line {number}: bad"))
        clock.now += 1
    assert len(api.requests) == 5 + 3600 // 300 - 1
    await writer.tell(replace(NOTE, key=("egress-system", "other")))
    assert len(api.requests) == 5 + 3600 // 300, "another object has its own limit"


async def test_an_event_that_the_server_dropped_is_told_anew() -> None:
    api, clock = SmallApi(), _Clock()
    writer = _writer(api, clock)
    await writer.tell(NOTE)
    api.objects.clear()
    clock.now += 3600
    await writer.tell(NOTE)
    assert [method for method, _, _ in api.requests] == ["POST", "PATCH", "POST"]
    assert _event(api)["count"] == 1


@pytest.mark.parametrize("status", [403, 409, 500, None])
async def test_an_event_that_is_refused_is_lost_and_nobody_waits(status: int | None) -> None:
    api, clock = SmallApi(), _Clock()
    api.refuse = lambda _method, _path: ApiError(status, "No", "no")
    writer = _writer(api, clock)
    await writer.tell(NOTE)
    assert len(api.requests) == 1
    api.refuse = lambda _method, _path: None
    await writer.tell(NOTE)
    assert _event(api)["reason"] == "PolicyRefused"


def test_what_is_remembered_is_bounded() -> None:
    book = EventBook("egress-xds-0", Limits(remembered=10))
    for number in range(100):
        assert book.plan(replace(NOTE, key=("a", str(number))), 0.0, 0.0) is not None
    assert len(book._written) == len(book._buckets) == 10


async def test_a_message_is_bounded_and_holds_no_login() -> None:
    api = SmallApi()
    await _writer(api, _Clock()).tell(replace(NOTE, message="http://user:canary-login@proxy " + "é" * 5_000))
    message = _event(api)["message"]
    assert isinstance(message, str)
    assert len(message.encode()) <= 1024
    assert "canary-login" not in message


def test_names_are_good_ones_and_differ_between_replicas_and_moments() -> None:
    long = replace(NOTE, key=("a", "x" * 199 + ".." + "y" * 52))
    names = set()
    for identity in ("one", "two"):
        for moment in (1.0, 2.0):
            planned = EventBook(identity).plan(long, 0.0, moment)
            assert planned is not None
            names.add(planned[0].name)
    assert len(names) == 4
    assert all(len(name) <= 253 and re.fullmatch(r"[a-z0-9]+(\.[a-z0-9]+)*", name) for name in names)
