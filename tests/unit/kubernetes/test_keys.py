"""The cluster's keys: fetched, kept while the API server is away, and looked for again, but not by all at once."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from xds.kubernetes.connection import ApiError
from xds.kubernetes.keys import CONFIGURATION, KEY_SET, ClusterKeys
from xds.server.tokens import TokenVerifier

if TYPE_CHECKING:
    from collections.abc import Iterator

RECORDED = Path("tests/data/kubernetes-1.36")
ISSUER = "https://kubernetes.default.svc.cluster.local"
AWAY = ApiError(None, "Unreachable", "no connection")


def recorded(name: str) -> dict[str, object]:
    body = json.loads((RECORDED / f"{name}.json").read_text())["body"]
    assert isinstance(body, dict)
    return body


class Api:
    """An API server that tells its keys, or fails; it takes a moment for each answer."""

    def __init__(self) -> None:
        self.answers: dict[str, dict[str, object] | ApiError] = {
            CONFIGURATION: recorded("openid-configuration"),
            KEY_SET: recorded("jwks"),
        }
        self.requests: list[str] = []
        self.accepted: dict[str, str] = {}

    async def request(self, method: str, path: str, *, timeout: float, accept: str = "") -> dict[str, object]:  # noqa: ASYNC109  # as the real one
        assert method == "GET"
        assert timeout > 0
        self.requests.append(path)
        self.accepted[path] = accept
        await asyncio.sleep(0.001)
        answer = self.answers[path]
        if isinstance(answer, ApiError):
            raise answer
        return answer

    def fail(self, error: ApiError) -> None:
        self.answers = dict.fromkeys(self.answers, error)

    @property
    def looks(self) -> int:
        return self.requests.count(CONFIGURATION)


def build(api: Api, *, interval: float = 3600.0, pause: float = 0.0) -> ClusterKeys:
    return ClusterKeys(api, interval=interval, pause=pause)  # type: ignore[arg-type]  # only the part that is used


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[dict[str, object]]]:
    with capture_logs() as lines:
        yield lines  # type: ignore[misc]  # structlog's own mapping


async def test_the_recorded_keys_of_a_real_server_are_usable_and_name_their_issuer() -> None:
    api = Api()
    keys = build(api)
    await keys.renew()
    assert keys.keys is not None
    key_set, issuer = keys.keys

    assert issuer == ISSUER
    assert TokenVerifier(["egress-xds"]).replace_keys(key_set) == 0
    # The server offers its keys as this alone, and answers 406 to whoever takes JSON only.
    assert "application/jwk-set+json" in api.accepted[KEY_SET]


ANSWERS = {
    "no answer": (AWAY, AWAY),
    "forbidden": (ApiError(403, "Forbidden", "no"), AWAY),
    "no keys": (recorded("openid-configuration"), {"keys": []}),
    "keys of another shape": (recorded("openid-configuration"), {"keys": {}}),
    "no issuer": ({"issuer": ""}, recorded("jwks")),
    "keys, but no issuer": (ApiError(404, "NotFound", "no"), recorded("jwks")),
}


@pytest.mark.parametrize(("configuration", "key_set"), ANSWERS.values(), ids=ANSWERS)
async def test_an_answer_that_tells_no_keys_leaves_those_before(
    configuration: dict[str, object] | ApiError, key_set: dict[str, object] | ApiError
) -> None:
    api = Api()
    keys = build(api)
    await keys.renew()
    before = keys.keys
    api.answers = {CONFIGURATION: configuration, KEY_SET: key_set}
    await keys.renew()

    assert before is not None
    assert keys.keys is before
    assert keys.problem


async def test_a_problem_is_told_once_and_ends(logs: list[dict[str, object]]) -> None:
    api = Api()
    keys = build(api)
    api.fail(AWAY)
    await keys.renew()
    await keys.renew()
    told = [line["reason"] for line in logs]
    api.answers = Api().answers
    await keys.renew()

    assert told == ["no connection"]
    assert keys.problem is None
    assert keys.keys is not None


async def test_many_who_ask_at_once_ask_once() -> None:
    api = Api()
    keys = build(api, pause=60.0)
    await asyncio.gather(*(keys.renew() for _ in range(100)))
    await keys.renew()

    assert api.looks == 1


async def test_those_who_waited_for_a_failure_do_not_each_try_again() -> None:
    api = Api()
    api.fail(AWAY)
    keys = build(api, pause=60.0)
    await asyncio.gather(*(keys.renew() for _ in range(100)))

    assert api.looks == 1


async def test_keys_are_looked_for_at_the_start_and_again_in_time() -> None:
    api = Api()
    keys = build(api, interval=0.001)
    task = asyncio.create_task(keys.run())
    try:
        async with asyncio.timeout(10):
            while api.looks < 3:  # noqa: ASYNC110  # the server that counts has no event
                await asyncio.sleep(0.001)
    finally:
        task.cancel()
        await asyncio.wait([task])

    assert keys.keys is not None


async def test_a_server_that_is_away_at_the_start_is_asked_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xds.kubernetes.keys._FIRST_RETRY", 0.001)
    api = Api()
    api.fail(AWAY)
    keys = build(api)
    task = asyncio.create_task(keys.run())
    try:
        async with asyncio.timeout(10):
            while api.looks < 2:  # noqa: ASYNC110  # as above
                await asyncio.sleep(0.001)
            api.answers = Api().answers
            while keys.keys is None:  # noqa: ASYNC110  # as above
                await asyncio.sleep(0.001)
    finally:
        task.cancel()
        await asyncio.wait([task])

    assert keys.problem is None
