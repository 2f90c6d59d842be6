"""One replica leads, whatever becomes of clocks, requests and replicas; all in virtual time."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.small_api import SmallApi
from tests.support.virtual_time import VirtualTimeLoop, run_virtually
from xds.kubernetes.asking import Environs, micro_time
from xds.kubernetes.connection import ApiError
from xds.kubernetes.lease import Durations, LeaderLease, Record, leases_path, read_record

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

DATA = Path(__file__).parents[2] / "data" / "kubernetes-1.36"
NAMESPACE, NAME = "egress-system", "egress-xds"
PATH = f"{leases_path(NAMESPACE)}/{NAME}"
AWAY = ApiError(None, "Unreachable", "no connection")


def _candidate(
    api: SmallApi, identity: str, loop: VirtualTimeLoop, speed: float = 1.0, chance: Callable[[], float] = lambda: 0.5
) -> LeaderLease:
    """A replica whose clock runs `speed` times as fast as the world's, from a start of its own."""
    environs = Environs(
        monotonic=lambda: 1000.0 * len(identity) + loop.time() * speed,
        wall=lambda: 86_400.0 * speed + loop.time(),
        sleep=lambda seconds: asyncio.sleep(seconds / speed),
        chance=chance,
    )
    return LeaderLease(api, namespace=NAMESPACE, name=NAME, identity=identity, environs=environs)


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


async def _kill(task: asyncio.Task[None], api: SmallApi) -> None:
    """Stop a replica that gets no word out any more."""
    refuse, api.refuse = api.refuse, lambda _method, _path: AWAY
    await _stop(task)
    api.refuse = refuse


