"""Which Kubernetes this is: asked again after a failure, and known from then on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from tests.support.virtual_time import run_virtually
from xds.kubernetes.connection import ApiError
from xds.kubernetes.version import VERSION, ClusterVersion, parse_version

if TYPE_CHECKING:
    from tests.support.virtual_time import VirtualTimeLoop

Answer = dict[str, object] | ApiError
AWAY = ApiError(None, "Unreachable", "no connection")
FORBIDDEN = ApiError(403, "Forbidden", "no")


def told(minor: str) -> dict[str, object]:
    """Return what an API server tells of itself."""
    return {"major": "1", "minor": minor, "gitVersion": f"v1.{minor}.0"}


class Api:
    """An API server that gives one answer after the other, and the last for ever."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked: list[float] = []

    async def request(self, method: str, path: str, *, timeout: float) -> dict[str, object]:  # noqa: ASYNC109  # as the real one
        assert (method, path) == ("GET", VERSION)
        assert timeout > 0
        self.asked.append(asyncio.get_running_loop().time())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, ApiError):
            raise answer
        return answer


def follow(api: Api, *seconds: float) -> list[bool | None]:
    """Return what is known after so many seconds, each time."""

    async def run(loop: VirtualTimeLoop) -> list[bool | None]:
        version = ClusterVersion(api, interval=600.0)  # type: ignore[arg-type]  # only the part that is used
        task = loop.create_task(version.run())
        found = []
        for second in seconds:
            await asyncio.sleep(second - loop.time())
            found.append(version.has_native_sidecars)
        task.cancel()
        return found

    return run_virtually(run)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(told("36"), (1, 36), id="today's"),
        pytest.param(told("29+"), (1, 29), id="as some vendors tell it"),
        pytest.param({"major": "2", "minor": "0"}, (2, 0), id="a major one"),
        pytest.param({}, None, id="nothing"),
        pytest.param({"major": "1", "minor": 29}, None, id="a number"),
        pytest.param({"major": "", "minor": "x"}, None, id="no number"),
    ],
)
def test_a_version_is_read(answer: dict[str, object], expected: tuple[int, int] | None) -> None:
    assert parse_version(answer) == expected


@pytest.mark.parametrize(("minor", "is_native"), [("28", False), ("29", True), ("36", True)])
def test_native_sidecars_are_there_from_1_29_on(minor: str, is_native: bool) -> None:
    assert follow(Api(told(minor)), 1.0) == [is_native]


def test_an_api_server_that_is_away_is_asked_again_ever_less_often() -> None:
    api = Api(AWAY)

    assert follow(api, 300.0) == [None]
    pauses = [after - before for before, after in zip(api.asked, api.asked[1:], strict=False)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (0.5, 30.0)


def test_what_was_known_stays_while_nobody_answers_and_an_upgrade_is_seen() -> None:
    api = Api(told("28"), AWAY, FORBIDDEN, {}, told("30"))

    assert follow(api, 1.0, 601.0, 1201.0, 5000.0) == [False, False, False, True]


@pytest.mark.parametrize("answer", [FORBIDDEN, {}], ids=["forbidden", "told nothing"])
def test_who_does_not_tell_is_taken_to_be_current_and_that_is_said(answer: Answer) -> None:
    with capture_logs() as logs:
        assert follow(Api(answer), 1.0, 2000.0) == [True, True]

    assert [entry["event"] for entry in logs] == [
        "the API server does not tell its version; it is taken to be 1.29 or newer"
    ]
