"""Status is written by the leader, when it differs, where the object is; in virtual time."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from tests.support.small_api import SmallApi
from tests.support.virtual_time import run_virtually
from xds.diagnostics import Diagnostic, Where
from xds.judge import DocumentState
from xds.kubernetes.asking import Environs
from xds.kubernetes.connection import ApiError
from xds.kubernetes.events import EventWriter
from xds.kubernetes.status import ACCEPTED, PROBLEMS, STATUS, STATUS_JSON, Tally
from xds.kubernetes.writer import FIELD_MANAGER, StatusWriter
from xds.reconcile import State

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from xds.judge import PolicyKey

DATA = Path(__file__).parents[2] / "data" / "kubernetes-1.36"
SOURCE = "configmap/egress-system/corp/policy.yaml"
PATH = "/api/v1/namespaces/egress-system/configmaps/corp"
OWN: PolicyKey = (None, "corp")
GOOD = DocumentState(source=SOURCE, is_good=True, diagnostics=(), in_force=(OWN,), since=1_795_255_200.0)
FINDING = Diagnostic("EX101", Where(SOURCE, "noProxy", 2), "bad CIDR", "mend it")
BAD = replace(GOOD, is_good=False, diagnostics=(FINDING, FINDING), since=1_795_255_300.0)


class _Leader:
    """A writer and the world that it sees."""

    def __init__(self, api: SmallApi, *, leads: bool = True) -> None:
        loop = asyncio.get_running_loop()
        environs = Environs(monotonic=loop.time, wall=loop.time, chance=lambda: 0.5)
        self.leads = leads
        self.state = State(documents=(GOOD,), passes=1)
        self.tally = Tally(pods=2, acknowledged=2)
        self.counted = 0
        self.writer = StatusWriter(
            api,
            leads=lambda: self.leads,
            state=lambda: self.state,
            tallies=self._tallies,
            events=EventWriter(api, identity="one", environs=environs),
            environs=environs,
        )
        self.task = asyncio.create_task(self.writer.run())

    def _tallies(self, policies: Iterable[PolicyKey]) -> dict[PolicyKey, Tally]:
        self.counted += 1
        return dict.fromkeys(policies, self.tally)

    def judge(self, *documents: DocumentState) -> None:
        self.state = State(documents=documents, passes=self.state.passes + 1)

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


def _virtually(story: Callable[[SmallApi], Coroutine[object, object, None]]) -> None:
    async def begin() -> None:
        api = SmallApi()
        api.put(PATH, metadata={"annotations": {"note": "mine"}, "labels": {"egress-xds/policy": "true"}})
        await story(api)

    run_virtually(lambda _: begin())


def _reasons(api: SmallApi) -> list[object]:
    return [item["reason"] for path, item in api.objects.items() if "/events/" in path]


def _labels(api: SmallApi) -> object:
    return api.metadata(PATH)["labels"]


def test_a_leader_writes_what_is_in_force_beside_what_others_wrote() -> None:
    async def story(api: SmallApi) -> None:
        leader = _Leader(api)
        await asyncio.sleep(2)
        assert set(api.annotations(PATH)) == {"note", STATUS, STATUS_JSON}
        assert api.annotations(PATH)[STATUS].endswith("in force for 2 pods: 2 acknowledged")
        assert _labels(api) == {"egress-xds/policy": "true", ACCEPTED: "true"}
        assert _reasons(api) == ["PolicyAccepted"]
        await leader.stop()

    _virtually(story)


def test_a_write_is_an_apply_as_a_real_server_takes_it() -> None:
    recorded = json.loads((DATA / "configmap-status-annotation.json").read_text())["request"]

    async def story(api: SmallApi) -> None:
        leader = _Leader(api)
        await asyncio.sleep(2)
        (body,) = api.writes("PATCH", PATH)
        assert isinstance(body, dict)
        assert recorded["path"] == f"{PATH}?fieldManager={FIELD_MANAGER}&force=true"
        assert {key: body[key] for key in ("apiVersion", "kind")} == {
            key: recorded["body"][key] for key in ("apiVersion", "kind")
        }
        assert set(body["metadata"]) == {"name", "uid", "annotations", "labels"}
        assert set(body) == {"apiVersion", "kind", "metadata"}
        await leader.stop()

    _virtually(story)


def test_what_is_bad_is_told_at_once_with_its_line_and_taken_back_when_it_is_mended() -> None:
    async def story(api: SmallApi) -> None:
        leader = _Leader(api)
        await asyncio.sleep(2)
        leader.judge(BAD)
        leader.writer.wake()
        await asyncio.sleep(0.01)
        assert _labels(api) == {"egress-xds/policy": "true", ACCEPTED: "false"}
        assert api.annotations(PATH)[PROBLEMS].startswith("policy.yaml:2 noProxy: error[EX101]: bad CIDR")
        (event,) = (item for item in api.objects.values() if item.get("reason") == "PolicyRefused")
        assert event["message"] == "policy.yaml:2 noProxy: error[EX101]: bad CIDR; mend it (and 1 more)"
        assert event["type"] == "Warning"
        leader.judge(GOOD)
        await asyncio.sleep(2)
        assert PROBLEMS not in api.annotations(PATH)
        assert _labels(api) == {"egress-xds/policy": "true", ACCEPTED: "true"}
        await leader.stop()

    _virtually(story)


def test_who_does_not_lead_asks_and_writes_nothing() -> None:
    async def story(api: SmallApi) -> None:
        other = _Leader(api, leads=False)
        await asyncio.sleep(60)
        assert api.requests == []
        assert other.counted == 0
        await other.stop()

    _virtually(story)


def test_a_new_leader_writes_nothing_that_is_there_already() -> None:
    async def story(api: SmallApi) -> None:
        old = _Leader(api)
        await asyncio.sleep(2)
        await old.stop()
        before = dict(api.annotations(PATH))
        new = _Leader(api)
        new.judge(replace(GOOD, since=GOOD.since + 4000))
        api.requests.clear()
        await asyncio.sleep(30)
        assert [method for method, _, _ in api.requests] == ["GET"]
        assert api.annotations(PATH) == before
        await new.stop()

    _virtually(story)


def test_what_does_not_change_is_not_written_again() -> None:
    async def story(api: SmallApi) -> None:
        leader = _Leader(api)
        for _ in range(60):
            await asyncio.sleep(1)
            leader.judge(GOOD)
        assert len(api.writes("PATCH", PATH)) == 1
        await leader.stop()

    _virtually(story)


def test_counts_that_change_all_the_time_are_written_and_counted_now_and_then() -> None:
    async def story(api: SmallApi) -> None:
        leader = _Leader(api)
        for number in range(600):
            leader.tally = Tally(pods=number, acknowledged=number)
            await asyncio.sleep(0.1)
        assert 5 <= len(api.writes("PATCH", PATH)) <= 60 / 5 + 1
        assert leader.counted <= 60 / 5 + 1
        await leader.stop()

    _virtually(story)


def test_a_refusal_by_an_envoy_is_an_event_and_not_one_for_each_leader() -> None:
    async def story(api: SmallApi) -> None:
        old = _Leader(api)
        old.tally = Tally(pods=1, refused=1, refusal="web-1.team-a: no")
        await asyncio.sleep(7)
        assert sorted(map(str, _reasons(api))) == ["PolicyAccepted", "RefusedByEnvoy"]
        await old.stop()
        new = _Leader(api)
        new.tally = old.tally
        await asyncio.sleep(30)
        assert len(_reasons(api)) == 2
        await new.stop()

    _virtually(story)


def test_counts_that_change_are_no_events() -> None:
    async def story(api: SmallApi) -> None:
        leader = _Leader(api)
        for number in range(2, 100):
            leader.tally = Tally(pods=number, acknowledged=number - 1, refused=1, refusal="web-1.team-a: no")
            await asyncio.sleep(6)
        assert len(api.writes("PATCH", PATH)) > 50
        assert len(api.writes("POST", "/events")) == 2
        assert api.writes("PATCH", "/events") == []
        await leader.stop()

    _virtually(story)


def test_what_somebody_removed_comes_back() -> None:
    async def story(api: SmallApi) -> None:
        leader = _Leader(api)
        await asyncio.sleep(2)
        del api.annotations(PATH)[STATUS]
        await asyncio.sleep(310)
        assert STATUS in api.annotations(PATH)
        await leader.stop()

    _virtually(story)


def test_a_config_map_that_is_gone_is_forgotten_and_never_made() -> None:
    async def story(api: SmallApi) -> None:
        leader = _Leader(api)
        await asyncio.sleep(2)
        del api.objects[PATH]
        leader.judge(BAD)
        await asyncio.sleep(100)
        assert PATH not in api.objects
        leader.judge()
        await asyncio.sleep(5)
        asked = len(api.requests)
        await asyncio.sleep(400)
        assert len(api.requests) == asked
        assert not leader.writer._known
        assert not leader.writer._failing
        await leader.stop()

    _virtually(story)


def test_what_is_no_policy_any_more_has_no_status() -> None:
    """Somebody took its label away."""

    async def story(api: SmallApi) -> None:
        leader = _Leader(api)
        await asyncio.sleep(2)
        leader.judge()
        await asyncio.sleep(2)
        assert api.annotations(PATH) == {"note": "mine"}
        assert _labels(api) == {"egress-xds/policy": "true"}
        await leader.stop()

    _virtually(story)


def test_a_document_that_flaps_is_written_at_most_once_a_second() -> None:
    async def story(api: SmallApi) -> None:
        leader = _Leader(api)
        for number in range(600):
            leader.judge(GOOD if number % 2 else BAD)
            leader.writer.wake()
            await asyncio.sleep(0.1)
        assert 5 <= len(api.writes("PATCH", PATH)) <= 61
        assert len(_reasons(api)) == 2, "told once each, and counted"
        await leader.stop()

    _virtually(story)


def test_a_config_map_that_was_made_anew_gets_its_status() -> None:
    """Under the name of a deleted one, with another uid."""

    async def story(api: SmallApi) -> None:
        leader = _Leader(api)
        await asyncio.sleep(2)
        del api.objects[PATH]
        api._applied.clear()
        api.put(PATH)
        leader.judge(BAD)
        await asyncio.sleep(5)
        assert api.metadata(PATH)["labels"] == {ACCEPTED: "false"}
        await leader.stop()

    _virtually(story)


@pytest.mark.parametrize(
    ("error", "attempts", "level", "remedy"),
    [
        pytest.param(
            ApiError(403, "Forbidden", 'cannot get resource "configmaps"'),
            5,
            "error",
            "allow `get` of configmaps in a Role of the namespace egress-system and bind it to this service account",
            id="forbidden",
        ),
        pytest.param(ApiError(401, "Unauthorized", "no"), 12, "error", "renew them", id="credentials that ended"),
        pytest.param(ApiError(500, "InternalError", "no"), 12, "warning", None, id="a server that fails"),
        pytest.param(ApiError(429, "TooManyRequests", "no", 100.0), 4, "warning", None, id="one that asks to wait"),
        pytest.param(ApiError(None, "Unreachable", "no"), 12, "warning", None, id="a server that is away"),
    ],
)
def test_what_fails_is_tried_again_ever_more_rarely_and_logged_once(
    error: ApiError, attempts: int, level: str, remedy: str | None
) -> None:
    async def story(api: SmallApi) -> None:
        api.refuse = lambda _method, _path: error
        leader = _Leader(api)
        with capture_logs() as logs:
            await asyncio.sleep(300)
            assert 3 <= len(api.requests) <= attempts
            assert [line["status"] for line in logs] == [error.status]
            assert (logs[0]["log_level"], logs[0].get("hint")) == (level, remedy)
            assert logs[0]["resource"] == "configmaps"
            assert logs[0]["namespace"] == "egress-system"
            api.refuse = lambda _method, _path: None
            await asyncio.sleep(110)
        assert ACCEPTED in str(_labels(api))
        assert logs[-1]["event"] == "the API server takes this again"
        await leader.stop()

    _virtually(story)


def test_who_stops_to_lead_while_reading_does_not_write() -> None:
    async def story(api: SmallApi) -> None:
        api.before = lambda: 1.0
        leader = _Leader(api)
        await asyncio.sleep(0.5)
        leader.leads = False
        await asyncio.sleep(30)
        assert [method for method, _, _ in api.requests] == ["GET"]
        await leader.stop()

    _virtually(story)


def test_many_objects_are_written_with_few_requests_at_a_time() -> None:
    async def story(api: SmallApi) -> None:
        names = [f"corp-{number}" for number in range(200)]
        for name in names:
            api.put(f"/api/v1/namespaces/a/configmaps/{name}")
        running = [0, 0]

        def begin() -> float:
            running[0] += 1
            running[1] = max(running)
            return 0.1

        def end() -> float:
            running[0] -= 1
            return 0.0

        api.before, api.after = begin, end
        leader = _Leader(api)
        leader.judge(*(replace(GOOD, source=f"configmap/a/{name}/p.yaml") for name in names))
        await asyncio.sleep(60)
        assert all(STATUS in api.annotations(f"/api/v1/namespaces/a/configmaps/{name}") for name in names)
        assert running[1] == 4
        await leader.stop()

    _virtually(story)