async def _until(condition: Callable[[], bool], within: float) -> float:
    """Wait for `condition` and return the seconds that it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not condition():
        assert loop.time() - began < within
        await asyncio.sleep(0.01)
    return loop.time() - began


def _virtually(story: Callable[[SmallApi, VirtualTimeLoop], Coroutine[object, object, None]]) -> None:
    run_virtually(lambda loop: story(SmallApi(), loop))


def test_a_lease_is_created_as_a_real_server_takes_it() -> None:
    recorded = json.loads((DATA / "lease-created.json").read_text())["request"]

    async def story(api: SmallApi, loop: VirtualTimeLoop) -> None:
        lease = _candidate(api, "egress-xds-0", loop)
        task = asyncio.create_task(lease.run())
        await _until(lambda: lease.is_leader, 1)
        (body,) = api.writes("POST", leases_path(NAMESPACE))
        await _stop(task)
        assert isinstance(body, dict)
        assert recorded["path"] == leases_path(NAMESPACE)
        assert body["metadata"] == recorded["body"]["metadata"]
        moments = ("acquireTime", "renewTime")
        assert {key: value for key, value in body["spec"].items() if key not in moments} == {
            key: value for key, value in recorded["body"]["spec"].items() if key not in moments
        }
        assert all(len(body["spec"][key]) == len(recorded["body"]["spec"][key]) for key in moments)

    _virtually(story)


def test_a_moment_has_six_digits_even_when_they_are_noughts() -> None:
    assert micro_time(0.0) == "1970-01-01T00:00:00.000000Z"


def test_of_several_candidates_one_leads_and_renews() -> None:
    async def story(api: SmallApi, loop: VirtualTimeLoop) -> None:
        candidates = [_candidate(api, f"replica-{number}", loop) for number in range(3)]
        tasks = [asyncio.create_task(candidate.run()) for candidate in candidates]
        await _until(lambda: any(candidate.is_leader for candidate in candidates), 1)
        first = [candidate.is_leader for candidate in candidates]
        for _ in range(600):
            await asyncio.sleep(0.1)
            assert [candidate.is_leader for candidate in candidates] == first
        assert first.count(True) == 1
        assert len(api.writes("PUT", NAME)) > 20
        for task in tasks:
            await _stop(task)

    _virtually(story)


def test_a_leader_that_goes_hands_the_lead_over() -> None:
    async def story(api: SmallApi, loop: VirtualTimeLoop) -> None:
        old, new = _candidate(api, "old", loop), _candidate(api, "young", loop)
        task = asyncio.create_task(old.run())
        await _until(lambda: old.is_leader, 1)
        other = asyncio.create_task(new.run())
        await asyncio.sleep(5)
        await _stop(task)
        assert not old.is_leader
        assert read_record(api.objects[PATH], Durations()).holder == ""
        assert await _until(lambda: new.is_leader, 3) <= Durations().retry
        assert read_record(api.objects[PATH], Durations()).transitions == 1
        await _stop(other)

    _virtually(story)


def test_a_leader_that_is_killed_is_succeeded_within_the_lease_and_one_retry() -> None:
    async def story(api: SmallApi, loop: VirtualTimeLoop) -> None:
        old, new = _candidate(api, "old", loop), _candidate(api, "young", loop)
        task = asyncio.create_task(old.run())
        await _until(lambda: old.is_leader, 1)
        other = asyncio.create_task(new.run())
        await asyncio.sleep(30)
        await _kill(task, api)
        took = await _until(lambda: new.is_leader, 20)
        assert took <= Durations().lease + Durations().retry
        assert took > Durations().renew_deadline
        await _stop(other)

    _virtually(story)


def test_a_leader_that_can_not_renew_stops_before_another_starts() -> None:
    """Requests of the old leader hang until they time out; those of the other are answered."""

    async def story(api: SmallApi, loop: VirtualTimeLoop) -> None:
        far = SmallApi()
        far.objects = api.objects
        far._versions = api._versions = 500
        old, new = _candidate(far, "old", loop), _candidate(api, "young", loop)
        tasks = [asyncio.create_task(old.run())]
        await _until(lambda: old.is_leader, 1)
        tasks.append(asyncio.create_task(new.run()))
        await asyncio.sleep(3)
        far.before = lambda: 60.0
        stopped = await _until(lambda: not old.is_leader, 11)
        started = await _until(lambda: new.is_leader, 20)
        assert stopped <= Durations().renew_deadline
        assert started > Durations().lease - Durations().renew_deadline - Durations().retry
        for task in tasks:
            await _stop(task)

    _virtually(story)


def test_one_renewal_that_hangs_does_not_cost_the_lead() -> None:
    async def story(api: SmallApi, loop: VirtualTimeLoop) -> None:
        lease = _candidate(api, "old", loop)
        task = asyncio.create_task(lease.run())
        await _until(lambda: lease.is_leader, 1)
        for _ in range(10):
            waits = iter([60.0])
            api.after = lambda waits=waits: next(waits, 0.0)  # type: ignore[misc]  # a default binds it now
            for _ in range(200):
                await asyncio.sleep(0.1)
                assert lease.is_leader
        await _stop(task)

    _virtually(story)


def test_a_lead_survives_what_others_write_on_the_lease() -> None:
    """An annotation that somebody sets is a conflict for the next renewal, and no reason to stop."""

    async def story(api: SmallApi, loop: VirtualTimeLoop) -> None:
        lease = _candidate(api, "old", loop)
        task = asyncio.create_task(lease.run())
        await _until(lambda: lease.is_leader, 1)
        patch = {"metadata": {"annotations": {"note": "hands off"}}}
        await api.request("PATCH", PATH, body=patch, content_type="application/merge-patch+json")
        for _ in range(300):
            await asyncio.sleep(0.1)
            assert lease.is_leader
        assert api.annotations(PATH) == {"note": "hands off"}
        await _stop(task)

    _virtually(story)


def test_a_leader_that_reads_of_another_stops_at_once() -> None:
    async def story(api: SmallApi, loop: VirtualTimeLoop) -> None:
        lease = _candidate(api, "old", loop)
        task = asyncio.create_task(lease.run())
        await _until(lambda: lease.is_leader, 1)
        patch = {"spec": {"holderIdentity": "usurper"}}
        await api.request("PATCH", PATH, body=patch, content_type="application/merge-patch+json")
        assert await _until(lambda: not lease.is_leader, 3) <= Durations().retry + 0.1
        await _stop(task)
        assert read_record(api.objects[PATH], Durations()).holder == "usurper"

    _virtually(story)


def test_a_deleted_lease_is_made_again_by_its_leader_and_by_nobody_who_knew_it() -> None:
    async def story(api: SmallApi, loop: VirtualTimeLoop) -> None:
        old, new = _candidate(api, "old", loop), _candidate(api, "young", loop)
        tasks = [asyncio.create_task(old.run())]
        await _until(lambda: old.is_leader, 1)
        tasks.append(asyncio.create_task(new.run()))
        await asyncio.sleep(5)
        await api.request("DELETE", PATH)
        for _ in range(200):
            await asyncio.sleep(0.1)
            assert old.is_leader
            assert not new.is_leader
        assert PATH in api.objects
        for task in tasks:
            await _stop(task)

    _virtually(story)


@pytest.mark.parametrize(
    "refusal",
    [
        pytest.param(ApiError(403, "Forbidden", "no"), id="that forbids it"),
        pytest.param(ApiError(500, "InternalError", "no"), id="that fails"),
        pytest.param(AWAY, id="that is away"),
    ],
)
def test_a_server_makes_nobody_lead(refusal: ApiError, caplog: pytest.LogCaptureFixture) -> None:
    async def story(api: SmallApi, loop: VirtualTimeLoop) -> None:
        api.refuse = lambda _method, _path: refusal
        lease = _candidate(api, "old", loop)
        task = asyncio.create_task(lease.run())
        for _ in range(300):
            await asyncio.sleep(0.1)
            assert not lease.is_leader
        api.refuse = lambda _method, _path: None
        await _until(lambda: lease.is_leader, 3)
        await _stop(task)

    del caplog
    _virtually(story)


@pytest.mark.parametrize(
    ("lease", "record"),
    [
        pytest.param({}, Record(holder="", duration=15.0, acquired="", renewed="", transitions=0), id="nothing"),
        pytest.param(
            {"spec": None}, Record(holder="", duration=15.0, acquired="", renewed="", transitions=0), id="null"
        ),
        pytest.param(
            {"spec": {"holderIdentity": 5, "leaseDurationSeconds": -3, "leaseTransitions": "x", "renewTime": "soon"}},
            Record(holder="", duration=15.0, acquired="", renewed="soon", transitions=0),
            id="odd types",
        ),
        pytest.param(
            {"spec": {"holderIdentity": "a", "leaseDurationSeconds": 10**9}},
            Record(holder="a", duration=3600, acquired="", renewed="", transitions=0),
            id="a lease for decades is not waited for",
        ),
    ],
)
def test_a_lease_is_read_whatever_is_in_it(lease: dict[str, object], record: Record) -> None:
    assert read_record(lease, Durations()) == record


SPEEDS = st.floats(0.85, 1.2)
TROUBLE = st.sampled_from(["none", "slow", "lost answer", "away", "kill", "stop", "start"])


@settings(max_examples=30, deadline=None)
@given(
    speeds=st.tuples(SPEEDS, SPEEDS, SPEEDS),
    troubles=st.lists(st.tuples(st.integers(0, 2), TROUBLE, st.floats(0.0, 25.0)), max_size=12),
    seed=st.integers(0, 2**32),
)
def test_there_are_never_two_leaders_and_never_none_for_long(
    speeds: tuple[float, float, float], troubles: list[tuple[int, str, float]], seed: int
) -> None:
    chance = Random(seed).random  # noqa: S311  # a spread, no secret

    async def story(api: SmallApi, loop: VirtualTimeLoop) -> None:
        world = _World(api, loop, speeds, chance)
        watch = asyncio.create_task(world.watch())
        for number in range(3):
            world.start(number)
        for number, trouble, seconds in troubles:
            await world.trouble(number, trouble)
            await asyncio.sleep(seconds)
        for number in range(3):
            await world.trouble(number, "none")
            world.start(number)
        # Every clock is at least 0.85 of the world's; a request takes at most 5 s of its own time, then one retry.
        await _until(lambda: world.leaders() == 1, (15 + 2 + 5) / 0.85)
        await asyncio.sleep(0.1)
        for number in range(3):
            await world.trouble(number, "stop")
        await _stop(watch)
        assert world.most == 1

    _virtually(story)


class _World:
    """Three replicas with a line each to one API server, and the most that ever led at one moment."""

    def __init__(
        self, api: SmallApi, loop: VirtualTimeLoop, speeds: tuple[float, float, float], chance: Callable[[], float]
    ) -> None:
        self.most = 0
        self._lines = [_Line(api) for _ in speeds]
        self._make = [
            lambda number=number, speed=speed: _candidate(
                self._lines[number], f"replica-{'x' * number}", loop, speed, chance
            )
            for number, speed in enumerate(speeds)
        ]
        self._alive: dict[int, tuple[LeaderLease, asyncio.Task[None]]] = {}

    def start(self, number: int) -> None:
        if number not in self._alive:
            lease = self._make[number]()
            self._alive[number] = (lease, asyncio.create_task(lease.run()))

    def leaders(self) -> int:
        return sum(lease.is_leader for lease, _ in self._alive.values())

    async def watch(self) -> None:
        while True:
            self.most = max(self.most, self.leaders())
            await asyncio.sleep(0.05)

    async def trouble(self, number: int, kind: str) -> None:
        line = self._lines[number]
        if kind == "start":
            self.start(number)
        elif kind in {"kill", "stop"} and number in self._alive:
            _, task = self._alive.pop(number)
            line.kind = "away" if kind == "kill" else line.kind
            await _stop(task)
        else:
            line.kind = kind


class _Line(SmallApi):
    """The way of one replica to the shared server."""

    def __init__(self, server: SmallApi) -> None:
        super().__init__()
        self.objects = server.objects
        self.kind = "none"
        self._server = server
        self.before = lambda: 4.0 if self.kind == "slow" else 0.02
        self.after = lambda: 60.0 if self.kind == "lost answer" else 0.02
        self.refuse = lambda _method, _path: AWAY if self.kind == "away" else None

    def _keep(self, path: str, found: dict[str, object]) -> dict[str, object]:
        return self._server._keep(path, found)
